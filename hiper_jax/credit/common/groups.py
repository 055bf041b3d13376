"""Siblings: statistics over the turns of one task, of one anchor, of one pair.

Ids are dense integers below the number of turns, so that every sum over a group is a
`segment_sum` of static size. An id below zero belongs to no group: it is dropped,
never wrapped.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array


class Statistics(NamedTuple):
    """Of the group of each entry; 0 where an entry has none."""

    count: Array  # [...] how many of the group are counted
    mean: Array  # [...]
    deviation: Array  # [...] standard deviation


def whole_batch(function: str, group: Array, **turns: Array | None) -> tuple[Any, ...]:
    """Returns the arrays as jax arrays once all fit; None passes through.

    Args:
      function: the caller's name, for the message.
      group: [B] ids.
      **turns: [B, T] each, or None for an argument that was left out.

    Raises:
      ValueError: an array has another shape, or there is no turn.
    """
    group = jnp.asarray(group)
    given = {k: jnp.asarray(v) for k, v in turns.items() if v is not None}
    shapes = {name: array.shape for name, array in given.items()}
    first = next(iter(shapes.values()))
    if len(first) != 2 or len(set(shapes.values())) > 1:
        raise ValueError(
            f"{function} takes a whole batch, arrays of one shape [B, T], "
            f"but got {shapes}."
        )
    if 0 in first:
        raise ValueError(f"{function} needs a turn, but [B, T] is {list(first)}.")
    if group.shape != first[:1]:
        raise ValueError(
            f"{function} needs `group` of shape [B] = [{first[0]}], "
            f"but its shape is {group.shape}."
        )
    return group, *(given.get(name) for name in turns)


def at_least_float32(*arrays: Array) -> Any:
    """The type to accumulate in: that of the arrays, but no less than float32."""
    return jnp.promote_types(jnp.result_type(*arrays, 0.0), jnp.float32)


def turn_scores(reward: Array, valid: Array, penalty: Array | None = None) -> Array:
    """What the group methods compare: the episode's return, less own penalties.

        score[b, t] = Σₖ reward[b, k] − penalty[b, t]

    As in the published code a turn's penalties lower its own score only, before any
    mean is taken; rewards recorded after a termination count.

    Args:
      reward: [B, T] environment rewards.
      valid: [B, T] true on real turns.
      penalty: [B, T] 0 or more, of each turn; None for none.

    Returns:
      [B, T], zero on padding.
    """
    total = jnp.where(valid, reward, 0).sum(axis=1, keepdims=True)
    total = jnp.broadcast_to(total, reward.shape)
    if penalty is not None:
        total = total - jnp.asarray(penalty, total.dtype)
    return jnp.where(valid, total, 0)


def group_sum(x: Array, ids: Array, counted: Array) -> Array:
    """[n] sums by id of n entries, over what is counted and has an id."""
    chex.assert_equal_shape([x, ids, counted])
    slot = jnp.where(counted & (ids >= 0), ids, x.size).reshape(-1)
    value = jnp.where(counted, x, 0).reshape(-1)
    # One slot more takes what belongs nowhere.
    return jax.ops.segment_sum(value, slot, x.size + 1)[: x.size]


def look_up(table: Array, ids: Array) -> Array:
    """[...] the table's entry of each id; 0 below zero."""
    return jnp.where(ids >= 0, table[jnp.maximum(ids, 0)], 0)


def statistics(
    x: Array, ids: Array, counted: Array, *, population: bool = False
) -> Statistics:
    """Count, mean and standard deviation of the group of every entry.

        σ² = Σ (x − μ)² / (n − 1)        n with `population`; 0 for a group of one

    Args:
      x: [...] at most as many groups as entries.
      ids: [...] int.
      counted: [...] what the statistics are taken over.
      population: divide by n.
    """
    count = group_sum(jnp.ones_like(x), ids, counted)
    members = jnp.maximum(count, 1)

    def mean(value: Array) -> Array:
        return group_sum(value, ids, counted) / members

    average = mean(x)
    # Twice: the first mean's rounding would else be divided by a deviation of 0.
    average = average + mean(x - look_up(average, ids))
    squares = group_sum((x - look_up(average, ids)) ** 2, ids, counted)
    freedom = members if population else jnp.maximum(count - 1, 1)
    deviation = jnp.sqrt(squares / freedom)
    return Statistics(*(look_up(t, ids) for t in (count, average, deviation)))


def relative(
    x: Array,
    ids: Array,
    counted: Array,
    *,
    std: bool = True,
    population: bool = False,
    lone: str = "itself",
    epsilon: float = 1e-6,
) -> Array:
    """Each entry against its group: x − μ, divided by σ + ε with `std`.

    What differs from μ by rounding only is exactly 0.

    Args:
      x: [...].
      ids: [...] int.
      counted: [...] what μ and σ are taken over.
      std: divide.
      population: see `statistics`.
      lone: what a group of one gives: "itself" (μ = 0, σ = 1, as published for
        episodes) or "nothing" (0, as published for anchors).
      epsilon: ε.

    Returns:
      [...], also for entries that are not counted; 0 where the id is below zero.
    """
    count, mean, deviation = statistics(x, ids, counted, population=population)
    # Rounding, which depends on the order of a sum, must not be divided by ε.
    rounding = 8 * jnp.finfo(x.dtype).eps * (jnp.abs(mean) + deviation)
    if lone == "itself":
        alone = count == 1
        mean, deviation = jnp.where(alone, 0, mean), jnp.where(alone, 1, deviation)
    elif lone != "nothing":
        raise ValueError(f'lone must be "itself" or "nothing", but it is {lone!r}.')
    centred = x - mean
    centred = jnp.where(jnp.abs(centred) > rounding, centred, 0)
    scaled = centred / (deviation + epsilon) if std else centred
    keep = (ids >= 0) & ((count > 1) | (lone == "itself"))
    return jnp.where(keep, scaled, 0)


def counted_turns(valid: Array, over: str) -> Array:
    """[B, T] the turns that an episode statistic is taken over.

    Args:
      valid: [B, T] true on real turns, one run of them per trajectory.
      over: "turns" (published: long trajectories weigh more) or "trajectories": the
        first turn of each.

    Raises:
      ValueError: another word.
    """
    if over == "turns":
        return valid
    if over == "trajectories":
        before = jnp.roll(valid, 1, axis=1).at[:, 0].set(False)
        return valid & ~before
    raise ValueError(f'over must be "turns" or "trajectories", but it is {over!r}.')


def of_turns(group: Array, valid: Array) -> Array:
    """[B, T] the group of each real turn, −1 on padding."""
    return jnp.where(valid, group[:, None], -1)


def pair_ids(first: Array, second: Array, mask: Array) -> tuple[Array, Array]:
    """Numbers pairs: equal ids for equal (first, second).

    Args:
      first: [...] int, 0 or more where the mask is true.
      second: [...] int.
      mask: [...] which pairs there are.

    Returns:
      ([...] int32 ids below the number of entries, −1 off the mask; [...] bool, true
      at one entry of each pair).
    """
    chex.assert_equal_shape([first, second, mask])
    a = jnp.where(mask, first, jnp.iinfo(jnp.int32).max).reshape(-1)
    b = jnp.where(mask, second, 0).reshape(-1)
    order = jnp.lexsort((b, a))
    a, b = a[order], b[order]
    new = (a != jnp.roll(a, 1)) | (b != jnp.roll(b, 1))
    new = new.at[0].set(True)
    rank = jnp.cumsum(new.astype(jnp.int32)) - 1
    ids = jnp.zeros_like(rank).at[order].set(rank).reshape(mask.shape)
    opens = jnp.zeros_like(new).at[order].set(new).reshape(mask.shape)
    return jnp.where(mask, ids, -1), opens & mask


def returns_to_go(reward: Array, valid: Array, *, gamma: float) -> Array:
    """[B, T] Σₖ γᵏ reward[t + k] over the record, a termination inside it or not."""

    def step(after: Array, now: Array) -> tuple[Array, Array]:
        total = now + gamma * after
        return total, total

    reward = jnp.where(valid, reward, 0)
    start = jnp.zeros(reward.shape[0], reward.dtype)
    _, total = jax.lax.scan(step, start, reward.T, reverse=True)
    return jnp.where(valid, total.T, 0)


def played(valid: Array) -> tuple[Array, Array]:
    """[B] which trajectories have a turn, and [] how many, at least 1.

    Those without one stand for episodes that were dropped.
    """
    there = valid.any(axis=1)
    return there, jnp.maximum(jnp.sum(there), 1)


def flat_groups(reward: Array, valid: Array, group: Array) -> Array:
    """[B] whether all siblings of a trajectory have its return.

    What a group method learns nothing from; DAPO draws such tasks again.

    Args:
      reward: [B, T] environment rewards.
      valid: [B, T] true on real turns.
      group: [B] ids.
    """
    total = turn_scores(reward, valid)[:, 0]
    return statistics(total, group, jnp.ones_like(group, bool)).deviation == 0
