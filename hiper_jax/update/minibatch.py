"""Minibatches: which rows are in which, and what their chunks' means are weighed by."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Totals(NamedTuple):
    """Sizes of one minibatch, to which its chunks' means are weighed."""

    tokens: Array  # [] int32, tokens that carry policy loss
    turns: Array  # [] int32
    carrying: Array  # [] int32, turns of which some token does
    reads: Array  # [H] int32, rows that train each value head


def shuffled(key: Array, is_turn: Array) -> Array:
    """[N] rows in random order, those that are no turn at the end."""
    draw = jax.random.uniform(key, is_turn.shape)
    return jnp.argsort(jnp.where(is_turn, draw, 2.0))


def minibatch(ranks: Array, i: Array, count: Array, turns: Array, M: int):
    """Rows of minibatch i of `count`, which differ in size by one at most.

    Args:
      ranks: [N] rows in random order, turns first.
      i: [] int32, which minibatch.
      count: [] int32, how many there are.
      turns: [] int32, how many rows are turns.
      M: rows of the largest.

    Returns:
      [M] rows and [M] bool, which of them are real.
    """
    rank = i + jnp.arange(M) * count
    used = rank < turns
    return ranks[jnp.where(used, rank, 0)], used
