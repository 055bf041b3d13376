"""Turns against turns at the same anchor: GiGPO and HGPO."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax import Array

from hiper_jax.accept import NotNegative, Share, Whole
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.groups import (
    at_least_float32,
    counted_turns,
    of_turns,
    pair_ids,
    relative,
    returns_to_go,
    turn_scores,
    whole_batch,
)
from hiper_jax.credit.common.terms import Penalties
from hiper_jax.credit.estimator import Estimator, critic_free


def gigpo(
    reward: Array,
    valid: Array,
    group: Array,
    anchor: Array,
    *,
    penalty: Array | None = None,
    gamma: float = 0.95,
    weight: float = 1.0,
    std: bool = True,
    over: str = "turns",
    epsilon: float = 1e-6,
) -> Array:
    """Group-in-group advantages: the episode among siblings, the turn at its anchor.

        A = (score − μ) / (σ + ε) + w (Gₜ − μₛ) / (σₛ + ε)
        Gₜ = Σₖ γᵏ rₜ₊ₖ − penaltyₜ

    μₛ and σₛ are of all turns that answer the same observation of the same task; a
    trajectory's revisits count. A lone anchor gives 0, a group of one its score.

    Args:
      reward: [B, T] environment rewards, unshaped; G sums to the record's end.
      valid: [B, T] true on real turns.
      group: [B] int, the task instance of each trajectory.
      anchor: [B, T] int below B T, the observation that a turn answers: equal only
        within one task instance. −1 on padding.
      penalty: [B, T] 0 or more, off that turn's own score and its own G.
      gamma: discount per turn in G.
      weight: w.
      std: divide by the deviations (unbiased); without, subtract the means only.
      over: what μ and σ are taken over, see `grpo`.
      epsilon: ε.

    Returns:
      [B, T] advantages, zero on padding.

    Raises:
      ValueError: shapes differ, there is no turn, or `over` is unknown.

    Source: arXiv 2505.10978, equations 3 to 8, and its code.
    """
    group, reward, valid, anchor, penalty = whole_batch(
        "gigpo", group, reward=reward, valid=valid, anchor=anchor, penalty=penalty
    )
    dtype, valid = jnp.result_type(reward, 0.0), valid.astype(bool)
    reward = reward.astype(at_least_float32(reward))
    score = turn_scores(reward, valid, penalty)
    episode = relative(
        score,
        of_turns(group, valid),
        counted_turns(valid, over),
        std=std,
        epsilon=epsilon,
    )
    step = step_returns(reward, valid, penalty, gamma=gamma)
    at_anchor = relative(
        step,
        jnp.where(valid, anchor, -1),
        valid,
        std=std,
        lone="nothing",
        epsilon=epsilon,
    )
    return (episode + weight * at_anchor).astype(dtype)


def hgpo(
    reward: Array,
    valid: Array,
    group: Array,
    anchor: Array,
    *,
    penalty: Array | None = None,
    gamma: float = 0.95,
    history: int = 2,
    alpha: float = 1.0,
    base_group: bool = False,
    std: bool = True,
    over: str = "turns",
    epsilon: float = 1e-6,
) -> Array:
    """Hierarchy-of-groups advantages: anchors refined by what was seen before.

        Aᵏ = (Gₜ − μₖ) / (σₖ + ε)     among turns whose last k observations are equal
        A  = Σₖ wₖ Aᵏ / (Σₖ wₖ + ε)    wₖ = (k + 1)^α, k = 1 … K + 1

    G is that of `gigpo`; σₖ is the *population* deviation. Level k has no turn before
    t = k − 1: nothing is padded. Groups of one are skipped, and so are levels whose
    advantage is exactly 0. Unlike `gigpo` no episode term is added.

    Args:
      reward: [B, T] environment rewards, unshaped.
      valid: [B, T] true on real turns, from t = 0 on.
      group: [B] int, the task instance of each trajectory.
      anchor: [B, T] int below B T, see `gigpo`.
      penalty: [B, T] 0 or more, off that turn's own score and its own G.
      gamma: discount per turn in G.
      history: K, observations before the current one.
      alpha: α.
      base_group: count the episode's advantage (`grpo`) as level 0, of weight 1.
      std: divide by the deviations; without, subtract the means only.
      over: what the episode's advantage is taken over, see `grpo`.
      epsilon: ε.

    Returns:
      [B, T] advantages, zero on padding.

    Raises:
      ValueError: shapes differ, there is no turn, or `over` is unknown.

    Source: arXiv 2602.22817 and its code.
    """
    group, reward, valid, anchor, penalty = whole_batch(
        "hgpo", group, reward=reward, valid=valid, anchor=anchor, penalty=penalty
    )
    dtype, valid = jnp.result_type(reward, 0.0), valid.astype(bool)
    reward = reward.astype(at_least_float32(reward))
    step = step_returns(reward, valid, penalty, gamma=gamma)
    total, weights = jnp.zeros_like(step), jnp.zeros_like(step)

    def add(level: int, value: Array, total: Array, weights: Array):
        weight = jnp.where(value != 0, (level + 1.0) ** alpha, 0)
        return total + weight * value, weights + weight

    if base_group:
        ids, counted = of_turns(group, valid), counted_turns(valid, over)
        score = turn_scores(reward, valid, penalty)
        episode = relative(score, ids, counted, std=std, epsilon=epsilon)
        total, weights = add(0, episode, total, weights)
    ids = jnp.where(valid, anchor, -1)
    for level in range(1, history + 2):
        if level > 1:
            # The ids before, one turn earlier, and the observation now.
            longer = jnp.roll(ids, 1, axis=1).at[:, 0].set(-1)
            ids, _ = pair_ids(longer, anchor, valid & (longer >= 0))
        value = relative(
            step,
            ids,
            valid,
            std=std,
            population=True,
            lone="nothing",
            epsilon=epsilon,
        )
        total, weights = add(level, value, total, weights)
    return jnp.where(valid, total / (weights + epsilon), 0).astype(dtype)


def step_returns(
    reward: Array, valid: Array, penalty: Array | None, *, gamma: float
) -> Array:
    """[B, T] the discounted return from each turn on, less its own penalties."""
    step = returns_to_go(reward, valid, gamma=gamma)
    if penalty is not None:
        step = step - jnp.where(valid, penalty, 0).astype(step.dtype)
    return step


@dataclasses.dataclass(frozen=True)
class AtAnchors(Penalties):
    """What the methods of this page share."""

    gamma: Share = 0.95
    """Discount per turn of the returns that are compared at an anchor."""
    std: bool = True
    """Divide by the deviations; without, only means are subtracted."""
    over: Literal["turns", "trajectories"] = "turns"
    """What the task's statistics are taken over, see GRPO."""


@dataclasses.dataclass(frozen=True)
class Gigpo(AtAnchors):
    """How GiGPO assigns credit."""

    weight: NotNegative = 1.0
    """Weight of the comparison at anchors beside that of episodes."""


@dataclasses.dataclass(frozen=True)
class Hgpo(AtAnchors):
    """How HGPO assigns credit."""

    history: Whole = 2
    """Observations before the current one by which anchors are refined."""
    alpha: float = 1.0
    """Level k weighs (k + 1) to this power."""
    base_group: bool = False
    """Count the episode's advantage as level 0."""


def estimator(settings: Gigpo | Hgpo) -> Estimator:
    """The method that the settings are of; it reads no critic."""

    def advantage(batch: Batch, penalty: Array) -> Array:
        options = {
            "penalty": penalty,
            "gamma": settings.gamma,
            "std": settings.std,
            "over": settings.over,
        }
        arrays = batch.reward, batch.valid, batch.group, batch.anchor
        if isinstance(settings, Gigpo):
            return gigpo(*arrays, weight=settings.weight, **options)
        return hgpo(
            *arrays,
            history=settings.history,
            alpha=settings.alpha,
            base_group=settings.base_group,
            **options,
        )

    return critic_free(settings, advantage)
