"""Minibatches: which rows are in which, and what their chunks add up to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Totals(NamedTuple):
    """Sizes of one minibatch, to which its chunks' means are weighed."""

    tokens: Array  # [] int32, tokens that carry policy loss
    turns: Array  # [] int32
    starts: Array  # [] int32, turns that start a segment


GAP = "sampler/log_prob_diff_mean"
SUMMED = (
    "loss/policy",
    "loss/kl",
    "loss/value_high",
    "loss/value_low",
    "loss/value_switch",
    "policy/entropy",
    "policy/clip_fraction",
    "policy/approx_kl",
    "policy/dual_clip_fraction",
    GAP,
)
WORST = "sampler/log_prob_diff_max"
ONCE = ("grad/actor", "grad/critic", WORST)


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
