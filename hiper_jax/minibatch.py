"""Which rows are in which minibatch: every turn once per epoch, in random order."""

import jax
import jax.numpy as jnp
from jax import Array


def shuffled(key: Array, trained: Array) -> Array:
    """[N] rows in random order, those that are no turn at the end."""
    draw = jax.random.uniform(key, trained.shape)
    return jnp.argsort(jnp.where(trained, draw, 2.0))


def minibatch(ranks: Array, i: Array, count: Array, turns: Array, M: int):
    """Rows of minibatch i of `count`, which differ in size by one at most.

    Returns:
      [M] rows and [M] bool, which of them are real.
    """
    rank = i + jnp.arange(M) * count
    used = rank < turns
    return ranks[jnp.where(used, rank, 0)], used
