"""HiPER as an estimator: values at rows -> shaped rewards -> HAE -> tokens.

values -> shape_rewards -> hae -> credit_masks -> standardize -> token_advantage
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.accept import NotNegative, Penalty, Share, check_fields
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.arrays import segment_starts
from hiper_jax.credit.common.masks import credit_masks, to_rows, token_advantage
from hiper_jax.credit.common.shaping import shape_rewards, subgoal_changed
from hiper_jax.credit.common.standardize import standardize
from hiper_jax.credit.estimator import Credit, Estimator
from hiper_jax.credit.hae import HAE, hae

HEADS = ("high", "low", "switch")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How HiPER assigns credit, in the paper's terms; penalties are subtracted."""

    gamma: Share = 1.0
    """Discount per turn."""
    lambda_turn: Share = 1.0
    """Trace decay from turn to turn inside a segment."""
    lambda_segment: Share = 0.95
    """Trace decay from segment to segment, for the planner."""
    bootstrap: Literal["none", "same_state", "next_state"] = "next_state"
    """What follows an episode that was cut: nothing, the last state's own value (as
    published) or the value of the state after the last action."""
    normalize: bool = True
    """Standardise each of the three advantages over the turns that carry it."""
    high_on_switch: bool = False
    """A_high also on the switch block of turns that start a segment."""
    switch_on_kept: bool = False
    """Ours: A_switch also on the subgoal block of turns that keep."""
    keep_penalty: Penalty = 0.0
    """Off the reward of every turn that keeps; published 0.3 and, for shops, 3.5."""
    keep_penalty_mode: Literal["fixed", "normalized"] = "fixed"
    """`fixed`: the whole penalty each time; `normalized`: over the number of turns."""
    keep_consistency_penalty: Penalty = 0.0
    """Off a turn that keeps but writes another subgoal; published 0.3."""
    keep_consistency_requires_both: bool = True
    """Compare only where both turns have a subgoal."""
    invalid_action_penalty: Penalty = 0.0
    """Off a turn whose response is not in good form; published 0.1."""
    refused_penalty: Penalty = 0.0
    """Ours: off a turn in good form whose action the environment refuses."""
    switch_rate_floor: Share = 0.0
    """Share of later turns that should switch; below it the last turn pays."""
    switch_rate_floor_coef: NotNegative = 0.0
    """What the last turn pays for each unit of missing share; published 5."""

    def __post_init__(self):
        check_fields(self)


def estimator(settings: Settings) -> Estimator:
    """HiPER's estimator: three heads, one scan, three advantages on their tokens."""

    def assign(batch: Batch, values: Array) -> Credit:
        return assign_credit(batch, values, settings)

    return Estimator(HEADS, read_at, assign)


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
    starts = segment_starts(batch.segment)
    where = functools.partial(
        credit_masks,
        high_on_switch=settings.high_on_switch,
        switch_on_kept=settings.switch_on_kept,
    )
    carries = where(starts, batch.has_action, batch.has_subgoal, batch.has_switch)
    raw = estimate.advantage_low, estimate.advantage_high, estimate.advantage_switch
    finish = standardize if settings.normalize else lambda a, m: jnp.where(m, a, 0.0)
    advantages = [finish(a, m) for a, m in zip(raw, carries, strict=True)]

    N = batch.tokens.shape[0]
    place = functools.partial(to_rows, row=batch.row, valid=batch.valid, num_rows=N)
    row_starts = place(starts)
    low, high, switch = map(place, advantages)
    advantage, mask = token_advantage(
        low,
        high,
        switch,
        *where(row_starts, batch.action_mask, batch.subgoal_mask, batch.switch_mask),
    )
    returns = estimate.return_high, estimate.return_low, estimate.return_switch
    reads = row_starts, batch.is_turn, batch.is_turn
    names = ("low", "high", "switch")
    turn = {"shaped_reward": shaped}
    turn |= {f"advantage_{n}": a for n, a in zip(names, advantages, strict=True)}
    turn |= {f"return_{n}": r for n, r in zip(HEADS, returns, strict=True)}
    return Credit(
        advantage=advantage,
        mask=mask & batch.is_turn[:, None],
        return_=jnp.stack([place(r) for r in returns], axis=-1),
        reads=jnp.stack(reads, axis=-1),
        turn=turn,
        metrics=credit_metrics(batch, terms, estimate.return_low, values[:, 1]),
    )


def shaping_terms(batch: Batch, settings: Settings) -> dict[str, Array]:
    """What each term of reward shaping adds to each turn, by name, [B, T]."""
    changed = jax.vmap(
        functools.partial(
            subgoal_changed, requires_both=settings.keep_consistency_requires_both
        )
    )(batch.subgoal_id, batch.valid)

    def term(played, **options):
        shape = functools.partial(
            shape_rewards, keep_penalty_mode=settings.keep_penalty_mode, **options
        )
        nothing = jnp.zeros_like(batch.reward)
        return jax.vmap(shape)(nothing, batch.valid, batch.said_switch, played, changed)

    # What cannot be read is penalised once, as invalid.
    welcome = batch.action_valid | ~batch.format_valid
    # `shape_rewards` keeps the published signs: below zero discourages KEEP.
    return {
        "keep": term(batch.format_valid, keep_penalty=-settings.keep_penalty),
        "invalid": term(
            batch.format_valid, invalid_action_penalty=settings.invalid_action_penalty
        ),
        "consistency": term(
            batch.format_valid,
            keep_consistency_penalty=-settings.keep_consistency_penalty,
        ),
        "floor": term(
            batch.format_valid,
            switch_rate_floor=settings.switch_rate_floor,
            switch_rate_floor_coef=settings.switch_rate_floor_coef,
        ),
        "refused": term(welcome, invalid_action_penalty=settings.refused_penalty),
    }


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
    after = high[jnp.maximum(batch.next_row, 0)]
    after = jnp.where(batch.next_row >= 0, after, 0.0)
    return jax.vmap(lambda v, *a: options(*a, value_next=v))(after, *arrays)


def credit_metrics(
    batch: Batch, terms: dict[str, Array], return_low: Array, value_low: Array
) -> dict[str, Array]:
    """What shaping added per episode and how estimation went, each a scalar.

    Args:
      batch: B trajectories of T turns, N rows.
      terms: [B, T] each, from `shaping_terms`.
      return_low: [B, T] targets of V_low.
      value_low: [N] V_low of each row.
    """
    turns = jnp.maximum(jnp.sum(batch.valid), 1)
    later = batch.valid & (jnp.arange(batch.valid.shape[1]) > 0)[None]
    residual = jnp.where(batch.valid, return_low - value_low[batch.row], 0.0)
    target = jnp.where(batch.valid, return_low, 0.0)
    mean = jnp.sum(target) / turns
    variance = jnp.sum(jnp.where(batch.valid, (target - mean) ** 2, 0.0)) / turns
    left = jnp.sum(residual**2) / turns - (jnp.sum(residual) / turns) ** 2
    episodes = batch.valid.shape[0]
    return {
        **{f"shaping/{name}": jnp.sum(t) / episodes for name, t in terms.items()},
        "policy/switch_rate": jnp.sum(batch.said_switch & later)
        / jnp.maximum(jnp.sum(later), 1),
        "value/explained_variance": 1.0 - left / jnp.maximum(variance, 1e-8),
        "value/return_low": mean,
        "value/segments": jnp.sum(segment_starts(batch.segment)) / episodes,
    }
