"""Scalar losses over response tokens: policy, value, KL to the reference.

All arrays are [N, L]: rows (turns) by response tokens; a head that is read once a row
may come as [N]. Entries off the mask are never read: padding may hold anything, NaN
too.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.credit.common.kl import kl_estimate

AGGREGATIONS = (
    "token-mean",
    "seq-mean-token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
)


def aggregate(
    loss: Array,
    mask: Array,
    aggregation: str = "token-mean",
    *,
    denominator: Array | float | None = None,
    exclude_empty: bool = False,
) -> Array:
    """Reduces a loss per token to a scalar.

        "token-mean"               Σ loss / number of marked tokens
        "seq-mean-token-sum"       mean over rows of Σ of the row
        "seq-mean-token-mean"      mean over rows of the row's own mean
        "seq-mean-token-sum-norm"  Σ loss / L, which Dr. GRPO takes constant: the
                                   longest response allowed, as `denominator`

    Args:
      loss: [N, L] loss per token.
      mask: [N, L] tokens that count.
      aggregation: one of the four.
      denominator: [] what to divide by instead, so that micro-batches add up to the
        whole: marked tokens, rows, rows or L of the whole mini-batch.
      exclude_empty: rows with no marked token are none, as in an update; published
        they are rows like others, and dilute the means over rows.

    Returns:
      [] scalar; 0 where nothing is marked.

    Raises:
      ValueError: shapes differ or the aggregation is unknown.
    """
    _same_shape("aggregate", loss, mask)
    mask = jnp.asarray(mask).astype(bool)
    if loss.ndim == 1:
        loss, mask = loss[:, None], mask[:, None]
    if aggregation not in AGGREGATIONS:
        raise ValueError(
            f"aggregation must be one of {AGGREGATIONS}, but it is {aggregation!r}."
        )
    per_row = jnp.where(mask, loss, 0).sum(axis=-1)
    marked = mask.sum(axis=-1).astype(loss.dtype)
    if aggregation == "seq-mean-token-mean":
        per_row = per_row / jnp.maximum(marked, 1)
    by_name = {
        "token-mean": jnp.maximum(marked.sum(), 1),
        "seq-mean-token-sum-norm": mask.shape[1],
    }
    if denominator is not None:
        return per_row.sum() / denominator
    rows = jnp.maximum((marked > 0).sum(), 1) if exclude_empty else mask.shape[0]
    return per_row.sum() / by_name.get(aggregation, rows)


def policy_loss(
    log_prob: Array,
    old_log_prob: Array,
    advantage: Array,
    mask: Array,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    aggregation: str = "token-mean",
    ratio: str = "token",
    denominator: Array | float | None = None,
) -> tuple[Array, dict[str, Array]]:
    """PPO's clipped surrogate with the dual clip, to be minimised.

        ρ = exp(log π − log π_old)                       log-ratio clamped to ±20
        ℓ = max(−A ρ, −A clip(ρ, 1 − ε_low, 1 + ε_high))
        ℓ = min(ℓ, −c A)                                where A < 0, unless c = ∞

    Args:
      log_prob: [N, L] log-probs of the sampled tokens now, in nats.
      old_log_prob: [N, L] at collection.
      advantage: [N, L] total advantage of each token, constant.
      mask: [N, L] tokens that carry an advantage; the others are out of the mean.
      clip_low: ε_low.
      clip_high: ε_high.
      dual_clip: c > 1, bound on the loss of a token with A < 0; inf: none.
      aggregation: see `aggregate`.
      ratio: "token", or "sequence" for GSPO: ρ = exp(mean of the row's log-ratios),
        with the gradient of each token's own log-prob.
      denominator: see `aggregate`.

    Returns:
      (loss [], metrics): clip_fraction (tokens where the clip binds), approx_kl (mean
      of log π_old − log π) and dual_clip_fraction, each [] and a mean over the mask.

    Raises:
      ValueError: shapes differ, or an option is unknown or out of range.

    Source: arXiv 1707.06347; dual clip arXiv 1912.09729; GSPO arXiv 2507.18071.
    """
    if not dual_clip > 1:
        raise ValueError(f"dual_clip must be above 1, but it is {dual_clip}.")
    _same_shape("policy_loss", log_prob, old_log_prob, advantage, mask)
    mask = jnp.asarray(mask).astype(bool)
    log_prob = jnp.where(mask, log_prob, 0)
    log_ratio = log_prob - jnp.where(mask, old_log_prob, 0)
    advantage = jax.lax.stop_gradient(jnp.where(mask, advantage, 0))
    approx_kl = -log_ratio
    if ratio == "sequence":
        marked = jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
        mean = log_ratio.sum(axis=-1, keepdims=True) / marked.astype(log_ratio.dtype)
        log_ratio = log_prob - jax.lax.stop_gradient(log_prob - mean)
    elif ratio != "token":
        raise ValueError(f'ratio must be "token" or "sequence", but it is {ratio!r}.')
    rho = jnp.exp(jnp.clip(log_ratio, -20.0, 20.0))

    plain = -advantage * rho
    clipped = -advantage * jnp.clip(rho, 1 - clip_low, 1 + clip_high)
    surrogate = jnp.maximum(plain, clipped)
    if math.isinf(dual_clip):
        loss, bounded = surrogate, jnp.zeros_like(mask)
    else:
        bound = -advantage * dual_clip
        loss = jnp.where(advantage < 0, jnp.minimum(surrogate, bound), surrogate)
        bounded = (surrogate > bound) & (advantage < 0)
    metrics = {
        "clip_fraction": aggregate((clipped > plain).astype(loss.dtype), mask),
        "approx_kl": aggregate(approx_kl, mask),
        "dual_clip_fraction": aggregate(bounded.astype(loss.dtype), mask),
    }
    metrics = jax.tree.map(jax.lax.stop_gradient, metrics)
    return aggregate(loss, mask, aggregation, denominator=denominator), metrics


def gspo_loss(
    log_prob: Array,
    old_log_prob: Array,
    advantage: Array,
    mask: Array,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    denominator: Array | float | None = None,
) -> tuple[Array, dict[str, Array]]:
    """GSPO as published: one ratio per sequence, narrow clips, no dual clip.

        ρ = exp(mean over the row's tokens of log π − log π_old)
        ℓ = max(−A ρ, −A clip(ρ, 1 − ε_low, 1 + ε_high))     mean of rows of means

    Arguments, results and errors are those of `policy_loss`; the aggregation is always
    "seq-mean-token-mean", so that `denominator` counts rows.

    Source: arXiv 2507.18071 and verl's code.
    """
    return policy_loss(
        log_prob,
        old_log_prob,
        advantage,
        mask,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=math.inf,
        aggregation="seq-mean-token-mean",
        ratio="sequence",
        denominator=denominator,
    )


def value_loss(
    value: Array,
    old_value: Array,
    return_: Array,
    mask: Array,
    *,
    clip: float = 0.5,
    aggregation: str = "token-mean",
    denominator: Array | float | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The clipped squared error of one value head at its own tokens.

        V_clip = clip(V, V_old − ε, V_old + ε)
        ℓ = max((V − R)², (V_clip − R)²)

    Args:
      value: [N, L] the head's values now.
      old_value: [N, L] its values at collection.
      return_: [N, L] targets, constant.
      mask: [N, L] the tokens where the head is read.
      clip: ε, in units of return.
      aggregation: see `aggregate`.
      denominator: see `aggregate`.

    Returns:
      (loss [], metrics): value_clip_fraction [], the share where the clip binds.

    Raises:
      ValueError: shapes differ or the aggregation is unknown.

    Source: PPO as commonly implemented (arXiv 1707.06347).
    """
    _same_shape("value_loss", value, old_value, return_, mask)
    mask = jnp.asarray(mask).astype(bool)
    value = jnp.where(mask, value, 0)
    old_value = jnp.where(mask, old_value, 0)
    return_ = jax.lax.stop_gradient(jnp.where(mask, return_, 0))
    clipped = jnp.clip(value, old_value - clip, old_value + clip)
    plain_error, clipped_error = (value - return_) ** 2, (clipped - return_) ** 2
    loss = jnp.maximum(plain_error, clipped_error)
    binds = jax.lax.stop_gradient(clipped_error > plain_error).astype(loss.dtype)
    return (
        aggregate(loss, mask, aggregation, denominator=denominator),
        {"value_clip_fraction": aggregate(binds, mask)},
    )


def kl_loss(
    log_prob: Array,
    ref_log_prob: Array,
    mask: Array,
    *,
    estimator: str = "k3",
    aggregation: str = "token-mean",
    denominator: Array | float | None = None,
) -> Array:
    """Estimated KL divergence of the policy from the frozen reference.

        d = log π − log π_ref
        k1: d      abs: |d|      k2: ½ d²      k3: exp(−d) + d − 1, clamped to ±10

    In k3, −d is clamped to ±20 before the exponential; which to take is said at
    `kl_estimate`.

    Args:
      log_prob: [N, L] log-probs of the sampled tokens now, in nats.
      ref_log_prob: [N, L] under the reference.
      mask: [N, L] tokens that count.
      estimator: "k1", "abs", "k2" or "k3".
      aggregation: see `aggregate`.
      denominator: see `aggregate`.

    Returns:
      [] loss; gradients flow into `log_prob`.

    Raises:
      ValueError: shapes differ, or estimator or aggregation is unknown.

    Source: J. Schulman, "Approximating KL divergence", 2020.
    """
    _same_shape("kl_loss", log_prob, ref_log_prob, mask)
    mask = jnp.asarray(mask).astype(bool)
    kl = kl_estimate(log_prob, ref_log_prob, mask, estimator=estimator)
    return aggregate(kl, mask, aggregation, denominator=denominator)


def _same_shape(function: str, *arrays: Array) -> None:
    shapes = [jnp.shape(array) for array in arrays]
    if len(set(shapes)) > 1 or len(shapes[0]) not in (1, 2):
        raise ValueError(
            f"{function} needs arrays of one shape, [N, L] or [N], but got {shapes}."
        )
