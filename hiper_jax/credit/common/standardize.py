"""Standardising: the third and last step after shaping and estimation."""

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
