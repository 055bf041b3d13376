"""Causal attention with shared key/value heads, within segments of a packed row.

`causal` is the plain twin and runs anywhere; `cudnn` and `splash` are the vendors'
kernels; `causal_attention` takes the fastest that computes what is asked.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

MASKED = -1e30  # finite: a row with nothing to attend to gives a mean, not a NaN


def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """Mixes values by the softmax of scaled query-key products, in float32.

    Args:
      q: [N, L, H, h] queries.
      k: [N, M, G, h] keys; H / G query heads share each.
      v: [N, M, G, h] values.
      mask: [N or 1, L, M] bool, true where the query may look.

    Returns:
      [N, L, H, h] of q's dtype.
    """
    chex.assert_rank([q, k, v, mask], [4, 4, 4, 3])
    chex.assert_equal_shape([k, v])
    rows, length, heads, width = q.shape
    groups = k.shape[2]
    q = q.reshape(rows, length, groups, heads // groups, width)
    scores = jnp.einsum("nlgah,nmgh->ngalm", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * width**-0.5, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("ngalm,nmgh->nlgah", weights, v)
    return out.reshape(rows, length, heads, width)


def causal(
    q: Array, k: Array, v: Array, segment: Array | None = None, *, block: int = 0
) -> Array:
    """Self-attention to the past, one block of queries at a time.

    A block of queries meets only the keys up to its own end, so that about half of
    the square is never computed; and peak memory is one block's scores.

    Args:
      q: [N, L, H, h] queries.
      k: [N, L, G, h] keys.
      v: [N, L, G, h] values.
      segment: [N, L] int32; tokens attend only within equal numbers. None: one.
      block: queries per block, tokens; 0: 64, or an eighth of a long row.

    Returns:
      [N, L, H, h] of q's dtype.
    """
    length = q.shape[1]
    block = block or max(64, -(-length // 8))
    out = []
    for start in range(0, length, block):
        end = min(start + block, length)
        mask = jnp.arange(start, end)[:, None] >= jnp.arange(end)[None, :]
        mask = mask[None]
        if segment is not None:
            mask &= segment[:, start:end, None] == segment[:, None, :end]
        out.append(attend(q[:, start:end], k[:, :end], v[:, :end], mask))
    return jnp.concatenate(out, axis=1) if len(out) > 1 else out[0]


def cudnn(q: Array, k: Array, v: Array, segment: None = None) -> Array:
    """`causal` by cuDNN: half precision, whole rows only."""
    if segment is not None:
        raise ValueError("cuDNN attends across segments; use `causal` on packed rows.")
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")


def splash(
    q: Array,
    k: Array,
    v: Array,
    segment: Array | None = None,
    *,
    interpret: bool = False,
) -> Array:
    """`causal` by the TPU kernel: rows of a multiple of 128 tokens, on one device.

    Under a mesh of several devices wrap it, see `sharding.attention`.

    Args:
      q, k, v, segment: see `causal`.
      interpret: run the kernel step by step, on any platform.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    rows, length, heads, width = q.shape
    mask = kernels.MultiHeadMask([kernels.CausalMask((length, length))] * heads)
    block = max(b for b in (128, 256, 512) if length % b == 0)
    sizes = kernels.BlockSizes(**dict.fromkeys(_SPLASH_BLOCKS, block))
    kernel = kernels.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    q, k, v = ((x.swapaxes(1, 2)) for x in (q * width**-0.5, k, v))
    out: Any
    if segment is None:
        out = jax.vmap(kernel)(q, k, v)
    else:
        out = jax.vmap(kernel)(q, k, v, kernels.SegmentIds(segment, segment))
    return out.swapaxes(1, 2).astype(q.dtype)


_SPLASH_BLOCKS = (
    "block_q",
    "block_kv",
    "block_kv_compute",
    "block_q_dkv",
    "block_kv_dkv",
    "block_kv_dkv_compute",
    "block_q_dq",
    "block_kv_dq",
)


def choose(
    platform: str, q: jax.ShapeDtypeStruct | Array, *, packed: bool
) -> Callable[..., Array]:
    """Returns the fastest of `causal`, `cudnn` and `splash` that fits.

    Args:
      platform: "cpu", "gpu" or "tpu".
      q: [N, L, H, h] the queries, or their shape.
      packed: there are segments.
    """
    length, width = q.shape[1], q.shape[3]
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    if platform == "gpu" and half and not packed and width % 8 == 0 and width <= 128:
        return cudnn
    if platform == "tpu" and length % 128 == 0:
        return splash
    return causal


def causal_attention(
    q: Array, k: Array, v: Array, segment: Array | None = None
) -> Array:
    """`causal` by what suits the default platform; arguments as there."""
    platform = jax.default_backend()
    if platform == "tpu" and jax.device_count() > 1:
        return causal(q, k, v, segment)  # XLA cannot partition the kernel by itself
    return choose(platform, q, packed=segment is not None)(q, k, v, segment)


def attend_cache(q: Array, parts: tuple[tuple[Array, Array, Array], ...]) -> Array:
    """Attends from one query per row to keys that lie in several arrays.

    Args:
      q: [S, 1, H, h] queries.
      parts: triples of k [S, G, M, h], v [S, G, M, h] and mask [S or 1, M] bool; the
        softmax runs over all of them together.

    Returns:
      [S, 1, H, h] of q's dtype.
    """
    rows, _, heads, width = q.shape
    groups = parts[0][0].shape[1]
    q = q.reshape(rows, groups, heads // groups, width) * width**-0.5
    scores = []
    for k, _, mask in parts:
        score = jnp.einsum("sgah,sgmh->sgam", q, k, preferred_element_type=jnp.float32)
        scores.append(jnp.where(mask[:, None, None], score, MASKED))
    top = scores[0].max(-1, keepdims=True)
    for score in scores[1:]:
        top = jnp.maximum(top, score.max(-1, keepdims=True))
    total: Any = 0.0
    out: Any = 0.0
    for score, (_, v, _) in zip(scores, parts, strict=True):
        weight = jnp.exp(score - top)
        total += weight.sum(-1, keepdims=True)
        out += jnp.einsum(
            "sgam,sgmh->sgah",
            weight.astype(v.dtype),
            v,
            preferred_element_type=jnp.float32,
        )
    return (out / total).astype(q.dtype).reshape(rows, 1, heads, width)
