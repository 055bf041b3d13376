"""Hierarchical advantage estimation: executor, planner and switch in one scan."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from hiper_jax.credit.common.arrays import (
    boundaries,
    end_value,
    one_trajectory,
    run_ends,
)
from hiper_jax.credit.common.sweep import Rates, Turns, sweep
from hiper_jax.kernels.segmented_scan import reverse_affine_scan


class HAE(NamedTuple):
    """Raw advantages and value targets of one trajectory; all zero on padding."""

    advantage_low: Array  # [T] executor's, for the action tokens of every turn
    advantage_high: Array  # [T] planner's, at segment starts, zero elsewhere
    advantage_switch: Array  # [T] of the switch decision, at every turn
    return_low: Array  # [T] target of V_low
    return_high: Array  # [T] target of V_high, at segment starts, zero elsewhere
    return_switch: Array  # [T] target of V_switch


def hae(
    reward: Array,
    terminated: Array,
    valid: Array,
    switch: Array,
    value_low: Array,
    value_high: Array,
    value_switch: Array | None,
    *,
    gamma: float | Array = 1.0,
    lambda_turn: float = 1.0,
    lambda_segment: float = 0.95,
    lambda_boundary: float = 0.0,
    bootstrap: str = "none",
    value_next: Array | None = None,
    implementation: str = "auto",
) -> HAE:
    """Estimates the three advantages of a plan-execute trajectory.

    With b′ₜ = 1 where turn t+1 starts a segment, cₜ = 1 − terminatedₜ, L, H, W the
    three critics and "end" the bootstrap after the last turn, the carry is

        Aₜ = rₜ + γ cₜ L′ₜ − Lₜ + γ λ_turn cₜ (1 − b′ₜ) Aₜ₊₁              executor
        Xₜ = rₜ + γ cₜ [ b′ₜ ? Hₜ₊₁ + λ_seg (Xₜ₊₁ − Hₜ₊₁) : Xₜ₊₁ or end ]   planner
        Sₜ = rₜ + γ cₜ [ b′ₜ ? Hₜ₊₁ : Sₜ₊₁ or end ]                        switch

    where L′ₜ is Lₜ₊₁ inside a segment, Hₜ₊₁ at its end (the executor hands over to the
    next plan's critic) and "end" after the last turn. Unrolled over a segment of d
    turns from s, X gives the semi-Markov recursion of the planner:

        A_high[s] = Xₛ − Hₛ = Σⱼ γʲ rₛ₊ⱼ + γᵈ H′ − Hₛ + γᵈ λ_seg A_high[s′].

    With `lambda_boundary` λ_b the executor and the switch do not take V_high's word at
    a segment's end: Hₜ₊₁ above becomes Hₜ₊₁ + λ_b (Xₜ₊₁ − Hₜ₊₁), X the planner's
    return, so that a lagging V_high biases them less. 0 is published; with exact
    critics the mean is the same for every λ_b.

        t           0  1  2  3  4  5         two segments, then padding
        switch      0  0  1  0  ·  ·
        L′          L  H  L  end
        X takes     X  H+λ(X−H)  X  end

    "same_state" reads L at the last turn and H at the last segment's start, as
    published; "next_state" takes `value_next` for all three.

    Args:
      reward: [T] (shaped) rewards.
      terminated: [T] true where the episode ended for good; the recursion is cut
        there, also if the record goes on. A step limit is not termination.
      valid: [T] true on real turns, one run of them; the rest is padding.
      switch: [T] true where a turn starts a new subgoal; the first turn always does.
      value_low: [T] V_low, read after the subgoal block of each turn.
      value_high: [T] V_high, read before the response; used at segment starts.
      value_switch: [T] V_switch, read before the response; None with two critics:
        the switch's fields are then zero.
      gamma: discount per turn.
      lambda_turn: trace decay inside a segment.
      lambda_segment: trace decay from segment to segment.
      lambda_boundary: λ_b in [0, 1]; 0: published, 1: the trace crosses boundaries
        as the planner's own does.
      bootstrap: "none", "same_state" (published) or "next_state" (correct).
      value_next: [] value of the state after the last turn, for "next_state"; a [T]
        array is read at the last turn.
      implementation: as in `reverse_affine_scan`, but that "auto" is one pass over
        the turns on CPU.

    Returns:
      `HAE` of [T] arrays. Gradients flow into the values; stop them in the loss.

    Raises:
      ValueError: shapes differ, there is no turn, or `bootstrap` is unknown or lacks
        its value.

    Source: arXiv 2602.16165, section on hierarchical advantage estimation; λ_b is ours.
    """
    reward, terminated, valid, switch, low, high, value_switch = one_trajectory(
        "hae",
        reward=reward,
        terminated=terminated,
        valid=valid,
        switch=switch,
        value_low=value_low,
        value_high=value_high,
        value_switch=value_switch,
    )
    three_critics = value_switch is not None
    kind = jnp.result_type(reward, low, high, 0.0)
    dtype = jnp.promote_types(kind, jnp.float32)  # what is summed up must not round
    valid = valid.astype(bool)
    reward = jnp.where(valid, reward, 0).astype(dtype)
    low = jnp.where(valid, low, 0).astype(dtype)
    high = jnp.where(valid, high, 0).astype(dtype)

    start = boundaries(switch, valid)
    _, last = run_ends(valid)
    turn = jnp.arange(valid.shape[0])
    last_start = jnp.max(jnp.where(start, turn, 0), initial=0)
    end_low = end_value(bootstrap, value_next, low, dtype)
    end_high = end_value(bootstrap, value_next, high, dtype)
    if bootstrap == "same_state":
        end_high = jnp.sum(jnp.where(turn == last_start, high, 0))

    # Rolls wrap only at turns that are last, where they are not read.
    hands_over = jnp.roll(start, -1) & ~last
    goes_on = valid & ~terminated.astype(bool)
    turns = Turns(reward, low, high, goes_on, hands_over, last, end_low, end_high)
    published = isinstance(lambda_boundary, float | int) and lambda_boundary == 0
    crossing = None if published else lambda_boundary
    rates = Rates(gamma, lambda_turn, lambda_segment, crossing)
    if implementation == "auto":
        solved = _by_platform(turns, rates, three_critics)
    else:
        solved = _solve(turns, rates, three_critics, implementation)
    advantage_low, planned, *decided = solved

    zero = jnp.zeros_like(reward)
    return_switch = decided[0] if decided else zero
    baseline = jnp.where(valid, value_switch, 0).astype(dtype) if three_critics else 0
    estimate = HAE(
        advantage_low=advantage_low,
        advantage_high=jnp.where(start, planned - high, zero),
        advantage_switch=return_switch - baseline,
        return_low=advantage_low + low,
        return_high=jnp.where(start, planned, zero),
        return_switch=return_switch,
    )
    return HAE(*(field.astype(kind) for field in estimate))


@functools.partial(jax.jit, static_argnames="three_critics")
def _by_platform(turns: Turns, rates: Rates, three_critics: bool):
    """One pass on a CPU, log T parallel steps elsewhere."""
    return lax.platform_dependent(
        turns,
        rates,
        cpu=functools.partial(sweep, three_critics=three_critics),
        default=functools.partial(
            _solve, three_critics=three_critics, implementation="associative"
        ),
    )


def _solve(turns: Turns, rates: Rates, three_critics: bool, implementation: str):
    """A_low, X and, with three critics, S as recurrences x = a x' + b.

    They share one scan, unless the trace crosses boundaries: then the planner's comes
    first, for the others take what it says of the next segment.
    """
    reward, low, high, goes_on, hands_over, last, end_low, end_high = turns
    high_after = jnp.roll(high, -1)
    low_after = jnp.where(hands_over, high_after, jnp.roll(low, -1))
    low_after = jnp.where(last, end_low, low_after)
    outside = jnp.where(last, end_high, jnp.where(hands_over, high_after, 0))

    step = rates.gamma * goes_on.astype(reward.dtype)
    inside = step * ~(hands_over | last)
    across = step * hands_over
    plan = (
        inside + rates.segment * across,
        reward + step * outside - rates.segment * across * high_after,
    )
    act = (rates.turn * inside, reward + step * low_after - low)
    others = [act, (inside, reward + step * outside)][: 1 + three_critics]
    scan = functools.partial(reverse_affine_scan, implementation=implementation)
    if rates.boundary is None:
        advantage_low, *rest = scan(*zip(*others, plan, strict=True))
        return advantage_low, rest[-1], *rest[:-1]
    planned = scan(*plan)
    crosses = rates.boundary * across * (jnp.roll(planned, -1) - high_after)
    parts = [(a, b + crosses) for a, b in others]
    advantage_low, *decided = scan(*zip(*parts, strict=True))
    return advantage_low, planned, *decided
