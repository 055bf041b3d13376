"""Standardising: the third and last step after shaping and estimation.

HiPER's code divides by a population deviation + 1e-8 (`standardize`), the token methods
of the field by the root of an unbiased variance + 1e-8 (`whiten`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array


def standardize(advantage: Array, mask: Array) -> Array:
    """Centres and scales over all marked entries of the array together.

        μ = mean over the mask,  σ = population standard deviation over the mask
        Â = (A − μ) / (σ + 1e-8) on the mask, 0 elsewhere

    Args:
      advantage: [..., T] advantages of a whole batch, any leading axes.
      mask: [..., T] true where the advantage is carried by some token; all false
        gives zeros.

    Returns:
      [..., T] standardised advantages.

    Raises:
      ValueError: shapes differ.

    Source: arXiv 2602.16165's code (`norm_adv`).
    """
    advantage, mask = jnp.asarray(advantage), jnp.asarray(mask).astype(bool)
    if advantage.shape != mask.shape:
        raise ValueError(
            f"standardize needs advantage and mask of one shape, but got "
            f"{advantage.shape} and {mask.shape}."
        )
    count = jnp.maximum(mask.sum(), 1)

    def mean(x: Array) -> Array:
        return jnp.where(mask, x, 0).sum() / count.astype(x.dtype)

    # Twice: the first mean's rounding error would else be divided by 1e-8 where all
    # entries are equal.
    centred = advantage - mean(advantage)
    centred = centred - mean(centred)
    deviation = jnp.sqrt(mean(centred**2))
    return jnp.where(mask, centred / (deviation + 1e-8), 0)


def standardize_together(
    advantages: Sequence[Array], masks: Sequence[Array]
) -> list[Array]:
    """Centres each array by itself and divides all by one deviation.

        σ² = Σᵢ Σ (Aᵢ − μᵢ)² / Σᵢ nᵢ        over each array's own mask

    Args:
      advantages: [..., T] each.
      masks: [..., T] each, true where the advantage is carried.

    Returns:
      [..., T] each, 0 off the mask.
    """
    centred = [
        _centred(a, jnp.asarray(m)) for a, m in zip(advantages, masks, strict=True)
    ]
    squares = sum(jnp.sum(c**2) for c in centred)
    count = jnp.maximum(sum(jnp.sum(m) for m in masks), 1)
    sigma = jnp.sqrt(squares / count)
    return [c / (sigma + 1e-8) for c in centred]


def deviation(advantage: Array, mask: Array) -> Array:
    """[] population standard deviation over the mask; 0 where nothing is marked."""
    mask = jnp.asarray(mask)
    squares = jnp.sum(_centred(advantage, mask) ** 2)
    return jnp.sqrt(squares / jnp.maximum(mask.sum(), 1))


def _centred(x: Array, mask: Array) -> Array:
    count = jnp.maximum(mask.sum(), 1)
    for _ in range(2):
        x = x - jnp.where(mask, x, 0).sum() / count.astype(x.dtype)
    return jnp.where(mask, x, 0)


def whiten(advantage: Array, mask: Array, *, weight: Array | None = None) -> Array:
    """Centres and scales as PPO's published code does, with the unbiased variance.

        μ = Σ w A / W        W = Σ w, over the mask
        σ² = Σ w (A − μ)² / (W − 1)
        Â = (A − μ) / √(σ² + 1e-8) on the mask, 0 elsewhere

    Args:
      advantage: [...] advantages of a whole batch.
      mask: [...] true where the advantage is carried.
      weight: [...] 0 or more, how often an entry counts (the response tokens of a
        turn); None: once.

    Returns:
      [...] whitened advantages.

    Raises:
      ValueError: shapes differ.

    Source: `masked_whiten` of TRL and verl.
    """
    advantage, mask = jnp.asarray(advantage), jnp.asarray(mask).astype(bool)
    kind = jnp.promote_types(jnp.result_type(advantage, 0.0), jnp.float32)
    counts = mask if weight is None else jnp.where(mask, weight, 0)
    if not advantage.shape == mask.shape == counts.shape:
        raise ValueError(
            f"whiten needs advantage, mask and weight of one shape, but got "
            f"{advantage.shape}, {mask.shape} and {counts.shape}."
        )
    counts, x = counts.astype(kind), jnp.where(mask, advantage, 0).astype(kind)
    total = counts.sum()

    def mean(value: Array) -> Array:
        return (counts * value).sum() / jnp.maximum(total, 1)

    centred = x - mean(x)
    centred = centred - mean(centred)
    variance = (counts * centred**2).sum() / jnp.maximum(total - 1, 1)
    scaled = centred * jax.lax.rsqrt(variance + 1e-8)
    return jnp.where(mask, scaled, 0).astype(jnp.result_type(advantage, 0.0))
