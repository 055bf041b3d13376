"""HAE's three recursions in one pass backwards over the turns: fastest on a CPU.

Under `vmap` a scan over turns transposes every array that it reads or writes, which on
a CPU takes longer than the arithmetic. So what is read is as little as there can be,
the masks as bits of one byte, and coefficients are made on the way.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

_GOES_ON, _HANDS_OVER, _LAST = 1, 2, 4


class Turns(NamedTuple):
    """One trajectory, zero on padding."""

    reward: Array  # [T]
    low: Array  # [T] V_low
    high: Array  # [T] V_high
    goes_on: Array  # [T] bool, a real turn at which the episode did not end
    hands_over: Array  # [T] bool, the next turn starts a segment
    last: Array  # [T] bool, the record's last turn
    end_low: Array  # [] or [T] what follows the last turn; read there
    end_high: Array  # [] or [T]


class Rates(NamedTuple):
    """Numbers, or arrays []; gamma may be [T]."""

    gamma: Any
    turn: Any  # λ inside a segment
    segment: Any  # λ from segment to segment
    boundary: Any  # λ_b; None: 0


@functools.partial(jax.jit, static_argnames="three_critics")
def sweep(turns: Turns, rates: Rates, three_critics: bool) -> tuple[Array, ...]:
    """Solves the recursions of `hae` for A_low, X and, with three critics, S.

    Returns:
      ([T] A_low, [T] X) or ([T] A_low, [T] X, [T] S).
    """
    flags = (
        turns.goes_on.astype(jnp.int8) * _GOES_ON
        | turns.hands_over.astype(jnp.int8) * _HANDS_OVER
        | turns.last.astype(jnp.int8) * _LAST
    )
    end_low, end_high = (
        jnp.where(turns.last, end, 0).sum() if jnp.ndim(end) else end
        for end in (turns.end_low, turns.end_high)
    )
    changing = jnp.ndim(rates.gamma) > 0  # the discount, from turn to turn

    def step(after, now):
        act, plan, decide, low_after, high_after = after
        reward, low, high, flag, *gamma = now
        goes_on, hands_over, last = (
            (flag & bit) > 0 for bit in (_GOES_ON, _HANDS_OVER, _LAST)
        )
        discount = (gamma[0] if changing else rates.gamma) * goes_on.astype(low.dtype)
        inside = discount * ~(hands_over | last)
        across = discount * hands_over
        outside = jnp.where(last, end_high, jnp.where(hands_over, high_after, 0))
        follows = jnp.where(hands_over, high_after, low_after)
        follows = jnp.where(last, end_low, follows)

        act_offset = reward + discount * follows - low
        plan_offset = reward + discount * outside
        decide_offset = plan_offset
        if rates.boundary is not None:
            crosses = rates.boundary * across * (plan - high_after)
            act_offset, decide_offset = act_offset + crosses, decide_offset + crosses
        act = rates.turn * inside * act + act_offset
        plan = (inside + rates.segment * across) * plan + (
            plan_offset - rates.segment * across * high_after
        )
        solved = (act, plan)
        if three_critics:
            decide = inside * decide + decide_offset
            solved = (act, plan, decide)
        return (act, plan, decide, low, high), solved

    read = (turns.reward, turns.low, turns.high, flags)
    nothing = jnp.zeros_like(turns.reward[0])
    _, solved = lax.scan(
        step,
        (nothing,) * 5,
        (*read, rates.gamma) if changing else read,
        reverse=True,
    )
    return solved
