"""GEAR's credit: a group's advantage, moved to where a teacher disagrees.

The teacher is the same network with the solution in its prompt; what it and the student
say of the student's tokens is handed over. The paper's constants are not public: the
rule below is this project's own.
"""

import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp
from jax import Array, lax

from hiper_jax.accept import NotNegative, Range
from hiper_jax.act.stack import Batch
from hiper_jax.credit.common.groups import (
    at_least_float32,
    counted_turns,
    of_turns,
    relative,
    turn_scores,
)
from hiper_jax.credit.common.terms import Penalties
from hiper_jax.credit.estimator import Estimator, critic_free

Quantile = Annotated[float, Range(0, 1)]


@dataclasses.dataclass(frozen=True)
class Gear(Penalties):
    """How GEAR assigns credit; it uses the solution, which other methods do not."""

    strength: NotNegative = 0.5
    """How far a divergence moves an advantage: the factor is within 1 ± this."""
    spike_quantile: Quantile = 0.95
    """Quantile of the batch above which a divergence opens a segment."""
    entropy_quantile: Quantile = 0.8
    """Quantile of the batch above which a token's entropy ends one."""
    over: Literal["turns", "trajectories"] = "turns"
    """What the task's statistics are taken over, see GRPO."""


def gear(
    advantage: Array,
    log_prob: Array,
    teacher_log_prob: Array,
    entropy: Array,
    mask: Array,
    *,
    strength: float = 0.5,
    spike_quantile: float = 0.95,
    entropy_quantile: float = 0.8,
) -> Array:
    """A turn's advantage on its tokens, scaled by what a teacher thinks of them.

        d     = |log π_student − log π_teacher|        a constant
        spike = d above its quantile over the batch's tokens
        a segment runs from a spike to the next token whose entropy is above its
        quantile, both included, or to the turn's end; a later spike opens its own
        d'    = d at the spike inside a segment, d elsewhere
        φ     = 1 + λ clip((d' − mean d) / std d, −1, 1)
        A     = A_group φ / mean φ                     means over the batch's tokens

    Args:
      advantage: [...] of each turn.
      log_prob: [..., R] the student's, of its own tokens, in nats.
      teacher_log_prob: [..., R] the teacher's, of the same tokens.
      entropy: [..., R] the student's before each token, in nats.
      mask: [..., R] response tokens, at the left of each row.
      strength: λ.
      spike_quantile: of d.
      entropy_quantile: of the entropy.

    Returns:
      [..., R] advantages, zero off the mask; constants of the loss.

    Raises:
      ValueError: shapes differ.

    Source: the idea is arXiv 2605.11853's, the rule ours.
    """
    mask = jnp.asarray(mask).astype(bool)
    arrays = [jnp.asarray(a) for a in (log_prob, teacher_log_prob, entropy)]
    advantage = jnp.asarray(advantage)
    shapes = [array.shape for array in arrays]
    if {*shapes, mask.shape} != {mask.shape} or advantage.shape != mask.shape[:-1]:
        raise ValueError(
            f"gear needs log-probs, entropy and mask of one shape [..., R] and the "
            f"advantage [...], but got {shapes}, {mask.shape} and {advantage.shape}."
        )
    kind = at_least_float32(advantage, *arrays)
    student, teacher, entropy = (jnp.where(mask, a, 0).astype(kind) for a in arrays)
    d = jnp.abs(student - teacher)
    spike = mask & (d > masked_quantile(d, mask, spike_quantile))
    ends = mask & (entropy > masked_quantile(entropy, mask, entropy_quantile))

    place = jnp.broadcast_to(jnp.arange(mask.shape[-1]), mask.shape)
    opened = lax.cummax(jnp.where(spike, place, -1), axis=mask.ndim - 1)
    ended = lax.cummax(jnp.where(ends, place, -1), axis=mask.ndim - 1)
    before = jnp.roll(ended, 1, axis=-1).at[..., 0].set(-1)
    # What ended before a token, but after its spike, closed the segment.
    inside = (opened >= 0) & (before <= opened)
    at_spike = jnp.take_along_axis(d, jnp.maximum(opened, 0), axis=-1)
    held = jnp.where(inside, at_spike, d)

    count = jnp.maximum(mask.sum(), 1)

    def mean(x: Array) -> Array:
        return jnp.where(mask, x, 0).sum() / count

    centre = mean(d)
    sigma = jnp.sqrt(mean((d - centre) ** 2))
    scaled = jnp.clip((held - centre) / jnp.maximum(sigma, 1e-8), -1.0, 1.0)
    phi = 1 + strength * scaled
    moved = advantage[..., None] * phi / jnp.maximum(mean(phi), 1e-8)
    moved = jnp.where(mask, moved, 0).astype(jnp.result_type(advantage, 0.0))
    return lax.stop_gradient(moved)


def masked_quantile(x: Array, mask: Array, q: float) -> Array:
    """[] the q-quantile over the mask, interpolated as numpy does; 0 over nothing."""
    count = mask.sum()
    ordered = jnp.sort(jnp.where(mask, x, jnp.inf).reshape(-1))
    place = q * jnp.maximum(count - 1, 0).astype(x.dtype)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.maximum(count - 1, 0))
    share = place - low
    between = ordered[low] * (1 - share) + ordered[high] * share
    return jnp.where(count > 0, between, 0)


def estimator(settings: Gear) -> Estimator:
    """GRPO's advantage by GEAR's factors; it reads no critic.

    The batch's `teacher_log_prob` and `entropy` must be there (the update measures
    them); the student's log-probs are those at collection.
    """

    def advantage(batch: Batch, penalty: Array) -> Array:
        if batch.teacher_log_prob is None or batch.entropy is None:
            raise ValueError(
                "gear needs batch.teacher_log_prob and batch.entropy, [N, R] each"
            )
        score = turn_scores(batch.reward, batch.valid, penalty)
        ids = of_turns(batch.group, batch.valid)
        turn = relative(score, ids, counted_turns(batch.valid, settings.over))
        mask = batch.response_mask[batch.row] & batch.valid[:, :, None]
        return gear(
            turn,
            batch.old_log_prob[batch.row],
            batch.teacher_log_prob[batch.row],
            batch.entropy[batch.row],
            mask,
            strength=settings.strength,
            spike_quantile=settings.spike_quantile,
            entropy_quantile=settings.entropy_quantile,
        )

    return critic_free(settings, advantage)._replace(reads_teacher=True)
