"""Siblings merged into a graph of observations: G2PO and GraphGPO.

A node is an anchor, an edge a turn; the last turn of a record leads to success or to
failure, and running out of turns is failure. With x(b, t) the node that turn t of
trajectory b leads to, K_b its turns, N(s) the visits to node s:

    mean over visits     V(s) ← 1/N(s) Σ over turns at s of f(x)

is one gather and one `segment_sum` over the batch's turns, so that a backup over all
tasks costs no more than a sum; no matrix of nodes is ever made.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax

from hiper_jax.accept import NotNegative, Positive, Share
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.groups import relative, statistics, turn_scores
from hiper_jax.credit.common.visits import GraphTurns, OnGraph
from hiper_jax.credit.estimator import Estimator, critic_free


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
    turns = GraphTurns("g2po", reward, valid, group, anchor, success, penalty)
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
    turns = GraphTurns("graphgpo", reward, valid, group, anchor, success, penalty)
    episode = turns.episode(over, std, epsilon)
    now, after = _distances(turns)
    step = full_reward * gamma ** (after - now + 1).astype(turns.reward.dtype)
    options = {"std": std, "lone": "nothing", "epsilon": epsilon}
    at_node = relative(step, turns.node, turns.valid, **options)
    return (episode_weight * episode + weight * at_node).astype(turns.dtype)


def _distances(turns: GraphTurns) -> tuple[Array, Array]:
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


def estimator(settings: G2po | GraphGpo) -> Estimator:
    """The method that the settings are of; it reads no critic."""

    def advantage(batch: Batch, penalty: Array) -> Array:
        arrays = batch.reward, batch.valid, batch.group, batch.anchor
        match settings:
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
