"""Reward shaping, per turn and before any estimator: every term can be off."""

import jax.numpy as jnp
from jax import Array

from hiper_jax.credit.common.arrays import one_trajectory, run_ends


def shape_rewards(
    reward: Array,
    valid: Array,
    switch: Array,
    action_valid: Array,
    subgoal_changed: Array,
    *,
    keep_penalty: float = 0.0,
    keep_penalty_mode: str = "fixed",
    invalid_action_penalty: float = 0.0,
    keep_consistency_penalty: float = 0.0,
    switch_rate_floor: float = 0.0,
    switch_rate_floor_coef: float = 0.0,
) -> Array:
    """Adds the four shaping terms of HiPER to one trajectory's rewards.

        r'ₜ = rₜ − c · [action invalid]ₜ                          invalid action
                 + p · KEEPₜ                                     "fixed", turn 0 too
                 + p / T · KEEPₜ                 if T ≥ 2        "normalized"
                 + q · KEEPₜ · [subgoal changed]ₜ   if t ≥ 1      consistency
                 − k · max(0, floor − rate) · [t = T − 1]  if T ≥ 2      floor

    KEEPₜ is 1 where the turn did not switch, T counts real turns, and
    rate = (switches after turn 0) / (T − 1). The normalised penalty costs an episode
    of n KEEP turns p · n / T in all.

    Args:
      reward: [T] environment reward.
      valid: [T] true on real turns, one run of them; the rest is padding.
      switch: [T] true where the response asks for a new subgoal, as said (turn 0 too).
      action_valid: [T] true where the response could be read.
      subgoal_changed: [T] true where the subgoal's tokens differ from the turn
        before; see `subgoal_changed`, which holds the rule for missing subgoals.
      keep_penalty: p, below zero to discourage KEEP.
      keep_penalty_mode: "fixed" or "normalized".
      invalid_action_penalty: c, published 0.1.
      keep_consistency_penalty: q, below zero.
      switch_rate_floor: rate below which the last turn pays, published 0.25; 0 is off.
      switch_rate_floor_coef: k, published 5.0.

    Returns:
      [T] shaped reward, zero on padding.

    Raises:
      ValueError: shapes differ, or the mode is unknown.

    Source: arXiv 2602.16165 and its code; the floor is from the authors' logs.
    """
    reward, valid, switch, action_valid, subgoal_changed = one_trajectory(
        "shape_rewards",
        reward=reward,
        valid=valid,
        switch=switch,
        action_valid=action_valid,
        subgoal_changed=subgoal_changed,
    )
    if keep_penalty_mode not in ("fixed", "normalized"):
        raise ValueError(
            'keep_penalty_mode must be "fixed" or "normalized", '
            f"but it is {keep_penalty_mode!r}."
        )
    valid = valid.astype(bool)
    dtype = jnp.result_type(reward, 0.0)
    num_turns = valid.sum()
    first, last = run_ends(valid)
    keep = valid & ~switch.astype(bool)
    several = num_turns >= 2

    penalty = jnp.asarray(keep_penalty, dtype)
    if keep_penalty_mode == "normalized":
        share = penalty / jnp.maximum(num_turns, 1).astype(dtype)
        penalty = jnp.where(several, share, jnp.zeros((), dtype))
    rewritten = keep & ~first & subgoal_changed.astype(bool)
    switches = (valid & ~keep & ~first).sum().astype(dtype)
    rate = switches / jnp.maximum(num_turns - 1, 1).astype(dtype)
    shortfall = jnp.where(several, jnp.maximum(switch_rate_floor - rate, 0), 0)

    shaped = jnp.where(valid, reward, 0).astype(dtype)
    shaped += penalty * keep
    shaped -= invalid_action_penalty * (valid & ~action_valid.astype(bool))
    shaped += keep_consistency_penalty * rewritten
    shaped -= switch_rate_floor_coef * shortfall.astype(dtype) * last
    return shaped


def subgoal_changed(
    subgoal_id: Array, valid: Array, *, requires_both: bool = True
) -> Array:
    """Where a turn's subgoal is not the one of the turn before.

    Args:
      subgoal_id: [T] equal numbers for equal subgoal tokens, negative for no subgoal.
      valid: [T] true on real turns.
      requires_both: compare only where both turns have a subgoal; without it a
        missing subgoal is a change.

    Returns:
      [T] bool, false at the first turn and on padding.

    Raises:
      ValueError: shapes differ.
    """
    subgoal_id, valid = one_trajectory(
        "subgoal_changed", subgoal_id=subgoal_id, valid=valid
    )
    valid = valid.astype(bool)
    first, _ = run_ends(valid)
    before = jnp.roll(subgoal_id, 1)
    if requires_both:
        changed = (subgoal_id >= 0) & (before >= 0) & (subgoal_id != before)
    else:
        changed = (subgoal_id < 0) | (subgoal_id != before)
    return valid & ~first & changed
