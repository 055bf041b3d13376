"""Batch and values -> shaped rewards, advantages, returns: what `update` learns from.

values at rows -> shape_rewards -> hae -> carrying -> standardize
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.act.stack import Batch
from hiper_jax.credit import boundaries, carrying, hae, shape_rewards, subgoal_changed
from hiper_jax.credit.common import standardize


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the update does, in the published paper's terms (hashable, static)."""

    gamma: float = 1.0
    lambda_turn: float = 1.0
    lambda_segment: float = 0.95
    bootstrap: str = "next_state"  # or "same_state" (published), "none"
    normalize: bool = True  # standardise each of the three advantages
    high_on_switch: bool = False  # A_high also on the switch block of boundaries
    switch_on_kept: bool = False  # ours: A_switch also on subgoals of turns that keep
    keep_penalty: float = 0.0
    keep_penalty_mode: str = "fixed"  # or "normalized"
    keep_consistency_penalty: float = 0.0
    keep_consistency_requires_both: bool = True
    invalid_action_penalty: float = 0.0
    refused_penalty: float = 0.0  # ours: off a whole action that the game refuses
    switch_rate_floor: float = 0.0
    switch_rate_floor_coef: float = 0.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0
    value_clip: float = 0.5
    kl_coef: float = 0.01
    kl_estimator: str = "k3"
    entropy_coef: float = 0.001
    temperature: float = 1.0  # the sampler's, so that both read one distribution
    epochs: int = 1
    minibatch: int = 256  # turns
    chunk: int = 64  # turns fed at once


class Credit(NamedTuple):
    """What HAE said, per turn."""

    shaped: Array  # [B, T] float32, shaped rewards
    terms: dict[str, Array]  # [B, T] float32 each: what every shaping term added
    advantage_low: Array  # [B, T] float32, as the loss uses it
    advantage_high: Array  # [B, T] float32
    advantage_switch: Array  # [B, T] float32
    return_low: Array  # [B, T] float32
    return_high: Array  # [B, T] float32
    return_switch: Array  # [B, T] float32


# What each shaping term is switched on by; the other settings only say how.
TERMS = {
    "keep": ("keep_penalty",),
    "invalid": ("invalid_action_penalty",),
    "consistency": ("keep_consistency_penalty",),
    "floor": ("switch_rate_floor", "switch_rate_floor_coef"),
}


def shaping_terms(batch: Batch, settings: Settings) -> dict[str, Array]:
    """What each term of reward shaping adds to each turn, by name, [B, T]."""
    changed = jax.vmap(
        functools.partial(
            subgoal_changed, requires_both=settings.keep_consistency_requires_both
        )
    )(batch.subgoal_id, batch.valid)

    def term(played, **options):
        return jax.vmap(
            functools.partial(
                shape_rewards,
                keep_penalty_mode=settings.keep_penalty_mode,
                **options,
            )
        )(
            jnp.zeros_like(batch.reward),
            batch.valid,
            batch.switch,
            played,
            changed,
        )

    terms = {
        name: term(batch.action_valid, **{o: getattr(settings, o) for o in options})
        for name, options in TERMS.items()
    }
    # What cannot be read is penalised once, as invalid.
    welcome = batch.admissible | ~batch.action_valid
    refused = term(welcome, invalid_action_penalty=settings.refused_penalty)
    return terms | {"refused": refused}


def assign_credit(
    batch: Batch, low: Array, high: Array, switch: Array, settings: Settings
) -> Credit:
    """Values at rows -> shaped rewards, advantages and returns per turn.

    Args:
      batch: B trajectories of T turns.
      low: [N] V_low of each row.
      high: [N] V_high of each row.
      switch: [N] V_switch of each row.
      settings: discounts, penalties, bootstrap.
    """
    terms = shaping_terms(batch, settings)
    shaped = batch.reward + sum(terms.values())
    value_next = None
    if settings.bootstrap == "next_state":
        # The planner's value: the state after the last action begins a new decision.
        after = high[jnp.maximum(batch.next_row, 0)]
        value_next = jnp.where(batch.next_row >= 0, after, 0.0)
    estimate = jax.vmap(
        lambda *a: hae(
            *a[:7],
            gamma=settings.gamma,
            lambda_turn=settings.lambda_turn,
            lambda_segment=settings.lambda_segment,
            bootstrap=settings.bootstrap,
            value_next=a[7] if len(a) > 7 else None,
        )
    )(
        shaped,
        batch.terminated,
        batch.valid,
        batch.switch,
        low[batch.row],
        high[batch.row],
        switch[batch.row],
        *(() if value_next is None else (value_next,)),
    )
    masks = carrying(
        jax.vmap(boundaries)(batch.switch, batch.valid),
        batch.has_action,
        batch.has_subgoal,
        batch.has_switch,
        high_on_switch=settings.high_on_switch,
        switch_on_kept=settings.switch_on_kept,
    )
    raw = estimate.advantage_low, estimate.advantage_high, estimate.advantage_switch
    finish = standardize if settings.normalize else lambda a, m: jnp.where(m, a, 0.0)
    advantages = [finish(a, m) for a, m in zip(raw, masks, strict=True)]
    return Credit(
        shaped,
        terms,
        *advantages,
        estimate.return_low,
        estimate.return_high,
        estimate.return_switch,
    )


def credit_metrics(batch: Batch, credit: Credit, value_low: Array) -> dict[str, Array]:
    """What shaping added per episode and how estimation went, each a scalar."""
    turns = jnp.maximum(jnp.sum(batch.valid), 1)
    later = batch.valid & (jnp.arange(batch.valid.shape[1]) > 0)[None]
    starts = jax.vmap(boundaries)(batch.switch, batch.valid)
    residual = jnp.where(batch.valid, credit.return_low - value_low[batch.row], 0.0)
    target = jnp.where(batch.valid, credit.return_low, 0.0)
    mean = jnp.sum(target) / turns
    variance = jnp.sum(jnp.where(batch.valid, (target - mean) ** 2, 0.0)) / turns
    left = jnp.sum(residual**2) / turns - (jnp.sum(residual) / turns) ** 2
    return {
        **{
            f"shaping/{name}": jnp.sum(term) / batch.valid.shape[0]
            for name, term in credit.terms.items()
        },
        "policy/switch_rate": jnp.sum(batch.switch & later)
        / jnp.maximum(jnp.sum(later), 1),
        "value/explained_variance": 1.0 - left / jnp.maximum(variance, 1e-8),
        "value/return_low": mean,
        "value/segments": jnp.sum(starts) / batch.valid.shape[0],
    }
