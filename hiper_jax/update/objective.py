"""The loss of one chunk, and its gradient: policy, values, KL, entropy.

Letters: N rows, C rows of the chunk, L tokens, R response tokens, H value heads.
"""

import dataclasses
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from hiper_jax.accept import (
    Count,
    NotNegative,
    Positive,
    Range,
    Share,
    check_fields,
)
from hiper_jax.act.stack import Batch
from hiper_jax.loss import aggregate, kl_loss, policy_loss, value_loss
from hiper_jax.networks.model import Model
from hiper_jax.update.bins import Fed
from hiper_jax.update.minibatch import Totals

MEAN_GAP = "sampler/log_prob_diff_mean"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an update learns from credit, whichever estimator gave it."""

    clip_low: Share = 0.2
    """How far the policy ratio may fall below 1 before it is clipped."""
    clip_high: NotNegative = 0.2
    """How far it may rise above 1."""
    dual_clip: Annotated[float, Range(1, above=True, finite=False)] = 3.0
    """Bound on the loss of a token with a negative advantage, in advantages; inf:
    none."""
    ratio: Literal["token", "sequence"] = "token"
    """One policy ratio per token, or per response: GSPO, whose clips are 3e-4 and 4e-4,
    whose aggregation is `seq-mean-token-mean` and which has no dual clip."""
    aggregation: Literal[
        "token-mean",
        "seq-mean-token-mean",
        "seq-mean-token-sum",
        "seq-mean-token-sum-norm",
    ] = "token-mean"
    """How a minibatch's losses per token become one: the mean over its tokens, or over
    responses of their means, sums, or sums over the longest response allowed (which is
    Dr. GRPO's)."""
    value_clip: Positive = 0.5
    """How far a value may move from that at collection, in units of return."""
    kl_coef: NotNegative = 0.01
    """Weight of the KL term towards the reference; 0 leaves its pass out."""
    kl_estimator: Literal["k1", "abs", "k2", "k3"] = "k3"
    """Which estimate of the KL divergence."""
    entropy_coef: NotNegative = 0.001
    """Weight of the entropy bonus."""
    epochs: Count = 1
    """Passes over the batch."""
    minibatch: Count = 256
    """Turns of one optimizer step."""
    chunk: Count = 64
    """Turns fed at once, or bins of turns; gradients of chunks add up."""
    pack: Count = 1
    """Turns that may lie end to end in one bin, which is as long as the longest turn
    may be; each sees itself alone. 1: none is packed. It feeds little padding and
    compiles two lengths only; for a GPU there is no fast attention of that kind."""

    def __post_init__(self):
        check_fields(self)


class Targets(NamedTuple):
    """What the loss is measured against: constants during an update."""

    advantage: Array  # [N, R] float32
    mask: Array  # [N, R] bool, tokens that carry one
    reference: Array | None  # [N, R] float32 log-probs; None without a KL term
    read_at: Array | None  # [N, H] int32 response positions; None: every position
    value: Array  # [N, H] or [N, R, H] float32, at collection
    return_: Array  # like value
    reads: Array  # like value, bool


class Loss(NamedTuple):
    """What the loss of a chunk is a function of, beside weights and rows."""

    model: Model
    settings: Settings
    heads: tuple[str, ...]
    temperature: float  # the sampler's, so that both read one distribution
    reference: Any  # the frozen weights
    batch: Batch
    targets: Targets


class Chunk(NamedTuple):
    """Rows of one minibatch that are fed at once."""

    fed: Fed  # C rows
    used: Array  # [C] bool, false on rows that stand in for none
    totals: Totals  # of the whole minibatch

    @property
    def rows(self) -> Array:
        """[C] int32, which rows of the batch."""
        return self.fed.rows


def expect(who: str, shape: tuple[int, ...], *arrays: Array) -> None:
    """Raises ValueError where a function that was handed over returned other shapes."""
    for array in arrays:
        if array.shape != shape:
            raise ValueError(
                f"{who} returned shape {array.shape}, {shape} is needed; see Model"
            )


def pick(values: Array, read_at: Array | None) -> Array:
    """[C, R, H] values -> [C, H] at the given positions; as they are without."""
    if read_at is None:
        return values
    return jnp.take_along_axis(values, read_at[:, None], axis=1)[:, 0]


def read_values(
    model: Model,
    critic: Any,
    fed: Fed,
    start: Array,
    num_tokens: int,
    read_at: Array | None,
    heads: int,
) -> Array:
    """The critic's values of a chunk, read where they are asked for.

    Args:
      model: the networks.
      critic: its weights, assembled.
      fed: C rows.
      start: [N] int32, where responses begin.
      num_tokens: R, response tokens at most.
      read_at: [N, H] int32 response positions; None: all.
      heads: H.

    Returns:
      [C, H], or [C, R, H] at all positions.
    """
    at = None if read_at is None else read_at[fed.rows]
    given = critic, fed.tokens, fed.start(start)
    if at is not None and model.values_at is not None:
        values = model.values_at(*given, at, **fed.packed)
        expect("values_at", (len(fed.rows), heads), values)
        return values
    assert model.values is not None  # `make_update` has looked
    values = model.values(*given, num_tokens, **fed.packed)
    expect("values", (len(fed.rows), num_tokens, heads), values)
    return pick(values, at)


def read_scores(
    model: Model,
    actor: Any,
    fed: Fed,
    start: Array,
    response: Array,
    temperature: float,
) -> tuple[Array, Array]:
    """Log-probs and entropies, [C, R] each, of the responses of a chunk.

    Args:
      model: the networks.
      actor: weights, assembled.
      fed: C rows.
      start: [N] int32, where responses begin.
      response: [N, R] int32, below 0 on padding.
      temperature: the sampler's.
    """
    given = fed.tokens, fed.start(start), fed.said(response), temperature
    return model.score(actor, *given, **fed.packed)


def policy_part(log_prob: Array, entropy: Array, loss: Loss, chunk: Chunk):
    """The chunk's share of policy loss, KL term and entropy bonus.

    Args:
      log_prob: [C, R] of the responses now, in nats.
      entropy: [C, R] of the policy there, in nats.
      loss: see there.
      chunk: see there.

    Returns:
      [] loss; the metrics' shares by name, and [] the largest difference from the
      sampler's log-probs.
    """
    settings, targets, rows = loss.settings, loss.targets, chunk.rows
    expect("score", (rows.shape[0], targets.mask.shape[1]), log_prob, entropy)
    carries = targets.mask[rows] & chunk.used[:, None]
    count = denominator("token-mean", targets, chunk)
    by = settings.aggregation, denominator(settings.aggregation, targets, chunk)
    old_log_prob = loss.batch.old_log_prob[rows]
    policy, ratios = policy_loss(
        log_prob,
        old_log_prob,
        targets.advantage[rows],
        carries,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
        ratio=settings.ratio,
        aggregation=by[0],
        denominator=by[1],
    )
    parts, total = {"loss/policy": policy}, policy
    if targets.reference is not None:
        parts["loss/kl"] = kl_loss(
            log_prob,
            targets.reference[rows],
            carries,
            estimator=settings.kl_estimator,
            aggregation=by[0],
            denominator=by[1],
        )
        total += settings.kl_coef * parts["loss/kl"]
    parts["policy/entropy"] = aggregate(entropy, carries, denominator=count)
    bonus = aggregate(entropy, carries, by[0], denominator=by[1])
    total -= settings.entropy_coef * bonus
    gap = jnp.where(carries, jnp.abs(log_prob - old_log_prob), 0.0)
    parts[MEAN_GAP] = jnp.sum(gap) / count
    share = jnp.sum(carries) / count
    parts |= {f"policy/{name}": share * x for name, x in ratios.items()}
    return total, parts, jnp.max(gap)


def denominator(aggregation: str, targets: Targets, chunk: Chunk) -> Array:
    """[] what a chunk's sums are divided by, so that chunks add up to the minibatch."""
    if aggregation == "token-mean":
        return jnp.maximum(chunk.totals.tokens, 1).astype(jnp.float32)
    turns = jnp.maximum(chunk.totals.turns, 1).astype(jnp.float32)
    if aggregation == "seq-mean-token-sum-norm":
        return turns * targets.mask.shape[1]  # R, the longest response allowed
    # A turn of which no token carries anything is no sequence.
    return jnp.maximum(chunk.totals.carrying, 1).astype(jnp.float32)


def value_part(values: Array, loss: Loss, chunk: Chunk):
    """The chunk's share of every head's loss.

    Args:
      values: [C, H] now, or [C, R, H] at all positions.
      loss: see there.
      chunk: see there.

    Returns:
      [] loss; each head's by name.
    """
    targets, rows = loss.targets, chunk.rows
    used = chunk.used.reshape(-1, *[1] * (values.ndim - 2))
    total, parts = jnp.zeros(()), {}
    for h, name in enumerate(loss.heads):
        count = jnp.maximum(chunk.totals.reads[h], 1).astype(jnp.float32)
        parts[f"loss/value_{name}"], _ = value_loss(
            values[..., h],
            targets.value[rows][..., h],
            targets.return_[rows][..., h],
            targets.reads[rows][..., h] & used,
            clip=loss.settings.value_clip,
            denominator=count,
        )
        total += parts[f"loss/value_{name}"]
    return total, parts


def gradient(actor: Any, critic: Any, loss: Loss, chunk: Chunk):
    """Gradients of the chunk's loss, one network after the other where there are two.

    What the first keeps for its gradient is gone before the second begins.

    Returns:
      The actor's and the critic's (None without one), the metrics' shares by name,
      and [] the largest difference from the sampler's log-probs.
    """
    model, fed, batch = loss.model, chunk.fed, loss.batch

    def of_both(params):
        assert model.score_and_values is not None
        whole = model.assemble(loss.reference, *params)
        said = fed.said(batch.response)
        given = fed.tokens, fed.start(batch.start), said, loss.temperature
        log_prob, entropy, values = model.score_and_values(*whole, *given, **fed.packed)
        total, parts, gap = policy_part(log_prob, entropy, loss, chunk)
        shape = (*said.shape, len(loss.heads))
        expect("score_and_values", shape, values)
        read_at = loss.targets.read_at
        values = pick(values, None if read_at is None else read_at[chunk.rows])
        error, errors = value_part(values, loss, chunk)
        return total + error, (parts | errors, gap)

    def of_actor(actor):
        whole, _ = model.assemble(loss.reference, actor, critic)
        given = fed, batch.start, batch.response, loss.temperature
        log_prob, entropy = read_scores(model, whole, *given)
        total, parts, gap = policy_part(log_prob, entropy, loss, chunk)
        return total, (parts, gap)

    if loss.heads and model.score_and_values is not None:
        both = jax.value_and_grad(of_both, has_aux=True)
        (_, (parts, gap)), grads = both((actor, critic))
        return *grads, parts, gap
    (_, (parts, gap)), to_actor = jax.value_and_grad(of_actor, has_aux=True)(actor)
    if not loss.heads:
        return to_actor, None, parts, gap
    to_actor, critic = lax.optimization_barrier((to_actor, critic))
    to_critic, errors = _of_critic(actor, critic, loss, chunk)
    return to_actor, to_critic, parts | errors, gap


def critic_gradient(actor: Any, critic: Any, loss: Loss, chunk: Chunk):
    """`gradient` of a critic of its own alone: the actor's is None, the gap 0."""
    to_critic, errors = _of_critic(actor, critic, loss, chunk)
    return None, to_critic, errors, jnp.zeros(())


def _of_critic(actor, critic, loss: Loss, chunk: Chunk):
    batch, at = loss.batch, loss.targets.read_at
    asked = chunk.fed, batch.start, batch.response.shape[1], at, len(loss.heads)

    def value(critic):
        _, whole = loss.model.assemble(loss.reference, actor, critic)
        return value_part(read_values(loss.model, whole, *asked), loss, chunk)

    (_, errors), to_critic = jax.value_and_grad(value, has_aux=True)(critic)
    return to_critic, errors


def loss_names(loss: Loss) -> tuple[str, ...]:
    """The metrics whose shares chunks add up."""
    return (
        "loss/policy",
        *(["loss/kl"] if loss.targets.reference is not None else []),
        *value_names(loss),
        "policy/entropy",
        "policy/clip_fraction",
        "policy/approx_kl",
        "policy/dual_clip_fraction",
        MEAN_GAP,
    )


def value_names(loss: Loss) -> tuple[str, ...]:
    """Those of the critic."""
    return tuple(f"loss/value_{name}" for name in loss.heads)
