"""Turns to tokens and back: which tokens carry which advantage, where values sit."""

import jax.numpy as jnp
from jax import Array


def carrying(
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


def read_values(value: Array, position: Array) -> Array:
    """The value at each row's marked token.

    Args:
      value: [..., L] a head's values along the response.
      position: [..., L] one-hot, as `TokenMasks.value_*`; no mark gives 0.

    Returns:
      [...] values.
    """
    return jnp.sum(jnp.where(position, value, 0), axis=-1)


def place_returns(return_: Array, position: Array) -> Array:
    """[..., L] targets: a turn's return at its marked token, zero elsewhere."""
    return jnp.where(position, return_[..., None], 0)
