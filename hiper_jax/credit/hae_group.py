"""HAE without critics: its three levels against siblings. Ours; nothing published."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.accept import Share
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.arrays import boundaries, run_ends, segment_starts
from hiper_jax.credit.common.groups import (
    at_least_float32,
    pair_ids,
    played,
    statistics,
    whole_batch,
)
from hiper_jax.credit.common.terms import Shaping, shaping_terms, shares
from hiper_jax.credit.common.tokens import Carriers, on_blocks
from hiper_jax.credit.estimator import (
    Credit,
    Estimator,
    read_nothing,
    sibling_metrics,
)
from hiper_jax.credit.gae import gae
from hiper_jax.credit.hae import HAE, hae


@dataclasses.dataclass(frozen=True)
class HaeGroup(Carriers, Shaping):
    """How HAE without critics assigns credit; penalties are subtracted."""

    gamma: Share = 1.0
    """Discount per turn."""
    lambda_turn: Share = 1.0
    """Trace decay from turn to turn inside a segment."""
    lambda_segment: Share = 1.0
    """Trace decay from segment to segment, for the planner."""
    lambda_boundary: Share = 1.0
    """How far the executor's and the switch's traces cross a segment's end; below 1
    they lean on the mean of siblings there, if there are any."""


def hae_group(
    reward: Array,
    terminated: Array,
    valid: Array,
    switch: Array,
    group: Array,
    anchor: Array,
    subgoal: Array,
    *,
    gamma: float = 1.0,
    lambda_turn: float = 1.0,
    lambda_segment: float = 1.0,
    lambda_boundary: float = 1.0,
) -> HAE:
    """HAE with the means of siblings in place of its three critics.

    This is our own: people who port HiPER drop its critics to save half the memory,
    and this is what remains of the hierarchy then. With Gₜ = Σₖ γᵏ rₜ₊ₖ, means over
    turns of one task:

        H(s)    mean G of turns at equal anchors that start a segment     V_high
        L(s, g) mean G of turns at equal (anchor, subgoal)                V_low
        W(s)    mean G of turns at equal anchors                          V_switch

    and a turn that has no company takes the mean over siblings of G at their first
    turns. `hae` does the rest. With all λ at 1, the default, nothing bootstraps, and
    the advantages are G − H, G − L and G − W.

    Args:
      reward: [B, T] (shaped) rewards.
      terminated: [B, T] true where the episode ended for good at this turn.
      valid: [B, T] true on real turns, one run of them per trajectory.
      switch: [B, T] true where a turn starts a new subgoal; the first always does.
      group: [B] int, the task instance of each trajectory.
      anchor: [B, T] int below B T, the observation that a turn answers: equal only
        within one task instance. −1 on padding.
      subgoal: [B, T] int, equal for equal subgoals; −1 for none, which is one, too.
      gamma: γ, per turn.
      lambda_turn, lambda_segment, lambda_boundary: see `hae`.

    Returns:
      `HAE` of [B, T] arrays; the returns are Monte-Carlo's, for people only.

    Raises:
      ValueError: shapes differ, or there is no turn.
    """
    group, reward, terminated, valid, switch, anchor, subgoal = whole_batch(
        "hae_group",
        group,
        reward=reward,
        terminated=terminated,
        valid=valid,
        switch=switch,
        anchor=anchor,
        subgoal=subgoal,
    )
    kind, valid = jnp.result_type(reward, 0.0), valid.astype(bool)
    reward = reward.astype(at_least_float32(reward))
    nothing = jnp.zeros_like(reward)
    to_go = jax.vmap(functools.partial(gae, gamma=gamma))
    returns, _ = to_go(reward, terminated, valid, nothing)
    starts = jax.vmap(boundaries)(switch, valid)
    first = jax.vmap(run_ends)(valid)[0]
    whole = jnp.where(first, returns, 0).sum(axis=1)
    siblings = statistics(whole, group, valid.any(axis=1)).mean[:, None]

    def mean(ids: Array, counted: Array) -> Array:
        """[B, T] the mean G of a turn's company; its siblings' without one."""
        here = statistics(returns, jnp.where(counted, ids, -1), counted)
        return jnp.where(here.count > 1, here.mean, siblings)

    under, _ = pair_ids(anchor, subgoal, valid)
    estimate = jax.vmap(
        functools.partial(
            hae,
            gamma=gamma,
            lambda_turn=lambda_turn,
            lambda_segment=lambda_segment,
            lambda_boundary=lambda_boundary,
        )
    )(
        reward,
        terminated,
        valid,
        switch,
        mean(under, valid),
        mean(anchor, starts),
        mean(anchor, valid),
    )
    return HAE(*(field.astype(kind) for field in estimate))


def estimator(settings: HaeGroup) -> Estimator:
    """Three advantages on their blocks, without a critic."""

    def assign(batch: Batch, values: Array) -> Credit:
        terms = shaping_terms(batch, settings)
        shaped = batch.reward + sum(terms.values())
        estimate = hae_group(
            shaped,
            batch.terminated,
            batch.valid,
            segment_starts(batch.segment),
            batch.group,
            batch.anchor,
            batch.subgoal_id,
            gamma=settings.gamma,
            lambda_turn=settings.lambda_turn,
            lambda_segment=settings.lambda_segment,
            lambda_boundary=settings.lambda_boundary,
        )
        placed = on_blocks(batch, *estimate[:3], settings)
        names = ("low", "high", "switch")
        turn = {"shaped_reward": shaped}
        turn |= {f"advantage_{n}": a for n, a in zip(names, placed.turns, strict=True)}
        starts = jnp.sum(segment_starts(batch.segment)) / played(batch.valid)[1]
        return Credit(
            advantage=placed.advantage,
            mask=placed.mask,
            return_=values,
            reads=jnp.zeros(values.shape, bool),
            turn=turn,
            metrics=shares(batch, terms)
            | sibling_metrics(batch)
            | placed.sigmas
            | {"value/segments": starts},
        )

    return Estimator((), read_nothing, assign, settings.kl_reward_coef > 0)
