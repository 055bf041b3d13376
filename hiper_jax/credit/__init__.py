"""Arrays to advantages: one trajectory at a time, no model, no text, no batch axis."""

from hiper_jax.credit.common.masks import carrying, place_returns, read_values
from hiper_jax.credit.common.shaping import shape_rewards, subgoal_changed
from hiper_jax.credit.common.standardize import standardize
from hiper_jax.credit.gae import gae
from hiper_jax.credit.hae import HAE, boundaries, hae, switch_gap

__all__ = [
    "HAE",
    "boundaries",
    "carrying",
    "gae",
    "hae",
    "place_returns",
    "read_values",
    "shape_rewards",
    "standardize",
    "subgoal_changed",
    "switch_gap",
]
