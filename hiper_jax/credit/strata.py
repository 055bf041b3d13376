"""StraTA's credit: strategies against strategies, steps within a strategy.

The system around it (`act.strategy`: drawing strategies, choosing far ones, judging
steps) hands over what was drawn; only its credit is here.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from hiper_jax.accept import Count, Penalty, Positive, SettingError, Share
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.groups import (
    at_least_float32,
    group_sum,
    look_up,
    of_turns,
    played,
    relative,
    statistics,
    turn_scores,
    whole_batch,
)
from hiper_jax.credit.common.masks import to_rows
from hiper_jax.credit.common.terms import Penalties, penalty_terms, shares
from hiper_jax.credit.common.tokens import on_responses
from hiper_jax.credit.estimator import (
    Credit,
    Estimator,
    read_nothing,
    sibling_metrics,
)


class Strata(NamedTuple):
    """Credit of both levels."""

    strategy: Array  # [B] of each trajectory's strategy, for the tokens that wrote it
    action: Array  # [B, T] of each turn, for its response; zero on padding
    strategy_reward: Array  # [B] R(z) of each trajectory's strategy


@dataclasses.dataclass(frozen=True)
class StrataSettings(Penalties):
    """How StraTA draws strategies and assigns credit."""

    candidates: Count = 32
    """Strategies drawn for a task, of which those that are far apart are kept."""
    strategies: Count = 4
    """Strategies of a task that are kept."""
    trajectories: Count = 8
    """Episodes under each strategy: the samples of a task are this many times
    `strategies`."""
    top_share: Share = 0.5
    """Share of a strategy's trajectories, the best ones, that its reward is the mean
    of."""
    flag_penalty: Penalty = 0.1
    """Off a step that was judged neither to follow the strategy nor to advance."""
    epsilon: Positive = 1e-6
    """Added to the deviations."""

    def __post_init__(self):
        super().__post_init__()
        if self.strategies > self.candidates:
            raise SettingError(
                type(self),
                "strategies",
                f"must be at most the {self.candidates} candidates, got "
                f"{self.strategies}: they are chosen among them",
            )


def strata(
    reward: Array,
    valid: Array,
    group: Array,
    strategy: Array,
    flagged: Array | None = None,
    *,
    penalty: Array | None = None,
    top_share: float = 0.5,
    flag_penalty: float = 0.1,
    epsilon: float = 1e-6,
) -> Strata:
    """Two levels of group-relative advantages.

        R(z)       = mean of the best ⌈δ M⌉ of S over the M trajectories under z
        A_strategy = z-score of R(z) over the strategies of the task
        A_action   = z-score of S_b − κ [flagged] − penalty over the turns under z

    z-scores divide by the unbiased deviation + ε; a strategy without another, and a
    turn without another, gets 0.

    Args:
      reward: [B, T] environment rewards, unshaped.
      valid: [B, T] true on real turns.
      group: [B] int, the task instance of each trajectory.
      strategy: [B] int below B, equal for trajectories under one strategy of one task.
      flagged: [B, T] the step was judged to help nothing; None: none was.
      penalty: [B, T] 0 or more, off that turn's own step reward.
      top_share: δ.
      flag_penalty: κ.
      epsilon: ε.

    Returns:
      `Strata`.

    Raises:
      ValueError: shapes differ, or there is no turn.

    Source: arXiv 2605.06642.
    """
    group, reward, valid, flagged, penalty = whole_batch(
        "strata", group, reward=reward, valid=valid, flagged=flagged, penalty=penalty
    )
    strategy, kind = jnp.asarray(strategy), jnp.result_type(reward, 0.0)
    if strategy.shape != group.shape:
        raise ValueError(
            f"strata needs `strategy` of shape [B] = [{group.shape[0]}], "
            f"but its shape is {strategy.shape}."
        )
    valid = valid.astype(bool)
    reward = reward.astype(at_least_float32(reward))
    total = jnp.where(valid, reward, 0).sum(axis=1)
    every = strategy >= 0
    reward_z = _best_mean(total, strategy, every, top_share)

    # Each strategy counts once: at the first of its trajectories.
    same = (strategy[:, None] == strategy[None, :]) & every[None, :]
    opens = every & (jnp.argmax(same, axis=1) == jnp.arange(len(strategy)))
    task = jnp.where(every, group, -1)
    of_strategy = relative(reward_z, task, opens, lone="nothing", epsilon=epsilon)

    step = turn_scores(reward, valid, penalty)
    if flagged is not None:
        step = step - jnp.where(valid & flagged.astype(bool), flag_penalty, 0)
    under = of_turns(strategy, valid)
    action = relative(step, under, valid, lone="nothing", epsilon=epsilon)
    return Strata(of_strategy.astype(kind), action.astype(kind), reward_z.astype(kind))


def _best_mean(total: Array, strategy: Array, every: Array, share: float) -> Array:
    """[B] the mean of the best share of the returns under each one's strategy."""
    same = (strategy[:, None] == strategy[None, :]) & every[:, None] & every[None, :]
    place = jnp.arange(len(total))
    better = total[None, :] > total[:, None]
    tied = (total[None, :] == total[:, None]) & (place[None, :] < place[:, None])
    rank = jnp.sum(same & (better | tied), axis=1)
    members = statistics(total, strategy, every).count
    # 1e-6: half of 8 is 4, whatever rounding says.
    count = jnp.maximum(jnp.ceil(share * members - 1e-6), 1)
    taken = every & (rank < count)
    best = look_up(group_sum(total, strategy, taken), strategy)
    return best / count


def estimator(settings: StrataSettings) -> Estimator:
    """StraTA's two levels; it reads no critic, but `strategy` of the batch.

    Tokens of the rows that wrote the strategies (`strategy_row`) carry A_strategy, all
    response tokens of turns A_action.
    """

    def assign(batch: Batch, values: Array) -> Credit:
        if batch.strategy is None:
            raise ValueError("strata needs batch.strategy, the strategies followed")
        terms = penalty_terms(batch, settings)
        out = strata(
            batch.reward,
            batch.valid,
            batch.group,
            batch.strategy,
            batch.flagged,
            penalty=jnp.asarray(-sum(terms.values())),
            top_share=settings.top_share,
            flag_penalty=settings.flag_penalty,
            epsilon=settings.epsilon,
        )
        advantage, mask = on_responses(batch, out.action)
        if batch.strategy_row is not None:
            advantage, mask = _on_strategies(batch, out.strategy, advantage, mask)
        turn = {"advantage": out.action}
        flags = jnp.zeros(()) if batch.flagged is None else _share(batch)
        there, episodes = played(batch.valid)
        metrics = {
            "strategy/reward": jnp.sum(jnp.where(there, out.strategy_reward, 0))
            / episodes,
            "strategy/flagged": flags,
        }
        return Credit(
            advantage,
            mask,
            values,
            jnp.zeros(values.shape, bool),
            turn,
            shares(batch, terms) | sibling_metrics(batch) | metrics,
        )

    return Estimator((), read_nothing, assign, settings.kl_reward_coef > 0)


def _on_strategies(batch: Batch, of_strategy: Array, advantage: Array, mask: Array):
    """Adds the rows that wrote the strategies."""
    B, N = len(of_strategy), mask.shape[0]
    # An id below zero would count from the end.
    ids = jnp.where(batch.strategy >= 0, batch.strategy, B)
    by_id = jnp.zeros(B, of_strategy.dtype).at[ids].set(of_strategy, mode="drop")
    wrote = (batch.strategy_row >= 0)[:, None]
    place = {"row": batch.strategy_row[:, None], "valid": wrote, "num_rows": N}
    rows = to_rows(by_id[:, None], **place)[:, None]
    here = to_rows(wrote, **place)[:, None] & batch.response_mask
    return jnp.where(here, rows, advantage), mask | here


def _share(batch: Batch) -> Array:
    turns = jnp.maximum(jnp.sum(batch.valid), 1)
    return jnp.sum(batch.flagged & batch.valid) / turns
