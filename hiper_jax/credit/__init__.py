"""ARRAYS -> CREDIT: shaping, estimating and standardising, one trajectory at a time."""

from hiper_jax.credit.common.arrays import boundaries, segment_starts
from hiper_jax.credit.common.masks import credit_masks, to_rows, token_advantage
from hiper_jax.credit.common.shaping import shape_rewards, subgoal_changed
from hiper_jax.credit.common.standardize import standardize
from hiper_jax.credit.estimator import Credit, Estimator, read_nothing
from hiper_jax.credit.gae import gae
from hiper_jax.credit.hae import HAE, hae

__all__ = [
    "boundaries",
    "segment_starts",
    "credit_masks",
    "to_rows",
    "token_advantage",
    "shape_rewards",
    "subgoal_changed",
    "standardize",
    "Credit",
    "Estimator",
    "read_nothing",
    "gae",
    "HAE",
    "hae",
]
