"""What the methods on a graph of observations read off a batch."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.credit.common.arrays import run_ends
from hiper_jax.credit.common.groups import (
    at_least_float32,
    counted_turns,
    of_turns,
    relative,
    turn_scores,
    whole_batch,
)
from hiper_jax.credit.common.terms import Penalties


class GraphTurns:
    """The arrays of a batch, checked, and what every graph method reads off them."""

    def __init__(self, function, reward, valid, group, anchor, success, penalty):
        group, reward, valid, anchor, penalty = whole_batch(
            function, group, reward=reward, valid=valid, anchor=anchor, penalty=penalty
        )
        success = jnp.asarray(success)
        if success.shape != group.shape:
            raise ValueError(
                f"{function} needs `success` of shape [B] = [{group.shape[0]}], "
                f"but its shape is {success.shape}."
            )
        self.dtype = jnp.result_type(reward, 0.0)
        kind = at_least_float32(reward)
        self.valid = valid.astype(bool)
        self.reward = jnp.where(self.valid, reward, 0).astype(kind)
        self.penalty = jnp.zeros_like(self.reward)
        if penalty is not None:
            self.penalty = jnp.where(self.valid, penalty, 0).astype(kind)
        self.task = of_turns(group, self.valid)  # [B, T] int, −1 on padding
        self.node = jnp.where(self.valid, anchor, -1)  # [B, T] int, −1 on padding
        _, self.last = jax.vmap(run_ends)(self.valid)  # [B, T] bool
        self.won = success[:, None].astype(kind)  # [B, 1]
        # K_b − t, 1 at the last turn.
        later = jnp.flip(jnp.cumsum(jnp.flip(self.valid, 1), axis=1), 1)
        self.to_end = later.astype(kind)  # [B, T]

    def episode(self, over: str, std: bool, epsilon: float) -> Array:
        """[B, T] the score among siblings."""
        score = turn_scores(self.reward, self.valid, self.penalty)
        counted = counted_turns(self.valid, over)
        return relative(score, self.task, counted, std=std, epsilon=epsilon)


@dataclasses.dataclass(frozen=True)
class OnGraph(Penalties):
    """What the settings of these methods share."""

    over: Literal["turns", "trajectories"] = "turns"
    """What the task's statistics are taken over, see GRPO."""
