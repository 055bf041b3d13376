"""The interface of every estimator: a batch and the values it asks for -> credit.

    update: values = model at estimator.read_at(batch)      no heads: no critic at all
            credit = estimator.assign(batch, values)

An estimator is a pair of pure functions and the names of the value heads it reads. It
knows no model and no text. The update trains the tokens under `Credit.mask` with
`Credit.advantage`, and each head towards `Credit.return_` where `Credit.reads` says.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.groups import (
    Statistics,
    played,
    statistics,
    turn_scores,
)
from hiper_jax.credit.common.terms import Penalties, penalty_terms, shares
from hiper_jax.credit.common.tokens import on_responses


class Credit(NamedTuple):
    """What an estimator says of N rows (turns) of R response tokens, for H heads.

    Where an estimator reads its heads at every position, the three arrays of heads
    are [N, R, H].
    """

    advantage: Array  # [N, R] float32, of each response token; a constant of the loss
    mask: Array  # [N, R] bool, the tokens that carry one; the rest are not trained
    return_: Array  # [N, H] float32, what each head is regressed on
    reads: Array  # [N, H] bool, the rows that train each head
    turn: dict[str, Array]  # [B, T] each, by name: for people and for the disk
    metrics: dict[str, Array]  # [] each, by name


class Estimator(NamedTuple):
    """How credit is assigned; see the module's text."""

    # Value heads it reads, by name; () is critic-free: the compiled update then has no
    # critic pass, state, loss or optimizer.
    heads: tuple[str, ...]
    # (batch) -> [N, H] int32, the response position at which each head is read; or
    # None: at every position, and values, returns and reads are [N, R, H].
    read_at: Callable[[Batch], Array | None]
    # (batch, values [N, H]) -> Credit; values are [N, 0] without heads.
    assign: Callable[[Batch, Array], Credit]
    # Whether `assign` reads `batch.reference_log_prob`, which the update then measures.
    reads_reference: bool = False
    # Whether it reads `batch.teacher_log_prob` and `batch.entropy`, which the update
    # then measures, too, of a batch that has `teacher_tokens`.
    reads_teacher: bool = False


def read_nothing(batch: Batch) -> Array:
    """`read_at` of an estimator without heads: [N, 0]."""
    return jnp.zeros((batch.tokens.shape[0], 0), jnp.int32)


def critic_free(
    settings: Penalties, advantage: Callable[[Batch, Array], Array]
) -> Estimator:
    """An estimator of one advantage per turn (or token) that reads no critic.

    Args:
      settings: what is taken off a turn's own score.
      advantage: (batch, penalty [B, T], 0 or more) -> [B, T], or [B, T, R], one per
        response token.
    """

    def assign(batch: Batch, values: Array) -> Credit:
        del values
        terms = penalty_terms(batch, settings)
        penalty = jnp.asarray(-sum(terms.values()))
        turn = advantage(batch, penalty)
        rows, mask = on_responses(batch, turn)
        nothing = jnp.zeros((batch.tokens.shape[0], 0))
        score = turn_scores(batch.reward, batch.valid, penalty)
        told = turn if turn.ndim == 2 else turn[..., 0]
        return Credit(
            advantage=rows,
            mask=mask,
            return_=nothing,
            reads=nothing > 0,
            turn={"score": score, "advantage": told},
            metrics=shares(batch, terms)
            | sibling_metrics(batch)
            | {"group/of_penalties": of_penalties(batch, told)},
        )

    return Estimator((), read_nothing, assign, settings.kl_reward_coef > 0)


def sibling_metrics(batch: Batch) -> dict[str, Array]:
    """What a group method has to learn from, each a scalar.

    group/return: mean return of an episode; group/deviation: its mean deviation among
    siblings; group/flat: share of episodes whose siblings all have one return;
    group/alone: share of turns at an anchor that no other turn shares.
    """
    there, episodes = played(batch.valid)
    total, siblings = _returns(batch)
    flat = there & (siblings.deviation == 0)
    visits = statistics(batch.reward, batch.anchor, batch.valid).count
    turns = jnp.maximum(jnp.sum(batch.valid), 1)
    return {
        "group/return": jnp.sum(total) / episodes,
        "group/deviation": jnp.sum(jnp.where(there, siblings.deviation, 0)) / episodes,
        "group/flat": jnp.sum(flat) / episodes,
        "group/alone": jnp.sum((visits == 1) & batch.valid) / turns,
    }


def of_penalties(batch: Batch, advantage: Array) -> Array:
    """Share [] of the squared advantages [B, T] in groups whose returns are all equal.

    Only penalties tell the turns of such a group apart. Over a deviation that they
    alone make, the least of them weighs as much as a lost game.
    """
    squares = jnp.square(jnp.where(batch.valid, advantage, 0)).sum(axis=1)
    flat, whole = _returns(batch)[1].deviation == 0, jnp.sum(squares)
    return jnp.sum(jnp.where(flat, squares, 0)) / jnp.where(whole > 0, whole, 1)


def _returns(batch: Batch) -> tuple[Array, Statistics]:
    """Returns [B] of all episodes, and what those of an episode's siblings are."""
    total = turn_scores(batch.reward, batch.valid)[:, 0]
    there, _ = played(batch.valid)
    return total, statistics(total, batch.group, there)
