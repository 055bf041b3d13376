"""Reading a prompt once, then one token at a time, with the keys and values kept.

The cache has two parts. The prompt's part is written by `prefill` and never again;
the response's part has the same slot for every row, so that a decode step writes one
slab in place. Prompts of different lengths are padded on the right; the padding
between a short prompt and its response is masked, not skipped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.lm import qwen
from hiper_jax.lm.attention import attend, attend_cache, look_back
from hiper_jax.lm.config import LMConfig

# Logical axes of what is placed. Drawing a token reads whole rows of logits.
ACTIVATION = ("rows", None, None)
KEPT = ("rows", "kv_heads", None, None)
PARTS, LOGITS = ("rows", "vocab"), ("rows", None)


class Cache(NamedTuple):
    """Keys (rotated) and values; S rows.

    Layers lie as those of the weights do: stacked on a leading axis, or a tuple of one
    array per layer (`qwen.serving`).
    """

    prompt_k: Any  # [S, G, P, h] per layer
    prompt_v: Any  # [S, G, P, h]
    k: Any  # [S, G, R, h], slots `count` and later are not yet written
    v: Any  # [S, G, R, h]
    lengths: Array  # [S] int32, tokens of each prompt
    count: Array  # [] int32, response tokens read so far


def prefill(
    params: qwen.Params,
    config: LMConfig,
    tokens: Array,
    lengths: Array,
    room: int,
    *,
    constrain: qwen.Constrain | None = None,
    attention: Callable[..., Array] = look_back,
) -> tuple[Array, Cache]:
    """Reads whole prompts.

    Only the last token's state leaves the last layer, so that layer computes keys and
    values for all tokens but the rest for one.

    Args:
      params: weights.
      config: the shape of the model; static.
      tokens: [S, P] int32 prompts, padded on the right with any valid id.
      lengths: [S] int32 real tokens per prompt; 0 on rows that are not in use.
      room: response tokens to make room for; static.
      constrain: places an activation and the cache, see `qwen.forward`.
      attention: see `qwen.forward`.

    Returns:
      [S, V] float32 logits of the first response token, and the cache.
    """
    place = constrain or (lambda x, axes: x)
    rows = tokens.shape[0]
    rotation = qwen.rope(config, qwen.count_positions(tokens, None))

    def look(q, k, v):
        return attention(q, k, v), tuple(place(a, KEPT) for a in heads_first((k, v)))

    def step(x, w):
        x, kept = qwen.block(x, w, config, rotation, look)
        return place(x, ACTIVATION), kept

    x = place(qwen.embed(params, config, tokens, constrain), ACTIVATION)
    layers = params["layers"]
    if isinstance(layers, tuple):
        first, w = layers[:-1], layers[-1]
    else:
        first = jax.tree.map(lambda leaf: leaf[:-1], layers)
        w = jax.tree.map(lambda leaf: leaf[-1], layers)
    x, kept = qwen.over_layers(step, x, first)
    kept = kept or ((), ())  # one layer, lying apart: nothing is kept before the last

    last = jnp.maximum(lengths - 1, 0)
    h = qwen.rms_norm(x, w["attention_norm"], config.rms_eps)
    last_k, last_v = (qwen.heads(h, w, name, config, rotation) for name in "kv")
    last_kept = tuple(place(a, KEPT) for a in heads_first((last_k, last_v)))
    x, h, cos, sin = (
        jnp.take_along_axis(y, last.reshape(rows, *[1] * (y.ndim - 1)), axis=1)
        for y in (x, h, *(jnp.broadcast_to(r, (rows, *r.shape[1:])) for r in rotation))
    )
    q = qwen.heads(h, w, "q", config, (cos, sin))
    mask = jnp.arange(tokens.shape[1])[None] <= last[:, None]
    x = qwen.finish(x, attend(q, last_k, last_v, mask[:, None]), w, config)
    hidden = qwen.rms_norm(x, params["norm"], config.rms_eps)[:, 0]

    k, v = (_append(a, b) for a, b in zip(kept, last_kept, strict=True))

    def blank(a):
        zeros = jnp.zeros((*a.shape[:-2], room, a.shape[-1]), a.dtype)
        return place(zeros, (None,) * (a.ndim - 4) + KEPT)

    empty = jax.tree.map(blank, k)
    cache = Cache(k, v, empty, empty, lengths, jnp.int32(0))
    return _scores(params, config, hidden, constrain), cache


def decode_step(
    params: qwen.Params,
    config: LMConfig,
    token: Array,
    cache: Cache,
    *,
    constrain: qwen.Constrain | None = None,
) -> tuple[Array, Cache]:
    """Reads one more token per row.

    Args:
      params: weights.
      config: the shape of the model; static.
      token: [S] int32.
      cache: what has been read; give it up, its memory is reused under `jit`.
      constrain: places an activation, see `qwen.forward`.

    Returns:
      [S, V] float32 logits of the next token, and the grown cache.
    """
    place = constrain or (lambda x, axes: x)
    rotation = qwen.rope(config, (cache.lengths + cache.count)[:, None])
    width, room = (jax.tree.leaves(a)[0].shape[-2] for a in (cache.prompt_k, cache.k))
    prompt = jnp.arange(width)[None] < cache.lengths[:, None]
    response = jnp.arange(room)[None] <= cache.count

    def write(past, new):
        new = place(new, KEPT)
        return jax.lax.dynamic_update_slice_in_dim(past, new, cache.count, axis=-2)

    def step(x, w, prompt_k, prompt_v, past_k, past_v):
        def look(q, *new):
            # Written before it is read, the cache needs no copy.
            k, v = map(write, (past_k, past_v), heads_first(new))
            parts = (prompt_k, prompt_v, prompt), (k, v, response)
            return attend_cache(q, parts), (k, v)

        x, kept = qwen.block(x, w, config, rotation, look)
        return place(x, ACTIVATION), kept

    x = place(qwen.embed(params, config, token[:, None], constrain), ACTIVATION)
    x, (k, v) = qwen.over_layers(step, x, params["layers"], *cache[:4])
    hidden = qwen.rms_norm(x, params["norm"], config.rms_eps)[:, 0]
    cache = cache._replace(k=k, v=v, count=cache.count + 1)
    return _scores(params, config, hidden, constrain), cache


def _scores(params, config, hidden, constrain) -> Array:
    """Logits [S, V] of states [S, D]; on a mesh every device gets whole rows."""
    if constrain is None:
        return qwen.logits(params, config, hidden)
    # First each device its part of the vocabulary: else the head itself would travel.
    scores = constrain(qwen.logits(params, config, hidden, constrain), PARTS)
    return constrain(scores, LOGITS)


def heads_first(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Lays [S, L, G, h] as [S, G, L, h]: one head's keys are one block of memory."""
    return tuple(a.swapaxes(1, 2) for a in arrays)


def _append(layers: Any, last: Array) -> Any:
    if isinstance(layers, tuple):
        return (*layers, last)
    return jnp.concatenate([layers, last[None]])
