"""Whole episodes against their siblings: GRPO, Dr. GRPO, RLOO and REINFORCE++.

Every function takes a whole batch and the score of each turn,

    score[b, t] = S_b − penalty[b, t]        S_b the undiscounted sum of all rewards

and gives one advantage per turn, for all tokens of its response. Only siblings are
compared: equal entries of `group`.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax import Array

from hiper_jax.accept import Share
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.groups import (
    at_least_float32,
    counted_turns,
    of_turns,
    relative,
    statistics,
    turn_scores,
    whole_batch,
)
from hiper_jax.credit.common.standardize import whiten
from hiper_jax.credit.common.terms import Penalties
from hiper_jax.credit.estimator import Estimator, critic_free


def grpo(
    reward: Array,
    valid: Array,
    group: Array,
    *,
    penalty: Array | None = None,
    over: str = "turns",
    epsilon: float = 1e-6,
) -> Array:
    """Group-relative advantages: a z-score among siblings.

        A = (score − μ) / (σ + ε)        μ, σ of the task; σ unbiased

    A group of one has μ = 0 and σ = 1: score / (1 + ε).

    Args:
      reward: [B, T] environment rewards, unshaped.
      valid: [B, T] true on real turns.
      group: [B] int, the task instance of each trajectory.
      penalty: [B, T] 0 or more, taken off that turn's own score.
      over: "turns" (published) takes μ and σ over all real turns of the task, so that
        long trajectories weigh more; "trajectories" over the first turn of each.
      epsilon: ε.

    Returns:
      [B, T] advantages, zero on padding.

    Raises:
      ValueError: shapes differ, there is no turn, or `over` is unknown.

    Source: arXiv 2402.03300 and verl-agent's code.
    """
    score, ids, counted, dtype = _scores("grpo", reward, valid, group, penalty, over)
    return relative(score, ids, counted, epsilon=epsilon).astype(dtype)


def drgrpo(
    reward: Array,
    valid: Array,
    group: Array,
    *,
    penalty: Array | None = None,
    over: str = "turns",
) -> Array:
    """Dr. GRPO: score − μ. A group of one gives the score.

    Half of the method: the other half is the loss `seq-mean-token-sum-norm` with a
    constant divisor, the longest response allowed.

    Args and errors are those of `grpo`.

    Source: arXiv 2503.20783 and verl-agent's code.
    """
    score, ids, counted, dtype = _scores("drgrpo", reward, valid, group, penalty, over)
    return relative(score, ids, counted, std=False).astype(dtype)


def rloo(
    reward: Array,
    valid: Array,
    group: Array,
    *,
    penalty: Array | None = None,
    over: str = "turns",
) -> Array:
    """Leave-one-out: the score against the mean of all the others.

        A = n / (n − 1) · (score − μ)        n counted over turns or trajectories

    A group of one gives the score. Args and errors are those of `grpo`.

    Source: arXiv 2402.14740 and verl-agent's code.
    """
    score, ids, counted, dtype = _scores("rloo", reward, valid, group, penalty, over)
    n = statistics(score, ids, counted).count
    centred = relative(score, ids, counted, std=False)
    return (jnp.where(n > 1, n / jnp.maximum(n - 1, 1), 1) * centred).astype(dtype)


def reinforce_pp_baseline(
    reward: Array,
    valid: Array,
    group: Array,
    tokens: Array,
    *,
    penalty: Array | None = None,
    over: str = "turns",
) -> Array:
    """REINFORCE++ with the task's mean: (score − μ), whitened over response tokens.

    μ is 0 for a group of one. Whitening is that of `whiten`, every turn weighed by its
    response tokens.

    Args:
      reward: [B, T] environment rewards, unshaped.
      valid: [B, T] true on real turns.
      group: [B] int, the task instance of each trajectory.
      tokens: [B, T] int, response tokens of each turn.
      penalty: [B, T] 0 or more, taken off that turn's own score.
      over: "turns" (published) or "trajectories", what μ is taken over.

    Returns:
      [B, T] advantages, zero on padding.

    Raises:
      ValueError: shapes differ, there is no turn, or `over` is unknown.

    Source: arXiv 2501.03262 and verl-agent's code.
    """
    name = "reinforce_pp_baseline"
    score, ids, counted, dtype = _scores(name, reward, valid, group, penalty, over)
    centred = relative(score, ids, counted, std=False)
    return whiten(centred, ids >= 0, weight=tokens).astype(dtype)


def reinforce_pp(
    reward: Array,
    valid: Array,
    tokens: Array,
    *,
    penalty: Array | None = None,
    gamma: float = 1.0,
    width: int | None = None,
) -> Array:
    """REINFORCE++: the score stands on the turn's last token, whitened over tokens.

        G[j] = γ^(K − 1 − j) score        token j of the K of the turn
        A = (G − μ) / √(σ² + 1e-8)        over the response tokens of the whole batch

    Siblings play no part.

    Args:
      reward: [B, T] environment rewards, unshaped.
      valid: [B, T] true on real turns.
      tokens: [B, T] int, response tokens K of each turn.
      penalty: [B, T] 0 or more, taken off that turn's own score.
      gamma: discount per token; 1 gives all tokens of a turn one advantage.
      width: R, at least the largest K, for an advantage of each token.

    Returns:
      [B, T] advantages; with `width`, [B, T, R]. Zero on padding.

    Raises:
      ValueError: shapes differ, there is no turn, or γ < 1 without `width`.

    Source: arXiv 2501.03262 and verl's code.
    """
    group = jnp.zeros(jnp.shape(reward)[:1], jnp.int32)
    score, ids, _, dtype = _scores(
        "reinforce_pp", reward, valid, group, penalty, "turns"
    )
    real, tokens = ids >= 0, jnp.asarray(tokens)
    if width is None:
        if isinstance(gamma, float | int) and gamma != 1:
            raise ValueError(
                "reinforce_pp with gamma < 1 gives every token its own advantage: "
                "say how many a response has, `width`."
            )
        return whiten(score, real, weight=tokens).astype(dtype)
    to_last = tokens[..., None] - 1 - jnp.arange(width)[None, None]
    mask = real[..., None] & (to_last >= 0)
    value = score[..., None] * gamma ** jnp.maximum(to_last, 0).astype(score.dtype)
    return whiten(value, mask).astype(dtype)


def _scores(function, reward, valid, group, penalty, over):
    """Scores [B, T], group of each turn [B, T], turns counted, the result's type."""
    group, reward, valid, penalty = whole_batch(
        function, group, reward=reward, valid=valid, penalty=penalty
    )
    dtype, valid = jnp.result_type(reward, 0.0), valid.astype(bool)
    score = turn_scores(reward.astype(at_least_float32(reward)), valid, penalty)
    return score, of_turns(group, valid), counted_turns(valid, over), dtype


@dataclasses.dataclass(frozen=True)
class OverGroup(Penalties):
    """What all methods of this page share."""

    over: Literal["turns", "trajectories"] = "turns"
    """What the task's statistics are taken over: all its turns, as published, so that
    long trajectories weigh more, or each trajectory once."""


@dataclasses.dataclass(frozen=True)
class Grpo(OverGroup):
    """How GRPO assigns credit."""


@dataclasses.dataclass(frozen=True)
class DrGrpo(OverGroup):
    """How Dr. GRPO assigns credit; its loss is `seq-mean-token-sum-norm`."""


@dataclasses.dataclass(frozen=True)
class Rloo(OverGroup):
    """How RLOO assigns credit."""


@dataclasses.dataclass(frozen=True)
class ReinforcePPBaseline(OverGroup):
    """How REINFORCE++ with the task's mean assigns credit."""


@dataclasses.dataclass(frozen=True)
class ReinforcePP(Penalties):
    """How REINFORCE++ assigns credit."""

    gamma_token: Share = 1.0
    """Discount per token, from the turn's last token backwards."""


def estimator(
    settings: Grpo | DrGrpo | Rloo | ReinforcePPBaseline | ReinforcePP,
) -> Estimator:
    """The method that the settings are of; it reads no critic."""

    def advantage(batch: Batch, penalty: Array) -> Array:
        arrays = batch.reward, batch.valid, batch.group
        tokens = batch.response_mask.sum(axis=1)[batch.row]
        match settings:
            case ReinforcePP(gamma_token=gamma):
                width = None if gamma == 1 else batch.response_mask.shape[1]
                return reinforce_pp(
                    *arrays[:2], tokens, penalty=penalty, gamma=gamma, width=width
                )
            case ReinforcePPBaseline(over=over):
                return reinforce_pp_baseline(
                    *arrays, tokens, penalty=penalty, over=over
                )
            case DrGrpo(over=over):
                return drgrpo(*arrays, penalty=penalty, over=over)
            case Rloo(over=over):
                return rloo(*arrays, penalty=penalty, over=over)
            case Grpo(over=over):
                return grpo(*arrays, penalty=penalty, over=over)
        raise TypeError(f"no method of this page has settings {settings!r}")

    return critic_free(settings, advantage)
