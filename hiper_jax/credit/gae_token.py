"""Credit token by token: PPO as the papers run it, two-level GAE and VETTA.

Every function sees one trajectory of T turns, each a response of at most R tokens that
stand at the left of its row, and values read before each token.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.accept import NotNegative, Share
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.arrays import run_ends
from hiper_jax.credit.common.groups import at_least_float32, turn_scores
from hiper_jax.credit.common.masks import to_rows
from hiper_jax.credit.common.standardize import whiten
from hiper_jax.credit.common.terms import Penalties, penalty_terms, shares
from hiper_jax.credit.common.tokens import on_responses
from hiper_jax.credit.estimator import Credit, Estimator
from hiper_jax.credit.gae import gae
from hiper_jax.kernels.segmented_scan import reverse_affine_scan


class Vetta(NamedTuple):
    """Credit and targets of one trajectory; all zero on padding."""

    advantage: Array  # [T, R] of each token
    return_turn: Array  # [T] target of the turn's value
    return_token: Array  # [T, R] target of each token's value


def gae_token(
    score: Array,
    mask: Array,
    value: Array,
    *,
    gamma: float = 1.0,
    lambda_: float = 1.0,
) -> tuple[Array, Array]:
    """PPO as the papers run it: every response is an episode of its own.

        rⱼ = [j is the turn's last token] score
        δⱼ = rⱼ + γ Vⱼ₊₁ − Vⱼ        Aⱼ = δⱼ + γ λ Aⱼ₊₁        nothing after the last

    The score is that of the whole episode, on every turn. Whiten the batch over its
    tokens afterwards, with `whiten`.

    Args:
      score: [T] as from `turn_scores`.
      mask: [T, R] response tokens.
      value: [T, R] V, read before each token.
      gamma: γ, per token.
      lambda_: λ.

    Returns:
      ([T, R] advantages, [T, R] returns), zero off the mask.

    Raises:
      ValueError: shapes differ, or there is no turn.

    Source: arXiv 1707.06347 as run by verl-agent.
    """
    mask, value, score, kind = _checked("gae_token", mask, value, score=score)
    advantage, return_ = _inside_turns(score, mask, value, gamma, lambda_)
    return advantage.astype(kind), return_.astype(kind)


def gae_bilevel(
    reward: Array,
    terminated: Array,
    valid: Array,
    mask: Array,
    value: Array,
    *,
    gamma: float = 0.95,
    lambda_turn: float = 1.0,
    gamma_token: float = 1.0,
    lambda_token: float = 1.0,
    last_token: str = "added",
) -> tuple[Array, Array]:
    """Two levels: GAE over turns, then inside each turn over its tokens.

        Aₜ   turn GAE of rewards and of V before each response
        rₜⱼ  = [j is the turn's last token] (rₜ + Aₜ)               "added"
             = [j is the turn's last token] (Aₜ + Vₜ)               "return"
        δₜⱼ = rₜⱼ + γ' Vₜⱼ₊₁ − Vₜⱼ        Aₜⱼ = δₜⱼ + γ' λ' Aₜⱼ₊₁      inside the turn

    "added" counts a turn's own reward twice, in rₜ and in Aₜ; "return" gives the last
    token the turn's return instead, as the published code does.

    Args:
      reward: [T] rewards.
      terminated: [T] true where the episode ended for good at this turn.
      valid: [T] true on real turns.
      mask: [T, R] response tokens.
      value: [T, R] V, read before each token; the first is the turn's.
      gamma: γ, per turn.
      lambda_turn: λ of the turns.
      gamma_token: γ', per token.
      lambda_token: λ'.
      last_token: "added" or "return".

    Returns:
      ([T, R] advantages, [T, R] returns), zero off the mask.

    Raises:
      ValueError: shapes differ, there is no turn, or `last_token` is unknown.

    Source: arXiv 2504.20073 (RAGEN) and 2510.16907 (VAGEN), which read the turn's value
    at its last token.
    """
    if last_token not in ("added", "return"):
        raise ValueError(
            f'last_token must be "added" or "return", but it is {last_token!r}.'
        )
    mask, value, reward, kind = _checked("gae_bilevel", mask, value, reward=reward)
    mask &= jnp.asarray(valid).astype(bool)[:, None]
    turn, return_ = gae(
        reward, terminated, valid, value[:, 0], gamma=gamma, lambda_=lambda_turn
    )
    real = jnp.where(jnp.asarray(valid).astype(bool), reward, 0)
    end = real + turn if last_token == "added" else return_
    advantage, return_ = _inside_turns(end, mask, value, gamma_token, lambda_token)
    return advantage.astype(kind), return_.astype(kind)


def vetta(
    reward: Array,
    terminated: Array,
    valid: Array,
    mask: Array,
    value_turn: Array,
    value_token: Array,
    *,
    gamma: float = 0.95,
    lambda_turn: float = 0.95,
    gamma_token: float = 1.0,
    lambda_token: float = 1.0,
    alpha: float = 1.0,
) -> Vetta:
    """The turn's advantage, moved about inside the response by its tokens'.

        Aₜⱼ = A_turn[t] + α (A_token[t, j] − mean over the response of A_token[t])

    A_turn is GAE over turns with a head of its own. A_token is GAE along all response
    tokens of the trajectory with another: the token after a response's last is the next
    response's first, and a turn's reward stands on its last token.

    Args:
      reward: [T] rewards.
      terminated: [T] true where the episode ended for good at this turn.
      valid: [T] true on real turns.
      mask: [T, R] response tokens; every real turn has one.
      value_turn: [T] the turn's value, read before the response.
      value_token: [T, R] the tokens' values, read before each.
      gamma: discount per turn.
      lambda_turn: trace decay per turn.
      gamma_token: discount per token.
      lambda_token: trace decay per token.
      alpha: α; published 1 (ALFWorld) and 3 (WebShop).

    Returns:
      `Vetta`.

    Raises:
      ValueError: shapes differ, or there is no turn.

    Source: arXiv 2610.08402, equations 3 to 7.
    """
    mask, value, reward, kind = _checked("vetta", mask, value_token, reward=reward)
    turn, return_turn = gae(
        reward, terminated, valid, value_turn, gamma=gamma, lambda_=lambda_turn
    )
    valid = jnp.asarray(valid).astype(bool)
    mask &= valid[:, None]
    token = _across_turns(
        jnp.where(valid, reward, 0),
        jnp.asarray(terminated).astype(bool),
        valid,
        mask,
        value,
        gamma_token,
        lambda_token,
    )
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    residual = token - token.sum(axis=1, keepdims=True) / count
    advantage = jnp.where(mask, turn[:, None] + alpha * residual, 0)
    out = advantage, return_turn, jnp.where(mask, token + value, 0)
    return Vetta(*(field.astype(kind) for field in out))


def _checked(function: str, mask: Array, value: Array, **turn: Array):
    """Mask [T, R] bool, value [T, R] and one array [T], both in no less than float32,
    and the type that the result has."""
    mask, value = jnp.asarray(mask).astype(bool), jnp.asarray(value)
    ((name, given),) = turn.items()
    given = jnp.asarray(given)
    if mask.ndim != 2 or mask.shape != value.shape or given.shape != mask.shape[:1]:
        raise ValueError(
            f"{function} takes one trajectory, `mask` and values of one shape [T, R] "
            f"and `{name}` [T], but got {mask.shape}, {value.shape}, {given.shape}: "
            f"jax.vmap {function} over the batch."
        )
    if 0 in mask.shape:
        raise ValueError(f"{function} needs a turn, but [T, R] is {list(mask.shape)}.")
    wide, kind = at_least_float32(value, given), jnp.result_type(value, given, 0.0)
    return mask, jnp.where(mask, value, 0).astype(wide), given.astype(wide), kind


def _last(mask: Array) -> Array:
    """[T, R] the last token of each response."""
    return jax.vmap(run_ends)(mask)[1]


def _inside_turns(end: Array, mask: Array, value: Array, gamma, lambda_):
    """GAE of each response by itself: a reward on its last token, nothing after it.

    Returns:
      ([T, R] advantages, [T, R] returns).
    """
    last = _last(mask)
    one = functools.partial(gae, gamma=gamma, lambda_=lambda_)
    reward = jnp.where(last, end[:, None], 0)
    return jax.vmap(one)(reward, jnp.zeros_like(mask), mask, value)


def _across_turns(reward, terminated, valid, mask, value, gamma, lambda_) -> Array:
    """[T, R] GAE along the response tokens of a trajectory; padding is stepped over."""
    last = _last(mask)
    goes_on = valid & ~terminated & jnp.append(valid[1:], False)
    next_turn = jnp.where(goes_on, jnp.roll(value[:, 0], -1), 0)
    after = jnp.where(last, next_turn[:, None], jnp.roll(value, -1, axis=1))
    delta = jnp.where(last, reward[:, None], 0) + gamma * after - value
    trace = gamma * lambda_ * jnp.where(last, goes_on[:, None], True)
    trace = jnp.where(mask, trace, 1)
    offset = jnp.where(mask, delta, 0)
    flat = reverse_affine_scan(trace.reshape(-1), offset.reshape(-1))
    return jnp.where(mask, flat.reshape(mask.shape), 0)


@dataclasses.dataclass(frozen=True)
class GaeToken(Penalties):
    """How PPO assigns credit as the papers run it."""

    gamma_token: Share = 1.0
    """Discount per token."""
    lambda_token: Share = 1.0
    """Trace decay from token to token."""
    normalize: bool = True
    """Whiten over response tokens, with the unbiased variance."""


@dataclasses.dataclass(frozen=True)
class GaeBilevel(Penalties):
    """How two-level GAE assigns credit."""

    gamma: Share = 0.95
    """Discount per turn."""
    lambda_turn: Share = 1.0
    """Trace decay from turn to turn."""
    gamma_token: Share = 1.0
    """Discount per token."""
    lambda_token: Share = 1.0
    """Trace decay from token to token."""
    last_token: Literal["added", "return"] = "added"
    """What a turn's last token is paid: the turn's advantage beside its reward, or the
    turn's return instead."""
    normalize: bool = True
    """Whiten over response tokens, with the unbiased variance."""


@dataclasses.dataclass(frozen=True)
class VettaSettings(Penalties):
    """How VETTA assigns credit."""

    gamma: Share = 0.95
    """Discount per turn."""
    lambda_turn: Share = 0.95
    """Trace decay from turn to turn."""
    gamma_token: Share = 1.0
    """Discount per token."""
    lambda_token: Share = 1.0
    """Trace decay from token to token."""
    alpha: NotNegative = 1.0
    """Weight of the tokens' deviation from their response's mean; published 1
    (ALFWorld) and 3 (WebShop)."""
    normalize: bool = False
    """Whiten over response tokens, with the unbiased variance; not published."""


def estimator(settings: GaeToken | GaeBilevel | VettaSettings) -> Estimator:
    """Credit token by token; values are read before every response token."""
    two_heads = isinstance(settings, VettaSettings)
    heads = ("high", "low") if two_heads else ("high",)

    def assign(batch: Batch, values: Array) -> Credit:
        terms = penalty_terms(batch, settings)
        mask = batch.response_mask[batch.row] & batch.valid[:, :, None]
        advantage, returns = _assign(batch, values[batch.row], mask, terms, settings)
        raw = advantage
        if settings.normalize:
            advantage = whiten(advantage, mask)
        N = batch.tokens.shape[0]
        place = functools.partial(to_rows, row=batch.row, valid=batch.valid, num_rows=N)
        token_advantage, carries = on_responses(batch, advantage)
        reads = jnp.broadcast_to(carries[..., None], values.shape)
        if two_heads:  # The turn's head is trained where it is read.
            first = jnp.arange(carries.shape[1])[None] == 0
            reads = reads.at[..., 0].set(carries & first)
        count = jnp.maximum(mask.sum(axis=-1), 1)
        mean = jnp.where(mask, raw, 0).sum(axis=-1) / count
        turn = {"advantage": jnp.where(batch.valid, mean, 0)}
        return Credit(
            token_advantage, carries, place(returns), reads, turn, shares(batch, terms)
        )

    return Estimator(heads, _everywhere, assign, settings.kl_reward_coef > 0)


def _everywhere(batch: Batch) -> None:
    """`read_at` of an estimator that reads its heads before every token."""
    del batch


def _assign(batch, values, mask, terms, settings) -> tuple[Array, Array]:
    """Raw advantages [B, T, R] and returns [B, T, R, H] of values [B, T, R, H]."""
    shaped = batch.reward + sum(terms.values())
    turns = shaped, batch.terminated, batch.valid, mask
    tokens = {
        "gamma": settings.gamma_token,
        "lambda_": settings.lambda_token,
    }
    if isinstance(settings, GaeToken):
        penalty = jnp.asarray(-sum(terms.values()))
        score = turn_scores(batch.reward, batch.valid, penalty)
        one = functools.partial(gae_token, **tokens)
        advantage, return_ = jax.vmap(one)(score, mask, values[..., 0])
        return advantage, return_[..., None]
    levels: dict[str, float] = {
        "gamma": settings.gamma,
        "lambda_turn": settings.lambda_turn,
        "gamma_token": settings.gamma_token,
        "lambda_token": settings.lambda_token,
    }
    if isinstance(settings, GaeBilevel):
        two: Callable = functools.partial(
            gae_bilevel, last_token=settings.last_token, **levels
        )
        advantage, return_ = jax.vmap(two)(*turns, values[..., 0])
        return advantage, return_[..., None]
    both: Callable = functools.partial(vetta, alpha=settings.alpha, **levels)
    out = jax.vmap(both)(*turns, values[:, :, 0, 0], values[..., 1])
    first = jnp.zeros_like(out.return_token).at[..., 0].set(out.return_turn)
    return out.advantage, jnp.stack([first, out.return_token], axis=-1)
