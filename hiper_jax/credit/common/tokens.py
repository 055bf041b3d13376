"""Credit of turns -> credit of the tokens of their responses."""

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from hiper_jax.accept import check_fields
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.arrays import segment_starts
from hiper_jax.credit.common.masks import credit_masks, to_rows, token_advantage
from hiper_jax.credit.common.standardize import (
    deviation,
    standardize,
    standardize_together,
)


@dataclasses.dataclass(frozen=True)
class Carriers:
    """Which blocks carry which of three advantages, and on what scale."""

    normalize: bool = True
    """Standardise each of the three advantages over the turns that carry it."""
    common_scale: bool = False
    """Ours: divide the three by one common deviation; the ratio of their gradients is
    then not set by how good each critic is."""
    high_on_switch: bool = False
    """A_high also on the switch block of turns that start a segment."""
    switch_on_kept: bool = False
    """Ours: A_switch also on the subgoal block of turns that keep."""
    switch_on_loose: bool = False
    """Ours: A_switch, not A_low, on tokens of the action's credit that stand ahead of
    where V_low is read."""

    def __post_init__(self):
        check_fields(self)


class OnBlocks(NamedTuple):
    """Three advantages on the blocks of responses."""

    advantage: Array  # [N, R] float32, of each response token
    mask: Array  # [N, R] bool, tokens that carry one
    turns: tuple[Array, Array, Array]  # [B, T] each (low, high, switch), as they count
    sigmas: dict[str, Array]  # [] each: deviations before any scaling


def on_responses(batch: Batch, turn: Array) -> tuple[Array, Array]:
    """One advantage per turn, on all tokens of its response.

    Args:
      batch: B trajectories of T turns, N rows.
      turn: [B, T] advantages, or [B, T, R], one per token.

    Returns:
      [N, R] advantages, and [N, R] bool, the tokens that carry one.
    """
    N = batch.tokens.shape[0]
    rows = to_rows(turn, row=batch.row, valid=batch.valid, num_rows=N)
    rows = rows if rows.ndim == 2 else rows[:, None]
    mask = batch.response_mask & batch.is_turn[:, None]
    return jnp.where(mask, rows, 0.0), mask


def value_at_end(batch: Batch, value: Array) -> Array:
    """[B] the value, [N], of the state after each record's last turn; 0 without one."""
    after = value[jnp.maximum(batch.next_row, 0)]
    return jnp.where(batch.next_row >= 0, after, 0.0)


def on_blocks(
    batch: Batch, low: Array, high: Array, switch: Array, settings: Carriers
) -> OnBlocks:
    """Three advantages per turn, each on the blocks that carry it.

    credit_masks -> standardize -> token_advantage

    Args:
      batch: B trajectories of T turns, N rows.
      low: [B, T] the executor's, raw.
      high: [B, T] the planner's, at segment starts.
      switch: [B, T] the switch's.
      settings: blocks and scale.
    """
    blocks = batch.action_mask, batch.subgoal_mask, batch.switch_mask
    has = batch.has_action, batch.has_subgoal, batch.has_switch
    if settings.switch_on_loose:
        blocks = early_to_switch(batch)
        has = [block.any(axis=1)[batch.row] & batch.valid for block in blocks]
    starts = segment_starts(batch.segment)
    where = functools.partial(
        credit_masks,
        high_on_switch=settings.high_on_switch,
        switch_on_kept=settings.switch_on_kept,
    )
    carries = where(starts, *has)
    raw = low, high, switch
    if not settings.normalize:
        turns = [jnp.where(m, a, 0.0) for a, m in zip(raw, carries, strict=True)]
    elif settings.common_scale:
        turns = standardize_together(raw, carries)
    else:
        turns = [standardize(a, m) for a, m in zip(raw, carries, strict=True)]

    N = batch.tokens.shape[0]
    place = functools.partial(to_rows, row=batch.row, valid=batch.valid, num_rows=N)
    parts = [*map(place, turns), *where(place(starts), *blocks)]
    advantage, mask = token_advantage(*parts)
    sigmas = {
        f"advantage/sigma_{name}": deviation(a, m)
        for name, a, m in zip(("low", "high", "switch"), raw, carries, strict=True)
    }
    each = turns[0], turns[1], turns[2]
    return OnBlocks(advantage, mask & batch.is_turn[:, None], each, sigmas)


def early_to_switch(batch: Batch) -> tuple[Array, Array, Array]:
    """Blocks (action, subgoal, switch), with early tokens of the action the switch's.

    A token ahead of where V_low is read is part of what V_low knows: with A_low its
    expected gradient is 0, whatever it does. The switch's baseline is read before it.

    Returns:
      [N, R] bool each.
    """
    place = jnp.arange(batch.action_mask.shape[1])[None]
    early = batch.action_mask & (place < batch.value_low_at[:, None])
    return batch.action_mask & ~early, batch.subgoal_mask, batch.switch_mask | early
