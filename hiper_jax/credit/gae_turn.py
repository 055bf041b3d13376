"""Turn GAE: one critic that is read before each response, one advantage per turn."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.accept import Share
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.masks import to_rows
from hiper_jax.credit.common.standardize import whiten
from hiper_jax.credit.common.terms import Penalties, penalty_terms, shares
from hiper_jax.credit.common.tokens import on_responses, value_at_end
from hiper_jax.credit.estimator import Credit, Estimator
from hiper_jax.credit.gae import gae

HEADS = ("high",)


@dataclasses.dataclass(frozen=True)
class GaeTurn(Penalties):
    """How turn GAE assigns credit."""

    gamma: Share = 1.0
    """Discount per turn."""
    lambda_turn: Share = 1.0
    """Trace decay from turn to turn."""
    bootstrap: Literal["none", "same_state", "next_state"] = "none"
    """What follows an episode that was cut: nothing (as published), the last state's
    own value or the value of the state after the last action."""
    normalize: bool = True
    """Whiten over real turns, with the unbiased variance."""


def gae_turn(
    reward: Array,
    terminated: Array,
    valid: Array,
    value: Array,
    *,
    gamma: float = 1.0,
    lambda_: float = 1.0,
    bootstrap: str = "none",
    value_next: Array | None = None,
    normalize: bool = True,
) -> tuple[Array, Array]:
    """GAE over the turns of every trajectory, whitened over the batch's real turns.

        δₜ = rₜ + γ (1 − doneₜ) Vₜ₊₁ − Vₜ        Aₜ = δₜ + γ λ (1 − doneₜ) Aₜ₊₁
        Â  = (A − μ) / √(σ² + 1e-8)              σ² unbiased

    V is read before the response; nothing follows the last stored turn.

    Args:
      reward: [B, T] rewards.
      terminated: [B, T] true where the episode ended for good at this turn.
      valid: [B, T] true on real turns, one run of them per trajectory.
      value: [B, T] V, the critic's value of the state before each turn.
      gamma: γ, per turn.
      lambda_: λ.
      bootstrap: see `gae`.
      value_next: [B] for bootstrap="next_state".
      normalize: whiten; without, the advantages are raw.

    Returns:
      ([B, T] advantages, [B, T] returns), zero on padding.

    Raises:
      ValueError: as `gae`.

    Source: arXiv 1506.02438; as in HiPER's code.
    """
    one = functools.partial(gae, gamma=gamma, lambda_=lambda_, bootstrap=bootstrap)
    arrays = tuple(map(jnp.asarray, (reward, terminated, valid, value)))
    if value_next is None:
        advantage, return_ = jax.vmap(one)(*arrays)
    else:
        after = jnp.asarray(value_next)
        advantage, return_ = jax.vmap(lambda v, *a: one(*a, value_next=v))(
            after, *arrays
        )
    if normalize:
        advantage = whiten(advantage, arrays[2])
    return advantage, return_


def estimator(settings: GaeTurn) -> Estimator:
    """Turn GAE: one head, one advantage on all tokens of a response."""

    def assign(batch: Batch, values: Array) -> Credit:
        terms = penalty_terms(batch, settings)
        shaped = batch.reward + sum(terms.values())
        bootstraps = settings.bootstrap == "next_state"
        turn, return_ = gae_turn(
            shaped,
            batch.terminated,
            batch.valid,
            values[batch.row, 0],
            gamma=settings.gamma,
            lambda_=settings.lambda_turn,
            bootstrap=settings.bootstrap,
            value_next=value_at_end(batch, values[:, 0]) if bootstraps else None,
            normalize=settings.normalize,
        )
        advantage, mask = on_responses(batch, turn)
        rows = to_rows(
            return_, row=batch.row, valid=batch.valid, num_rows=mask.shape[0]
        )
        return Credit(
            advantage,
            mask,
            rows[:, None],
            batch.is_turn[:, None],
            {"shaped_reward": shaped, "advantage": turn, "return": return_},
            shares(batch, terms),
        )

    return Estimator(HEADS, read_first, assign, settings.kl_reward_coef > 0)


def read_first(batch: Batch) -> Array:
    """[N, 1] the position before the response."""
    return jnp.zeros((batch.tokens.shape[0], 1), jnp.int32)
