"""Which turns or tokens carry which advantage, and a turn's credit on its tokens."""

import chex
import jax.numpy as jnp
from jax import Array


def credit_masks(
    boundary: Array,
    action: Array,
    subgoal: Array,
    switch: Array,
    *,
    high_on_subgoal: bool = True,
    high_on_switch: bool = False,
    switch_on_switch: bool = True,
    switch_on_kept: bool = False,
) -> tuple[Array, Array, Array]:
    """Where the three advantages land: on turns, or on the tokens of each turn.

    Args:
      boundary: [...] segment starts, as from `boundaries`.
      action: [...] the turn has an action mask with a token in it (false on padding),
        or [..., L], those tokens.
      subgoal: the same for the subgoal block.
      switch: the same for the switch block.
      high_on_subgoal: A_high goes to the subgoal block of boundary turns.
      high_on_switch: A_high goes to their switch block, too.
      switch_on_switch: A_switch goes to the switch block of every turn; off with two
        critics and no gap term.
      switch_on_kept: A_switch goes to the subgoal block of turns that keep, too: what
        is written there as the kept subgoal is part of the decision. The published
        code trains it on nothing.

    Returns:
      Three masks (low, high, switch), shaped as `action`: what `standardize` goes over
      (turns) and what `token_advantage` takes (tokens).
    """
    action, subgoal, switch = (
        jnp.asarray(mask).astype(bool) for mask in (action, subgoal, switch)
    )
    starts = jnp.asarray(boundary).astype(bool)
    chex.assert_equal_shape([action, subgoal, switch])
    chex.assert_equal_shape_prefix([starts, action], starts.ndim)
    starts = starts.reshape(starts.shape + (1,) * (action.ndim - starts.ndim))
    high = jnp.zeros_like(subgoal)
    if high_on_subgoal:
        high |= starts & subgoal
    if high_on_switch:
        high |= starts & switch
    decision = jnp.zeros_like(switch)
    if switch_on_switch:
        decision |= switch
    if switch_on_kept:
        decision |= ~starts & subgoal
    return action, high, decision


def token_advantage(
    advantage_low: Array,
    advantage_high: Array,
    advantage_switch: Array,
    low: Array,
    high: Array,
    switch: Array,
) -> tuple[Array, Array]:
    """Spreads a turn's three advantages over the tokens of its response.

        A[n, l] = A_low[n] low[n, l] + A_high[n] high[n, l] + A_switch[n] switch[n, l]

    A token in two masks gets the sum; a token in none carries no policy loss.

    Args:
      advantage_low: [N] executor's advantage of each row.
      advantage_high: [N] planner's.
      advantage_switch: [N] the switch's.
      low: [N, L] tokens that carry A_low: the action block.
      high: [N, L] tokens that carry A_high: the subgoal block of segment starts.
      switch: [N, L] tokens that carry A_switch: the switch block.

    Returns:
      ([N, L] advantages, [N, L] bool: tokens that carry any).

    Source: arXiv 2602.16165; the masks are those of `credit_masks`.
    """
    advantages = [advantage_low, advantage_high, advantage_switch]
    chex.assert_rank(advantages, 1)
    chex.assert_rank([low, high, switch], 2)
    chex.assert_equal_shape([low, high, switch])
    chex.assert_equal_shape_prefix([*advantages, low], 1)
    total = (
        jnp.where(low, advantage_low[..., None], 0)
        + jnp.where(high, advantage_high[..., None], 0)
        + jnp.where(switch, advantage_switch[..., None], 0)
    )
    return total, low | high | switch


def to_rows(x: Array, *, row: Array, valid: Array, num_rows: int) -> Array:
    """Lays what turns have, [B, T], out by row, [N]; 0 on rows that are no turn.

    Args:
      x: [B, T, ...] anything.
      row: [B, T] int32, the row of each turn.
      valid: [B, T] true on real turns.
      num_rows: N.
    """
    chex.assert_rank([row, valid], 2)
    chex.assert_equal_shape_prefix([x, row, valid], 2)
    where = jnp.where(valid, row, num_rows)
    rows = jnp.zeros((num_rows, *x.shape[2:]), x.dtype)
    return rows.at[where].set(x, mode="drop")
