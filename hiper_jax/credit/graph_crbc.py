"""Siblings merged into a graph of observations, and its own process solved: CRBC.

Nodes, edges and the mean over visits are those of `hiper_jax.credit.graph`.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from hiper_jax.accept import NotNegative, Positive, Share, Whole
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.groups import group_sum, look_up, pair_ids
from hiper_jax.credit.common.visits import GraphTurns, OnGraph
from hiper_jax.credit.estimator import Estimator, critic_free

# Backups after which the fixed point is taken as it is; at β = .98 worth 2e-9.
MOST_BACKUPS = 1000


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
    turns = GraphTurns("crbc", reward, valid, group, anchor, success, penalty)
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


def estimator(settings: Crbc) -> Estimator:
    """The method with its settings; it reads no critic."""

    def advantage(batch: Batch, penalty: Array) -> Array:
        return crbc(
            batch.reward,
            batch.valid,
            batch.group,
            batch.anchor,
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

    return critic_free(settings, advantage)
