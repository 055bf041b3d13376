"""HiPER as an estimator: values at rows -> shaped rewards -> HAE -> tokens.

values -> shape_rewards -> hae -> credit_masks -> standardize -> token_advantage
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.accept import Share
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.arrays import segment_starts
from hiper_jax.credit.common.groups import played
from hiper_jax.credit.common.masks import to_rows
from hiper_jax.credit.common.terms import Shaping, shaping_terms, shares
from hiper_jax.credit.common.tokens import Carriers, on_blocks, value_at_end
from hiper_jax.credit.estimator import Credit, Estimator
from hiper_jax.credit.hae import HAE, hae

HEADS = ("high", "low", "switch")


@dataclasses.dataclass(frozen=True)
class Settings(Carriers, Shaping):
    """How HiPER assigns credit, in the paper's terms; penalties are subtracted."""

    gamma: Share = 1.0
    """Discount per turn."""
    lambda_turn: Share = 1.0
    """Trace decay from turn to turn inside a segment."""
    lambda_segment: Share = 0.95
    """Trace decay from segment to segment, for the planner."""
    lambda_boundary: Share = 0.0
    """Ours: how far the executor's and the switch's traces cross a segment's end;
    published 0: they take V_high's word there."""
    bootstrap: Literal["none", "same_state", "next_state"] = "next_state"
    """What follows an episode that was cut: nothing, the last state's own value (as
    published) or the value of the state after the last action."""


def estimator(settings: Settings) -> Estimator:
    """HiPER's estimator: three heads, one scan, three advantages on their tokens."""

    def assign(batch: Batch, values: Array) -> Credit:
        return assign_credit(batch, values, settings)

    return Estimator(HEADS, read_at, assign, settings.kl_reward_coef > 0)


def read_at(batch: Batch) -> Array:
    """[N, 3] response positions: high and switch before the response, low inside."""
    first = jnp.zeros_like(batch.value_low_at)
    return jnp.stack([first, batch.value_low_at, first], axis=-1)


def assign_credit(batch: Batch, values: Array, settings: Settings) -> Credit:
    """Values of rows -> the credit of every token and the target of every head.

    Args:
      batch: B trajectories of T turns, N rows.
      values: [N, 3] V_high, V_low and V_switch of each row.
      settings: discounts, penalties, bootstrap.

    Returns:
      Credit, with the shaped rewards, advantages (as the loss uses them) and returns
      of turns in `turn`.

    Source: arXiv 2602.16165 and its code.
    """
    terms = shaping_terms(batch, settings)
    shaped = batch.reward + sum(terms.values())
    estimate = estimate_turns(batch, shaped, values, settings)
    placed = on_blocks(
        batch,
        estimate.advantage_low,
        estimate.advantage_high,
        estimate.advantage_switch,
        settings,
    )
    N = batch.tokens.shape[0]
    place = functools.partial(to_rows, row=batch.row, valid=batch.valid, num_rows=N)
    returns = estimate.return_high, estimate.return_low, estimate.return_switch
    reads = place(segment_starts(batch.segment)), batch.is_turn, batch.is_turn
    names = ("low", "high", "switch")
    turn = {"shaped_reward": shaped}
    turn |= {f"advantage_{n}": a for n, a in zip(names, placed.turns, strict=True)}
    turn |= {f"return_{n}": r for n, r in zip(HEADS, returns, strict=True)}
    fit = fit_metrics(batch, estimate.return_low, values[:, 1])
    return Credit(
        advantage=placed.advantage,
        mask=placed.mask,
        return_=jnp.stack([place(r) for r in returns], axis=-1),
        reads=jnp.stack(reads, axis=-1),
        turn=turn,
        metrics=shares(batch, terms) | fit | placed.sigmas,
    )


def estimate_turns(
    batch: Batch, shaped: Array, values: Array, settings: Settings
) -> HAE:
    """`hae` of every trajectory, fields [B, T]; raw, before standardising."""
    high, low, switch = (values[:, h] for h in range(3))
    options = functools.partial(
        hae,
        gamma=settings.gamma,
        lambda_turn=settings.lambda_turn,
        lambda_segment=settings.lambda_segment,
        lambda_boundary=settings.lambda_boundary,
        bootstrap=settings.bootstrap,
    )
    arrays = (
        shaped,
        batch.terminated,
        batch.valid,
        segment_starts(batch.segment),
        low[batch.row],
        high[batch.row],
        switch[batch.row],
    )
    if settings.bootstrap != "next_state":
        return jax.vmap(options)(*arrays)
    # The planner's value: the state after the last action begins a new decision.
    after = value_at_end(batch, high)
    return jax.vmap(lambda v, *a: options(*a, value_next=v))(after, *arrays)


def fit_metrics(batch: Batch, return_low: Array, value_low: Array) -> dict[str, Array]:
    """How estimation went, each a scalar.

    Args:
      batch: B trajectories of T turns, N rows.
      return_low: [B, T] targets of V_low.
      value_low: [N] V_low of each row.
    """
    turns = jnp.maximum(jnp.sum(batch.valid), 1)
    residual = jnp.where(batch.valid, return_low - value_low[batch.row], 0.0)
    target = jnp.where(batch.valid, return_low, 0.0)
    mean = jnp.sum(target) / turns
    variance = jnp.sum(jnp.where(batch.valid, (target - mean) ** 2, 0.0)) / turns
    left = jnp.sum(residual**2) / turns - (jnp.sum(residual) / turns) ** 2
    _, episodes = played(batch.valid)
    return {
        "value/explained_variance": 1.0 - left / jnp.maximum(variance, 1e-8),
        "value/return_low": mean,
        "value/segments": jnp.sum(segment_starts(batch.segment)) / episodes,
    }
