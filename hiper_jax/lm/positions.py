"""Where tokens stand, and the rotations that tell attention of it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hiper_jax.lm.config import LMConfig, RopeScaling, yarn_attention


def count_positions(tokens: Array, segment: Array | None) -> Array:
    """Returns [N, L] int32: how far each token is from its segment's first."""
    index = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
    if segment is None:
        return index
    change = jnp.diff(segment, axis=1, prepend=segment[:, :1] - 1) != 0
    return index - jax.lax.cummax(jnp.where(change, index, 0), axis=1)


def rope_frequencies(config: LMConfig) -> tuple[np.ndarray, float]:
    """Returns the rotary frequencies and what cos and sin are multiplied by.

        omega_i = theta^(-2 i / head_dim),  then the stretch of `rope_scaling`

    Sources: Su et al. 2021 (rotary), Llama 3 (smoothed stretch), Peng et al. 2023
    (YaRN), with the constants of Hugging Face transformers.

    Returns:
      [head_dim / 2] float64, radians per token; and the factor (1 but for YaRN).
    """
    index = np.arange(0, config.head_dim, 2, dtype=np.float64)
    omega = config.rope_theta ** (-index / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return omega, 1.0
    slow = omega / scaling.factor
    if scaling.kind == "linear":
        return slow, 1.0
    if scaling.kind == "llama3":
        turns = scaling.original * omega / (2 * math.pi)
        keep = (turns - scaling.low) / (scaling.high - scaling.low)
        keep = np.clip(keep, 0.0, 1.0)
        return keep * omega + (1 - keep) * slow, 1.0
    first = _dimension(config, scaling, scaling.high)
    last = _dimension(config, scaling, scaling.low)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, config.head_dim - 1)
    ramp = (np.arange(len(omega)) - first) / ((last - first) or 0.001)
    drop = np.clip(ramp, 0.0, 1.0)
    attention = scaling.attention
    if attention is None:
        attention = yarn_attention(scaling.factor)
    return (1 - drop) * omega + drop * slow, attention


def _dimension(config: LMConfig, scaling: RopeScaling, turns: float) -> float:
    """YaRN: the frequency that makes `turns` turns over the original context."""
    ratio = scaling.original / (turns * 2 * math.pi)
    return config.head_dim * math.log(ratio) / (2 * math.log(config.rope_theta))


def rope(config: LMConfig, positions: Array) -> tuple[Array, Array]:
    """Returns cos and sin, each [N, L, 1, h / 2] float32, of [N, L] positions."""
    omega, factor = rope_frequencies(config)
    angle = positions[..., None].astype(jnp.float32) * jnp.asarray(
        omega, jnp.float32
    ).reshape(1, 1, -1)
    return jnp.cos(angle)[:, :, None] * factor, jnp.sin(angle)[:, :, None] * factor


@jax.custom_vjp
def rotate(x: Array, rotation: tuple[Array, Array]) -> Array:
    """Rotates pairs (i, i + h / 2) of x [N, L, G, h] by their position's angles."""
    cos, sin = rotation
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def _rotate_forward(x, rotation):
    return rotate(x, rotation), rotation


def _rotate_backward(rotation, gradient):
    """A rotation's transpose is the rotation back; angles are data, not weights."""
    cos, sin = rotation
    return rotate(gradient, (cos, -sin)), None


rotate.defvjp(_rotate_forward, _rotate_backward)
