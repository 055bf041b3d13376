"""Hierarchical reinforcement learning for language-model agents, in JAX.

The dimension key, used in every shape of the library:

    B  trajectories          N  rows: the real turns of a batch, laid flat
    T  turns                 L  tokens of a row: prompt and response
    S  slots being sampled   R  response tokens
    D  width of the model    V  vocabulary

The names below stand in the order in which data flows through them.
"""

from hiper_jax.act.episode import Episode, Turn
from hiper_jax.act.format import Reply, read_response
from hiper_jax.act.prompt import build_prompt
from hiper_jax.act.spans import TokenMasks, token_masks
from hiper_jax.act.stack import Batch, stack
from hiper_jax.credit import (
    HAE,
    boundaries,
    carrying,
    gae,
    hae,
    shape_rewards,
    subgoal_changed,
    switch_gap,
)
from hiper_jax.credit.common import standardize
from hiper_jax.credit.hiper import Settings
from hiper_jax.loss import kl_loss, policy_loss, token_advantage, value_loss
from hiper_jax.update.step import TrainState, make_update

__all__ = [
    "Episode",
    "Turn",
    "build_prompt",
    "Reply",
    "read_response",
    "TokenMasks",
    "token_masks",
    "Batch",
    "stack",
    "subgoal_changed",
    "shape_rewards",
    "boundaries",
    "HAE",
    "hae",
    "gae",
    "switch_gap",
    "carrying",
    "standardize",
    "token_advantage",
    "policy_loss",
    "value_loss",
    "kl_loss",
    "Settings",
    "TrainState",
    "make_update",
]
