"""What shaping adds to each turn of a batch, term by term."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.accept import NotNegative, Penalty, Share, check_fields
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.groups import played
from hiper_jax.credit.common.kl import kl_penalty
from hiper_jax.credit.common.shaping import shape_rewards, subgoal_changed


@dataclasses.dataclass(frozen=True)
class Penalties:
    """What any estimator may take off a turn; every penalty is subtracted."""

    invalid_action_penalty: Penalty = 0.0
    """Off a turn whose response is not in good form; published 0.1 (reward 10)."""
    refused_penalty: Penalty = 0.0
    """Ours: off a turn in good form whose action the environment refuses."""
    kl_reward_coef: NotNegative = 0.0
    """Off a turn's reward for each nat that its response strays from the reference."""
    kl_reward_estimator: Literal["k1", "abs", "k2", "k3"] = "k1"
    """Which estimate of the divergence comes off; k1 is the right one here."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Shaping(Penalties):
    """HiPER's shaping: it also tells when to switch and to keep what is kept."""

    keep_penalty: Penalty = 0.0
    """Off the reward of every turn that keeps; published 0.3 and, for shops, 3.5."""
    keep_penalty_mode: Literal["fixed", "normalized"] = "fixed"
    """`fixed`: the whole penalty each time; `normalized`: over the number of turns."""
    keep_consistency_penalty: Penalty = 0.0
    """Off a turn that keeps but writes another subgoal; published 0.3."""
    keep_consistency_requires_both: bool = True
    """Compare only where both turns have a subgoal."""
    switch_rate_floor: Share = 0.0
    """Share of later turns that should switch; below it the last turn pays."""
    switch_rate_floor_coef: NotNegative = 0.0
    """What the last turn pays for each unit of missing share; published 5."""


def penalty_terms(batch: Batch, settings: Penalties) -> dict[str, Array]:
    """What each penalty adds to each turn, by name, [B, T]: 0 or less, but for k1."""
    # What cannot be read is penalised once, as invalid.
    welcome = batch.action_valid | ~batch.format_valid
    strays = {"kl": _kl_term(batch, settings)} if settings.kl_reward_coef else {}
    return strays | {
        "invalid": _term(
            batch,
            batch.format_valid,
            invalid_action_penalty=settings.invalid_action_penalty,
        ),
        "refused": _term(
            batch, welcome, invalid_action_penalty=settings.refused_penalty
        ),
    }


def shaping_terms(batch: Batch, settings: Shaping) -> dict[str, Array]:
    """What each term of reward shaping adds to each turn, by name, [B, T]."""
    changed = jax.vmap(
        functools.partial(
            subgoal_changed, requires_both=settings.keep_consistency_requires_both
        )
    )(batch.subgoal_id, batch.valid)
    term = functools.partial(
        _term,
        batch,
        batch.format_valid,
        changed=changed,
        keep_penalty_mode=settings.keep_penalty_mode,
    )
    penalties = penalty_terms(batch, settings)
    # `shape_rewards` keeps the published signs: below zero discourages KEEP.
    return {
        "keep": term(keep_penalty=-settings.keep_penalty),
        "invalid": penalties.pop("invalid"),
        "consistency": term(
            keep_consistency_penalty=-settings.keep_consistency_penalty
        ),
        "floor": term(
            switch_rate_floor=settings.switch_rate_floor,
            switch_rate_floor_coef=settings.switch_rate_floor_coef,
        ),
        **penalties,
    }


def shares(batch: Batch, terms: dict[str, Array]) -> dict[str, Array]:
    """What shaping added per episode, term by term, and the switch rate; [] each."""
    later = batch.valid & (jnp.arange(batch.valid.shape[1]) > 0)[None]
    _, episodes = played(batch.valid)
    return {
        **{f"shaping/{name}": jnp.sum(t) / episodes for name, t in terms.items()},
        "policy/switch_rate": jnp.sum(batch.said_switch & later)
        / jnp.maximum(jnp.sum(later), 1),
    }


def _kl_term(batch: Batch, settings: Penalties) -> Array:
    """[B, T] what straying from the reference adds to a turn's reward."""
    if batch.reference_log_prob is None:
        raise ValueError("a KL term in the reward needs batch.reference_log_prob")
    strays = kl_penalty(
        batch.old_log_prob,
        batch.reference_log_prob,
        batch.response_mask,
        coef=settings.kl_reward_coef,
        estimator=settings.kl_reward_estimator,
    )
    return jnp.where(batch.valid, -strays[batch.row], 0.0)


def _term(
    batch: Batch, played: Array, changed: Array | None = None, **options
) -> Array:
    """[B, T] what one option of `shape_rewards` adds."""
    nothing = jnp.zeros_like(batch.reward)
    changed = jnp.zeros_like(batch.valid) if changed is None else changed
    shape = functools.partial(shape_rewards, **options)
    return jax.vmap(shape)(nothing, batch.valid, batch.said_switch, played, changed)
