"""The transformer as functions of (weights, config, tokens).

Weights are one nested dict; the layers' weights are stacked on a leading axis and
scanned. `abstract` says for each weight its shape, logical axes and initialiser:
initialisation, sharding, loading and the memory planner are all read from it.

Axis letters: N rows, L tokens, D width, V vocabulary, H query heads, G key/value
heads, h head width, F inner width of the MLP, K layers.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.lm.attention import attend, causal_attention
from hiper_jax.lm.config import LMConfig
from hiper_jax.lm.layers import (
    over_layers,
    rematerialise,
    split_is_free,
    split_last,
)
from hiper_jax.lm.params import Params, ParamSpec, init_tree
from hiper_jax.lm.positions import count_positions, rope, rotate

Constrain = Callable[[Array, tuple[str | None, ...]], Array]
Rotation = tuple[Array, Array]  # cos and sin, [N, L, 1, h / 2] float32 each
STREAM = ("rows", "tokens", None)  # logical axes of the residual stream


def abstract(config: LMConfig) -> Params:
    """Returns the tree of `ParamSpec`s that the weights of `config` fill."""
    d, f, h = config.width, config.mlp_width, config.head_dim
    heads, groups = config.num_heads, config.num_kv_heads
    deep = 2 * config.depth  # the two residual writes of a layer start small
    layers = {
        "attention_norm": ParamSpec((d,), ("embed",), constant=1.0),
        "q": ParamSpec((d, heads, h), ("embed", "heads", None), d),
        "k": ParamSpec((d, groups, h), ("embed", "kv_heads", None), d),
        "v": ParamSpec((d, groups, h), ("embed", "kv_heads", None), d),
        "o": ParamSpec((heads, h, d), ("heads", None, "embed"), heads * h * deep),
        "mlp_norm": ParamSpec((d,), ("embed",), constant=1.0),
        "gate": ParamSpec((d, f), ("embed", "mlp"), d),
        "up": ParamSpec((d, f), ("embed", "mlp"), d),
        "down": ParamSpec((f, d), ("mlp", "embed"), f * deep),
    }
    if config.qkv_bias:
        layers["q_bias"] = ParamSpec((heads, h), ("heads", None))
        layers["k_bias"] = ParamSpec((groups, h), ("kv_heads", None))
        layers["v_bias"] = ParamSpec((groups, h), ("kv_heads", None))
    if config.qk_norm:
        layers["q_norm"] = ParamSpec((h,), (None,), constant=1.0)
        layers["k_norm"] = ParamSpec((h,), (None,), constant=1.0)
    tree = {
        "embed": ParamSpec((config.vocab_size, d), ("vocab", "embed"), 2500),
        "layers": {name: spec.stacked(config.depth) for name, spec in layers.items()},
        "norm": ParamSpec((d,), ("embed",), constant=1.0),
    }
    if not config.tied:
        tree["head"] = ParamSpec((config.vocab_size, d), ("vocab", "embed"), 2500)
    return tree


def init(config: LMConfig, key: Array, dtype: Any = jnp.float32) -> Params:
    """Draws weights for `config`; `jit` it with out_shardings to place them."""
    return init_tree(abstract(config), key, dtype)


def leave(x: Array, axes: tuple[str | None, ...]) -> Array:
    """The `Constrain` of one device: nothing is placed."""
    del axes
    return x


def forward(
    params: Params,
    config: LMConfig,
    tokens: Array,
    *,
    segment: Array | None = None,
    remat: str = "none",
    constrain: Constrain | None = None,
    attention: Callable[..., Array] = causal_attention,
    at: Array | None = None,
) -> Array:
    """Reads token rows and returns what the head and the critics read from.

    Rows are padded on the right. Attention looks back only, so padding never reaches
    a real token and needs no mask; what stands at padding is meaningless.

    Args:
      params: weights, see `abstract`.
      config: the shape of the model; static.
      tokens: [N, L] int32 token ids; any valid id on padding.
      segment: [N, L] int32, which packed sequence a token belongs to; consecutive
        equal numbers are one sequence. None: each row is one sequence.
      remat: what the gradient recomputes, a name in `layers.REMAT`.
      constrain: places an activation, given its logical axes; None leaves it to XLA.
      attention: (q, k, v, segment) -> [N, L, H, h], see `attention.causal`.
      at: [N, R] int32 positions whose states are asked for; None: all. The last of few
        layers then computes keys and values for all tokens and the rest for these.

    Returns:
      [N, L, D] hidden states after the last norm, of the compute dtype, or [N, R, D] of
      them. The state at position i predicts token i + 1.
    """
    chex.assert_rank(tokens, 2)
    chex.assert_type(tokens, int)
    if segment is not None:
        chex.assert_equal_shape([tokens, segment])
    place = constrain or leave
    step = functools.partial(
        _step,
        config=config,
        rotation=rope(config, count_positions(tokens, segment)),
        look=functools.partial(_look, segment=segment, attention=attention),
        place=place,
    )
    layers, last = params["layers"], None
    if at is not None and split_is_free(layers):
        layers, last = split_last(layers)
    x = place(embed(params, config, tokens, constrain), STREAM)
    x, _ = over_layers(rematerialise(step, remat), x, layers)
    if last is not None:
        look = functools.partial(_look_at, at=at, segment=segment)
        step = functools.partial(step, look=look, at=at)
        x, _ = rematerialise(step, remat)(x, last)
    elif at is not None:
        x = take(x, at)
    return rms_norm(x, params["norm"], config.rms_eps)


def _step(x: Array, layer: Params, *, config, rotation, look, place, at=None):
    """One layer of `forward`, which keeps nothing of it."""
    x, _ = block(x, layer, config, rotation, look, at)
    return place(x, STREAM), None


def _look(q: Array, k: Array, v: Array, *, segment, attention):
    return attention(q, k, v, segment), None


def _look_at(q: Array, k: Array, v: Array, *, at, segment):
    mask = jnp.arange(k.shape[1])[None, None] <= at[..., None]
    if segment is not None:
        mask &= take(segment, at)[..., None] == segment[:, None]
    return attend(q, k, v, mask), None


def take(x: Array, at: Array) -> Array:
    """[N, R, ...] of x [N, L, ...] at positions [N, R] of each row."""
    index = at.reshape(*at.shape, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1, mode="clip")


@jax.named_scope("embed")
def embed(
    params: Params,
    config: LMConfig,
    tokens: Array,
    constrain: Constrain | None = None,
) -> Array:
    """Returns [N, L, D] embeddings of [N, L] tokens, of the compute dtype."""
    table = params["embed"]
    if constrain:
        # Gather the table's width, not the tokens of all rows; and not as bfloat16,
        # in which gradients of a frequent token would no longer add up.
        table = constrain(table, ("vocab", None))
    return jnp.take(table, tokens, axis=0, mode="clip").astype(config.dtype)


@jax.named_scope("head")
def logits(
    params: Params,
    config: LMConfig,
    hidden: Array,
    constrain: Constrain | None = None,
) -> Array:
    """Returns [..., V] float32 scores of the next token from [..., D] hidden."""
    chex.assert_axis_dimension(hidden, -1, config.width)
    head = params["embed"] if config.tied else params["head"]
    if constrain:
        # Gather the head's width, never the logits or the rows.
        head = constrain(head.astype(hidden.dtype), ("vocab", None))
    return jnp.einsum(
        "...d,vd->...v",
        hidden,
        head.astype(hidden.dtype),
        preferred_element_type=jnp.float32,
    )


def block(
    x: Array,
    w: Params,
    config: LMConfig,
    rotation: Rotation,
    look: Callable[[Array, Array, Array], tuple[Array, Any]],
    at: Array | None = None,
) -> tuple[Array, Any]:
    """One layer: attention, then the gated MLP, each added to the stream.

    Args:
      x: [N, L, D] residual stream.
      w: one layer's weights (`abstract(config)["layers"]` without the layer axis).
      config: the shape of the model.
      rotation: cos and sin from `rope`.
      look: attention, (q [N, L, H, h], rotated k and v [N, L, G, h]) -> [N, L, H, h]
        and what to keep.
      at: [N, R] int32 positions that a last layer is asked for: keys and values are
        those of all tokens, the rest, q too, has R in L's place. None: all.

    Returns:
      [N, L, D] the stream, or [N, R, D] of it; and what `look` kept.
    """
    with jax.named_scope("attention"):
        h = rms_norm(x, w["attention_norm"], config.rms_eps)
        asked, angles = h, rotation
        if at is not None:
            whole = (jnp.broadcast_to(r, (len(x), *r.shape[1:])) for r in rotation)
            cos, sin = (take(r, at) for r in whole)
            x, angles = take(x, at), (cos, sin)
            asked = rms_norm(x, w["attention_norm"], config.rms_eps)
        # In this order, in which gradients of h are added up.
        q = heads(asked, w, "q", config, angles)
        k, v = (heads(h, w, name, config, rotation) for name in "kv")
        attended, kept = look(q, k, v)
    return output_and_mlp(x, attended, w, config), kept


def heads(
    h: Array, w: Params, name: str, config: LMConfig, rotation: Rotation
) -> Array:
    """Projects the normed stream h [N, L, D] to "q", "k" or "v": [N, L, heads, h]."""
    y = dense("td,dgh->tgh", h, w, name)
    if config.qkv_bias:
        y = y + w[f"{name}_bias"].astype(h.dtype)[None, None]
    if name == "v":
        return y
    if config.qk_norm:
        y = rms_norm(y, w[f"{name}_norm"], config.rms_eps)
    return rotate(y, rotation)


def output_and_mlp(x: Array, attended: Array, w: Params, config: LMConfig) -> Array:
    """Adds attention [N, L, H, h], then the MLP, to the stream x [N, L, D]."""
    with jax.named_scope("attention"):
        x = x + dense("tgh,ghd->td", attended, w, "o")
    with jax.named_scope("mlp"):
        h = rms_norm(x, w["mlp_norm"], config.rms_eps)
        gate, up = (dense("td,df->tf", h, w, name) for name in ("gate", "up"))
        return x + dense("tf,fd->td", jax.nn.silu(gate) * up, w, "down")


def dense(equation: str, x: Array, w: Params, name: str) -> Array:
    """Maps x [N, L, inputs] by w[name] [inputs, outputs], plus a low-rank part if any.

    `name_a` [inputs, rank] and `name_b` [rank, outputs] are there if an adapter was
    attached, see `qwen_lora`. The equation is of tokens in one row, [N * L, inputs]:
    summed over two axes, the gradient of w is a slower product on a CPU.
    """
    rows = x.shape[:2]
    x = x.reshape(-1, *x.shape[2:])
    y = jnp.einsum(equation, x, w[name].astype(x.dtype))
    if f"{name}_a" in w:
        left, out = equation.split("->")
        inputs, outputs = left.split(",")[0][1:], out[1:]
        low = jnp.einsum(f"t{inputs},{inputs}r->tr", x, w[f"{name}_a"].astype(x.dtype))
        y += jnp.einsum(f"tr,r{outputs}->{out}", low, w[f"{name}_b"].astype(x.dtype))
    return y.reshape(*rows, *y.shape[1:])


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    """Divides x [..., D] by its root mean square in float32, times scale [D]."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)
    return wide.astype(x.dtype) * jnp.expand_dims(
        scale.astype(x.dtype), tuple(range(x.ndim - 1))
    )
