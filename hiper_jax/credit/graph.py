"""Siblings merged into a graph of observations: G2PO, GraphGPO and CRBC.

A node is an anchor, an edge a turn; the last turn of a record leads to success or to
failure, and running out of turns is failure. With x(b, t) the node that turn t of
trajectory b leads to, K_b its turns, N(s) the visits to node s:

    mean over visits     V(s) ← 1/N(s) Σ over turns at s of f(x)

is one gather and one `segment_sum` over the batch's turns, so that a backup over all
tasks costs no more than a sum; no matrix of nodes is ever made.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from hiper_jax.accept import NotNegative, Positive, Share, Whole
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.arrays import run_ends
from hiper_jax.credit.common.groups import (
    at_least_float32,
    counted_turns,
    group_sum,
    look_up,
    of_turns,
    pair_ids,
    relative,
    statistics,
    turn_scores,
    whole_batch,
)
from hiper_jax.credit.common.terms import Penalties
from hiper_jax.credit.estimator import Estimator, critic_free

# Backups after which the fixed point is taken as it is; at β = .98 worth 2e-9.
MOST_BACKUPS = 1000


def g2po(
    reward: Array,
    valid: Array,
    group: Array,
    anchor: Array,
    success: Array,
    *,
    penalty: Array | None = None,
    gamma: float = 0.95,
    weight: float = 1.0,
    std: bool = True,
    over: str = "turns",
    epsilon: float = 1e-6,
) -> Array:
    """Group-graph advantages: where a turn led, at its node and in the whole graph.

        V(s) = mean over visits of γ^(K_b − t) S_b        the last turn has exponent 1
        Y    = V(x); S_b after a success, 0 after a failure
        A    = episode + w [ z(Y − penalty | node) + z(Y − V(s) | task) ]

    z is the z-score (unbiased, + ε) among the turns of one node, 0 for a node of one,
    and among all turns of the task. The episode's term is that of `gigpo`.

    Args:
      reward: [B, T] environment rewards, unshaped.
      valid: [B, T] true on real turns, one run of them.
      group: [B] int, the task instance of each trajectory.
      anchor: [B, T] int below B T, the observation that a turn answers: equal only
        within one task instance. −1 on padding.
      success: [B] the episode was won.
      penalty: [B, T] 0 or more, of each turn (published 0.1 on invalid ones).
      gamma: γ, per turn.
      weight: w.
      std: divide by the deviations; without, subtract the means only.
      over: what the episode's μ and σ are taken over, see `grpo`.
      epsilon: ε.

    Returns:
      [B, T] advantages, zero on padding.

    Raises:
      ValueError: shapes differ, there is no turn, or `over` is unknown.

    Source: arXiv 2606.22995 and its code.
    """
    turns = _Turns("g2po", reward, valid, group, anchor, success, penalty)
    episode = turns.episode(over, std, epsilon)
    total = turn_scores(turns.reward, turns.valid)
    node = statistics(gamma**turns.to_end * total, turns.node, turns.valid).mean
    after = jnp.roll(node, -1, axis=1)
    after = jnp.where(turns.last, jnp.where(turns.won, total, 0), after)
    options = {"std": std, "lone": "nothing", "epsilon": epsilon}
    leads = relative(after - turns.penalty, turns.node, turns.valid, **options)
    gains = relative(after - node, turns.task, turns.valid, **options)
    return (episode + weight * (leads + gains)).astype(turns.dtype)


def graphgpo(
    reward: Array,
    valid: Array,
    group: Array,
    anchor: Array,
    success: Array,
    *,
    penalty: Array | None = None,
    gamma: float = 0.1,
    full_reward: float = 10.0,
    weight: float = 1.0,
    episode_weight: float = 1.0,
    std: bool = True,
    over: str = "turns",
    epsilon: float = 1e-6,
) -> Array:
    """Advantages by how much nearer to success a turn led.

        d(s) = fewest turns from s to success in the task's graph, d(success) = 0
        Y    = R γ^(d(x) − d(s) + 1)                  R where the turn led one nearer
        A    = w_E episode + w (Y − μₛ) / (σₛ + ε)    among the turns of one node

    Where no path is known, failure included, d is one more than the task's largest.
    The episode's term is that of `gigpo`.

    Args:
      reward: [B, T] environment rewards, unshaped.
      valid: [B, T] true on real turns, one run of them.
      group: [B] int, the task instance of each trajectory.
      anchor: [B, T] int below B T, see `g2po`.
      success: [B] the episode was won.
      penalty: [B, T] 0 or more, off that turn's own score.
      gamma: γ, per turn; published 0.1 (ALFWorld), 0.2 (WebShop).
      full_reward: R, of a success.
      weight: w.
      episode_weight: w_E.
      std: divide by the deviations; without, subtract the means only.
      over: what the episode's μ and σ are taken over, see `grpo`.
      epsilon: ε.

    Returns:
      [B, T] advantages, zero on padding.

    Raises:
      ValueError: shapes differ, there is no turn, or `over` is unknown.

    Source: arXiv 2605.26684 and its code.
    """
    turns = _Turns("graphgpo", reward, valid, group, anchor, success, penalty)
    episode = turns.episode(over, std, epsilon)
    now, after = _distances(turns)
    step = full_reward * gamma ** (after - now + 1).astype(turns.reward.dtype)
    options = {"std": std, "lone": "nothing", "epsilon": epsilon}
    at_node = relative(step, turns.node, turns.valid, **options)
    return (episode_weight * episode + weight * at_node).astype(turns.dtype)


def crbc(
    reward: Array,
    valid: Array,
    group: Array,
    anchor: Array,
    action: Array,
    success: Array,
    *,
    penalty: Array | None = None,
    beta: float = 0.98,
    weight_group: float = 1.0,
    weight_step: float = 5.0,
    sigma_min: float = 0.1,
    depth: int | None = None,
    over: str = "turns",
    epsilon: float = 1e-6,
) -> Array:
    """Cross-rollout Bellman closure: the siblings' own process, solved exactly.

        μ(a|s) = N(s,a) / N(s)          P(x|s,a) = N(s,a,x) / N(s,a)
        V(s)   = β Σₐ μ Σₓ P V(x)        V(success) = 1, V(failure) = 0
        Q(s,a) = β Σₓ P V(x)             σ(s)² = Σₐ μ (Q − V)²
        A = w_G A_grpo + w_S [at least two actions at s] (Q − V) / max(σ, σ_min)

    V is the limit of the backups V ← β Σ μ Σ P V, from V⁰(s), the mean over visits of
    β^(K_b − t) [won]. With `depth` K: V = Vᴷ and Q by Vᴷ⁻¹; K = 0 takes the mean over
    visits to (s, a) for Q⁰. All turns of one (s, a) share one credit.

    Args:
      reward: [B, T] environment rewards, unshaped; only for A_grpo.
      valid: [B, T] true on real turns, one run of them.
      group: [B] int, the task instance of each trajectory.
      anchor: [B, T] int below B T, see `g2po`.
      action: [B, T] int, equal for equal actions at one anchor; −1 on padding.
      success: [B] the episode was won; running out of turns is failure.
      penalty: [B, T] 0 or more, off that turn's own score in A_grpo.
      beta: β, per turn.
      weight_group: w_G.
      weight_step: w_S.
      sigma_min: floor of σ, where all actions are nearly as good.
      depth: K backups; None: the closure.
      over: what A_grpo's μ and σ are taken over, see `grpo`.
      epsilon: of A_grpo.

    Returns:
      [B, T] advantages, zero on padding.

    Raises:
      ValueError: shapes differ, there is no turn, or `over` is unknown.

    Source: arXiv 2609.35082, equations 5 to 14.
    """
    turns = _Turns("crbc", reward, valid, group, anchor, success, penalty)
    episode = turns.episode(over, True, epsilon)
    chosen, opens = pair_ids(turns.node, jnp.asarray(action), turns.valid)
    ones = jnp.ones_like(turns.reward)
    choices = look_up(group_sum(ones, turns.node, opens), turns.node)

    def mean(x: Array, ids: Array) -> Array:
        visits = jnp.maximum(group_sum(ones, ids, turns.valid), 1)
        return look_up(group_sum(x, ids, turns.valid) / visits, ids)

    def backup(value: Array) -> Array:
        """[B, T] β times the value of where each turn led."""
        after = jnp.roll(value, -1, axis=1)
        return beta * jnp.where(turns.last, turns.won, after)

    own = beta**turns.to_end * turns.won
    value, before = mean(own, turns.node), own
    if depth is None:
        value = _fixed_point(lambda v: mean(backup(v), turns.node), value)
        before = backup(value)
    for _ in range(depth or 0):
        before = backup(value)
        value = mean(before, turns.node)
    gain = mean(before, chosen) - value
    sigma = jnp.sqrt(mean(gain**2, turns.node))
    step = jnp.where(choices >= 2, gain / jnp.maximum(sigma, sigma_min), 0)
    total = weight_group * episode + weight_step * step
    return jnp.where(turns.valid, total, 0).astype(turns.dtype)


def _distances(turns: "_Turns") -> tuple[Array, Array]:
    """Fewest turns to success from each turn's node and from where it led.

    Returns:
      Two [B, T] int32; one more than the task's largest where no path is known.
    """
    far = turns.valid.size + 1
    slot = jnp.where(turns.node >= 0, turns.node, turns.valid.size).reshape(-1)

    def after(now: Array) -> Array:
        ends = jnp.where(turns.won > 0, 0, far)
        return jnp.where(turns.last, ends, jnp.roll(now, -1, axis=1))

    def nearer(state: tuple[Array, Array]) -> tuple[Array, Array]:
        now, _ = state
        reach = jnp.minimum(after(now) + 1, far).reshape(-1)
        table = jax.ops.segment_min(reach, slot, turns.valid.size + 1)
        found = jnp.where(turns.node >= 0, table[slot.reshape(now.shape)], far)
        return found, jnp.any(found != now)

    start = jnp.full(turns.valid.shape, far, jnp.int32)
    now, _ = lax.while_loop(lambda s: s[1], nearer, (start, jnp.array(True)))
    known = jnp.where(now < far, now, 0).reshape(-1)
    task = jnp.where(turns.task >= 0, turns.task, turns.valid.size).reshape(-1)
    largest = jax.ops.segment_max(known, task, turns.valid.size + 1)
    beyond = largest[task].reshape(now.shape) + 1
    return jnp.minimum(now, beyond), jnp.minimum(after(now), beyond)


def _fixed_point(backup, start: Array) -> Array:
    """Applies a contraction until nothing moves any more."""

    def moves(state: tuple[Array, Array, Array]) -> Array:
        count, _, change = state
        return (change > 3e-8) & (count < MOST_BACKUPS)

    def once(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, value, _ = state
        after = backup(value)
        return count + 1, after, jnp.max(jnp.abs(after - value))

    first = jnp.zeros((), jnp.int32), start, jnp.full((), jnp.inf, start.dtype)
    return lax.while_loop(moves, once, first)[1]


class _Turns:
    """The arrays of a batch, checked, and what every graph method reads off them."""

    def __init__(self, function, reward, valid, group, anchor, success, penalty):
        group, reward, valid, anchor, penalty = whole_batch(
            function, group, reward=reward, valid=valid, anchor=anchor, penalty=penalty
        )
        success = jnp.asarray(success)
        if success.shape != group.shape:
            raise ValueError(
                f"{function} needs `success` of shape [B] = [{group.shape[0]}], "
                f"but its shape is {success.shape}."
            )
        self.dtype = jnp.result_type(reward, 0.0)
        kind = at_least_float32(reward)
        self.valid = valid.astype(bool)
        self.reward = jnp.where(self.valid, reward, 0).astype(kind)
        self.penalty = jnp.zeros_like(self.reward)
        if penalty is not None:
            self.penalty = jnp.where(self.valid, penalty, 0).astype(kind)
        self.task = of_turns(group, self.valid)  # [B, T] int, −1 on padding
        self.node = jnp.where(self.valid, anchor, -1)  # [B, T] int, −1 on padding
        _, self.last = jax.vmap(run_ends)(self.valid)  # [B, T] bool
        self.won = success[:, None].astype(kind)  # [B, 1]
        # K_b − t, 1 at the last turn.
        later = jnp.flip(jnp.cumsum(jnp.flip(self.valid, 1), axis=1), 1)
        self.to_end = later.astype(kind)  # [B, T]

    def episode(self, over: str, std: bool, epsilon: float) -> Array:
        """[B, T] the score among siblings."""
        score = turn_scores(self.reward, self.valid, self.penalty)
        counted = counted_turns(self.valid, over)
        return relative(score, self.task, counted, std=std, epsilon=epsilon)


@dataclasses.dataclass(frozen=True)
class OnGraph(Penalties):
    """What the methods of this page share."""

    over: Literal["turns", "trajectories"] = "turns"
    """What the task's statistics are taken over, see GRPO."""


@dataclasses.dataclass(frozen=True)
class G2po(OnGraph):
    """How G2PO assigns credit."""

    gamma: Share = 0.95
    """Discount per turn of a node's value."""
    weight: NotNegative = 1.0
    """Weight of the graph's two terms beside the episode's."""
    std: bool = True
    """Divide by the deviations; without, only means are subtracted."""


@dataclasses.dataclass(frozen=True)
class GraphGpo(OnGraph):
    """How GraphGPO assigns credit."""

    gamma: Share = 0.1
    """Discount per turn of distance; published 0.1 (ALFWorld), 0.2 (WebShop)."""
    full_reward: Positive = 10.0
    """What leading one turn nearer scores, before it is normalised."""
    weight: NotNegative = 1.0
    """Weight of the graph's term."""
    episode_weight: NotNegative = 1.0
    """Weight of the episode's term."""
    std: bool = True
    """Divide by the deviations; without, only means are subtracted."""


@dataclasses.dataclass(frozen=True)
class Crbc(OnGraph):
    """How CRBC assigns credit."""

    beta: Share = 0.98
    """Discount per turn of the probability of success."""
    weight_group: NotNegative = 1.0
    """Weight of the episode's advantage."""
    weight_step: NotNegative = 5.0
    """Weight of the step's advantage."""
    sigma_min: Positive = 0.1
    """Least deviation that a step's gain is divided by."""
    depth: Whole | None = None
    """Backups; none: until nothing changes any more, the closure."""


def estimator(settings: G2po | GraphGpo | Crbc) -> Estimator:
    """The method that the settings are of; it reads no critic."""

    def advantage(batch: Batch, penalty: Array) -> Array:
        arrays = batch.reward, batch.valid, batch.group, batch.anchor
        match settings:
            case Crbc():
                return crbc(
                    *arrays,
                    batch.action,
                    batch.won,
                    penalty=penalty,
                    beta=settings.beta,
                    weight_group=settings.weight_group,
                    weight_step=settings.weight_step,
                    sigma_min=settings.sigma_min,
                    depth=settings.depth,
                    over=settings.over,
                )
            case GraphGpo():
                return graphgpo(
                    *arrays,
                    batch.won,
                    penalty=penalty,
                    gamma=settings.gamma,
                    full_reward=settings.full_reward,
                    weight=settings.weight,
                    episode_weight=settings.episode_weight,
                    std=settings.std,
                    over=settings.over,
                )
        return g2po(
            *arrays,
            batch.won,
            penalty=penalty,
            gamma=settings.gamma,
            weight=settings.weight,
            std=settings.std,
            over=settings.over,
        )

    return critic_free(settings, advantage)
