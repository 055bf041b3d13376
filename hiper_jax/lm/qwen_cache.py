"""Reading a prompt once, then one token at a time, with the keys and values kept.

The cache has two parts. The prompt's part is written by `prefill` and never again;
the response's part has the same slot for every row, so that a decode step writes one
slab in place. Prompts of different lengths are padded on the right; the padding
between a short prompt and its response is masked, not skipped.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.lm import qwen
from hiper_jax.lm.attention import attend, attend_cache, causal_attention
from hiper_jax.lm.config import LMConfig
from hiper_jax.lm.layers import over_layers, split_last
from hiper_jax.lm.params import Params
from hiper_jax.lm.positions import count_positions, rope

# Logical axes of what is placed. Drawing a token reads whole rows of logits.
ACTIVATION = ("rows", None, None)
KEPT = ("rows", "kv_heads", None, None)
PARTS, LOGITS = ("rows", "vocab"), ("rows", None)


class Cache(NamedTuple):
    """Keys (rotated) and values; S rows.

    Layers lie as those of the weights do: stacked on a leading axis, or a tuple of one
    array per layer (`layers.unstack_layers`).
    """

    prompt_k: Any  # [S, G, P, h] per layer
    prompt_v: Any  # [S, G, P, h]
    k: Any  # [S, G, R, h], slots `count` and later are not yet written
    v: Any  # [S, G, R, h]
    lengths: Array  # [S] int32, tokens of each prompt
    count: Array  # [] int32, response tokens read so far


def prefill(
    params: Params,
    config: LMConfig,
    tokens: Array,
    lengths: Array,
    room: int,
    *,
    constrain: qwen.Constrain | None = None,
    attention: Callable[..., Array] = causal_attention,
) -> tuple[Array, Cache]:
    """Reads whole prompts; arguments as `read_prompts`.

    Returns:
      [S, V] float32 logits of the first response token, and the cache.
    """
    hidden, cache = read_prompts(
        params,
        config,
        tokens,
        lengths,
        room,
        constrain=constrain,
        attention=attention,
    )
    return next_logits(params, config, hidden, constrain=constrain), cache


@jax.named_scope("prefill")
def read_prompts(
    params: Params,
    config: LMConfig,
    tokens: Array,
    lengths: Array,
    room: int,
    *,
    constrain: qwen.Constrain | None = None,
    attention: Callable[..., Array] = causal_attention,
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
      [S, D] the states before the first response token, and the cache.
    """
    chex.assert_rank([tokens, lengths], [2, 1])
    chex.assert_type([tokens, lengths], int)
    chex.assert_equal_shape_prefix([tokens, lengths], 1)
    place = constrain or qwen.leave
    rotation = rope(config, count_positions(tokens, None))
    first, last = split_last(params["layers"])
    step = functools.partial(
        _read_layer,
        config=config,
        rotation=rotation,
        place=place,
        attention=attention,
    )
    x = place(qwen.embed(params, config, tokens, constrain), ACTIVATION)
    x, kept = over_layers(step, x, first)
    kept = kept or ((), ())  # one layer, lying apart: nothing is kept before the last
    at = jnp.maximum(lengths - 1, 0)[:, None]
    look = functools.partial(_look_from, at=at, place=place)
    x, last_kept = qwen.block(x, last, config, rotation, look, at)
    hidden = qwen.rms_norm(x, params["norm"], config.rms_eps)[:, 0]
    k, v = (_append(a, b) for a, b in zip(kept, last_kept, strict=True))
    empty = jax.tree.map(functools.partial(_blank, room=room, place=place), k)
    return hidden, Cache(k, v, empty, empty, lengths, jnp.int32(0))


def _read_layer(x: Array, w: Params, *, config, rotation, place, attention):
    """One layer of `prefill`, which keeps keys and values."""
    look = functools.partial(_look_and_keep, place=place, attention=attention)
    x, kept = qwen.block(x, w, config, rotation, look)
    return place(x, ACTIVATION), kept


def _look_and_keep(q: Array, k: Array, v: Array, *, place, attention):
    return attention(q, k, v), tuple(place(a, KEPT) for a in heads_first((k, v)))


def _look_from(q: Array, k: Array, v: Array, *, at, place):
    """Attention of the queries at positions `at` [S, 1]; keeps all keys and values."""
    mask = jnp.arange(k.shape[1])[None, None] <= at[..., None]
    kept = tuple(place(a, KEPT) for a in heads_first((k, v)))
    return attend(q, k, v, mask), kept


def _blank(a: Array, *, room: int, place: qwen.Constrain) -> Array:
    """Zeros for `room` response tokens, like keys a of the prompt."""
    zeros = jnp.zeros((*a.shape[:-2], room, a.shape[-1]), a.dtype)
    return place(zeros, (None,) * (a.ndim - 4) + KEPT)


def decode_step(
    params: Params,
    config: LMConfig,
    token: Array,
    cache: Cache,
    *,
    constrain: qwen.Constrain | None = None,
) -> tuple[Array, Cache]:
    """Reads one more token per row; arguments as `read_token`.

    Returns:
      [S, V] float32 logits of the next token, and the grown cache.
    """
    hidden, cache = read_token(params, config, token, cache, constrain=constrain)
    return next_logits(params, config, hidden, constrain=constrain), cache


@jax.named_scope("decode")
def read_token(
    params: Params,
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
      [S, D] the states before the next token, and the grown cache.
    """
    chex.assert_rank(token, 1)
    chex.assert_type(token, int)
    chex.assert_equal_shape([token, cache.lengths])
    place = constrain or qwen.leave
    width, room = (jax.tree.leaves(a)[0].shape[-2] for a in (cache.prompt_k, cache.k))
    step = functools.partial(
        _decode_layer,
        config=config,
        rotation=rope(config, (cache.lengths + cache.count)[:, None]),
        prompt=jnp.arange(width)[None] < cache.lengths[:, None],
        response=jnp.arange(room)[None] <= cache.count,
        count=cache.count,
        place=place,
    )
    x = place(qwen.embed(params, config, token[:, None], constrain), ACTIVATION)
    x, (k, v) = over_layers(step, x, params["layers"], *cache[:4])
    hidden = qwen.rms_norm(x, params["norm"], config.rms_eps)[:, 0]
    return hidden, cache._replace(k=k, v=v, count=cache.count + 1)


def _decode_layer(
    x: Array,
    w: Params,
    prompt_k: Array,
    prompt_v: Array,
    past_k: Array,
    past_v: Array,
    *,
    config,
    rotation,
    prompt: Array,
    response: Array,
    count: Array,
    place,
):
    """One layer of `decode_step`; masks prompt [S, P] and response [1, R]."""
    look = functools.partial(
        _look_in_cache,
        kept=(prompt_k, prompt_v, prompt),
        past=(past_k, past_v),
        response=response,
        count=count,
        place=place,
    )
    x, kept = qwen.block(x, w, config, rotation, look)
    return place(x, ACTIVATION), kept


def _look_in_cache(q: Array, *new: Array, kept, past, response, count, place):
    # Written before it is read, the cache needs no copy.
    k, v = (
        jax.lax.dynamic_update_slice_in_dim(old, place(one, KEPT), count, axis=-2)
        for old, one in zip(past, heads_first(new), strict=True)
    )
    return attend_cache(q, (kept, (k, v, response))), (k, v)


def next_logits(
    params: Params,
    config: LMConfig,
    hidden: Array,
    *,
    constrain: qwen.Constrain | None = None,
) -> Array:
    """Logits [S, V] of states [S, D]; on a mesh every device gets whole rows."""
    if constrain is None:
        return qwen.logits(params, config, hidden)
    # First each device its part of the vocabulary: else the head itself would travel.
    scores = constrain(qwen.logits(params, config, hidden, constrain), PARTS)
    return constrain(scores, LOGITS)


def take_rows(cache: Cache, rows: Array) -> Cache:
    """The cache of some rows [n], in their order."""
    layers = cache._replace(lengths=(), count=())
    kept = jax.tree.map(functools.partial(jnp.take, indices=rows, axis=-4), layers)
    return kept._replace(lengths=cache.lengths[rows], count=cache.count)


def heads_first(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Lays [S, L, G, h] as [S, G, L, h]: one head's keys are one block of memory."""
    return tuple(a.swapaxes(1, 2) for a in arrays)


def _append(layers: Any, last: Array) -> Any:
    if isinstance(layers, tuple):
        return (*layers, last)
    return jnp.concatenate([layers, last[None]])
