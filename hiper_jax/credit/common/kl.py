"""Estimates of a KL divergence, token by token: for a loss, or off a reward."""

import jax.numpy as jnp
from jax import Array

ESTIMATORS = ("k1", "abs", "k2", "k3")


def kl_estimate(
    log_prob: Array, ref_log_prob: Array, mask: Array, *, estimator: str = "k3"
) -> Array:
    """What each sampled token says of KL(π || π_ref).

        d = log π − log π_ref
        k1: d      abs: |d|      k2: ½ d²      k3: exp(−d) + d − 1, clamped to ±10

    In k3, −d is clamped to ±20 before the exponential. As a *loss* on its own samples
    k1 and abs are useless: the mean gradient of k1 is 0. That of k2 is the gradient of
    KL(π || π_ref), that of k3 (published) of KL(π_ref || π). *Off the reward* k1 is the
    right one: its mean is the divergence, and the policy gradient does the rest.

    Args:
      log_prob: [...] log-probs of sampled tokens, in nats.
      ref_log_prob: [...] under the reference.
      mask: [...] bool, tokens that count.
      estimator: "k1", "abs", "k2" or "k3".

    Returns:
      [...] estimates, 0 off the mask; gradients flow into `log_prob`.

    Raises:
      ValueError: the estimator is unknown.

    Source: J. Schulman, "Approximating KL divergence", 2020.
    """
    d = jnp.where(mask, log_prob, 0) - jnp.where(mask, ref_log_prob, 0)
    if estimator == "k1":
        return d
    if estimator == "abs":
        return jnp.abs(d)
    if estimator == "k2":
        return 0.5 * d**2
    if estimator == "k3":
        minus = jnp.clip(-d, -20.0, 20.0)
        return jnp.clip(jnp.exp(minus) - minus - 1, -10.0, 10.0)
    raise ValueError(
        f'estimator must be "k1", "abs", "k2" or "k3", but it is {estimator!r}.'
    )


def kl_penalty(
    log_prob: Array,
    ref_log_prob: Array,
    mask: Array,
    *,
    coef: float,
    estimator: str = "k1",
) -> Array:
    """What a row's divergence from the reference takes off its reward.

        penalty[n] = coef Σⱼ k(log π − log π_ref)

    With "k1", the default, it may fall below 0 on a row, never on average.

    Args:
      log_prob: [N, R] log-probs at collection, in nats.
      ref_log_prob: [N, R] under the reference.
      mask: [N, R] bool, response tokens.
      coef: 0 or more, reward per nat.
      estimator: see `kl_estimate`.

    Returns:
      [N] penalties, to be subtracted.

    Source: arXiv 2203.02155, equation 2, and verl's code.
    """
    each = kl_estimate(log_prob, ref_log_prob, mask, estimator=estimator)
    return coef * each.sum(axis=-1)
