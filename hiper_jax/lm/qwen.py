"""The transformer as functions of (weights, config, tokens).

Weights are one nested dict; the layers' weights are stacked on a leading axis and
scanned. `abstract` says for each leaf its shape, dtype, logical axes and initialiser:
initialisation, sharding, loading and the memory planner are all read from it.

Axis letters: N rows, L tokens, D width, V vocabulary, H query heads, G key/value
heads, h head width, F inner width of the MLP, K layers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.lm.attention import look_back
from hiper_jax.lm.config import LMConfig, rope_frequencies

Params = Any  # nested dict of arrays
Constrain = Callable[[Array, tuple[str | None, ...]], Array]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What one weight is, before it exists.

    Attributes:
      shape: its dimensions.
      axes: one logical name per dimension, see `sharding.RULES`.
      fan_in: inputs summed into one output: normal(0, 1 / fan_in). 0: constant.
      constant: the initial value where fan_in is 0.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    fan_in: float = 0
    constant: float = 0.0


def abstract(config: LMConfig) -> Params:
    """Returns the tree of `Leaf`s that the weights of `config` fill."""
    c = config
    d, f, h = c.width, c.mlp_width, c.head_dim
    heads, groups = c.num_heads, c.num_kv_heads
    deep = 2 * c.depth  # the two residual writes of a layer start small

    def layer(shape, axes, fan_in=0, constant=0.0):
        return Leaf((c.depth, *shape), ("layer", *axes), fan_in, constant)

    layers = {
        "attention_norm": layer((d,), ("embed",), constant=1.0),
        "q": layer((d, heads, h), ("embed", "heads", None), d),
        "k": layer((d, groups, h), ("embed", "kv_heads", None), d),
        "v": layer((d, groups, h), ("embed", "kv_heads", None), d),
        "o": layer((heads, h, d), ("heads", None, "embed"), heads * h * deep),
        "mlp_norm": layer((d,), ("embed",), constant=1.0),
        "gate": layer((d, f), ("embed", "mlp"), d),
        "up": layer((d, f), ("embed", "mlp"), d),
        "down": layer((f, d), ("mlp", "embed"), f * deep),
    }
    if c.qkv_bias:
        layers["q_bias"] = layer((heads, h), ("heads", None))
        layers["k_bias"] = layer((groups, h), ("kv_heads", None))
        layers["v_bias"] = layer((groups, h), ("kv_heads", None))
    if c.qk_norm:
        layers["q_norm"] = layer((h,), (None,), constant=1.0)
        layers["k_norm"] = layer((h,), (None,), constant=1.0)
    tree = {
        "embed": Leaf((c.vocab_size, d), ("vocab", "embed"), 2500),
        "layers": layers,
        "norm": Leaf((d,), ("embed",), constant=1.0),
    }
    if not c.tied:
        tree["head"] = Leaf((c.vocab_size, d), ("vocab", "embed"), 2500)
    return tree


def init_tree(leaves: Params, key: Array, dtype: Any = jnp.float32) -> Params:
    """Draws the weights of a tree of `Leaf`s."""
    flat, shape = jax.tree.flatten(leaves)
    keys = jax.random.split(key, len(flat))

    def draw(leaf: Leaf, key: Array) -> Array:
        if not leaf.fan_in:
            return jnp.full(leaf.shape, leaf.constant, dtype)
        return jax.random.normal(key, leaf.shape, dtype) * leaf.fan_in**-0.5

    return shape.unflatten(map(draw, flat, keys))


def init(config: LMConfig, key: Array, dtype: Any = jnp.float32) -> Params:
    """Draws weights for `config`; `jit` it with out_shardings to place them."""
    return init_tree(abstract(config), key, dtype)


def forward(
    params: Params,
    config: LMConfig,
    tokens: Array,
    *,
    segment: Array | None = None,
    positions: Array | None = None,
    remat: str = "none",
    constrain: Constrain | None = None,
    attention: Callable[..., Array] = look_back,
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
      positions: [N, L] int32, place in the sequence; by default counted from the
        start of each segment.
      remat: what the gradient recomputes, a name in `REMAT`.
      constrain: places an activation, given its logical axes; None leaves it to XLA.
      attention: (q, k, v, segment) -> [N, L, H, h], see `attention.causal`.

    Returns:
      [N, L, D] hidden states after the last norm, of the compute dtype. The state at
      position i predicts token i + 1.
    """
    constrain = constrain or (lambda x, axes: x)
    if positions is None:
        positions = count_positions(tokens, segment)
    rotation = rope(config, positions)

    def step(x, layer):
        def look(q, k, v):
            return attention(q, k, v, segment), None

        x, _ = block(x, layer, config, rotation, look)
        return constrain(x, ("rows", "tokens", None)), None

    step = rematerialise(step, remat)
    x = constrain(embed(params, config, tokens, constrain), ("rows", "tokens", None))
    x, _ = over_layers(step, x, params["layers"])
    return rms_norm(x, params["norm"], config.rms_eps)


def logits(
    params: Params,
    config: LMConfig,
    hidden: Array,
    constrain: Constrain | None = None,
) -> Array:
    """Returns [..., V] float32 scores of the next token from [..., D] hidden."""
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


def count_positions(tokens: Array, segment: Array | None) -> Array:
    """Returns [N, L] int32: how far each token is from its segment's first."""
    index = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
    if segment is None:
        return index
    change = jnp.diff(segment, axis=1, prepend=segment[:, :1] - 1) != 0
    return index - jax.lax.cummax(jnp.where(change, index, 0), axis=1)


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


def block(
    x: Array,
    w: Params,
    config: LMConfig,
    rotation: tuple[Array, Array],
    look: Callable[[Array, Array, Array], tuple[Array, Any]],
) -> tuple[Array, Any]:
    """One layer: attention, then the gated MLP, each added to the stream.

    Args:
      x: [N, L, D] residual stream.
      w: one layer's weights (`abstract(config)["layers"]` without the layer axis).
      config: the shape of the model.
      rotation: cos and sin from `rope`.
      look: attention, (q [N, L, H, h], rotated k and v [N, L, G, h]) -> [N, L, H, h]
        and what to keep.

    Returns:
      [N, L, D] the stream, and what `look` kept.
    """
    h = rms_norm(x, w["attention_norm"], config.rms_eps)
    q, k, v = (heads(h, w, name, config, rotation) for name in "qkv")
    attended, kept = look(q, k, v)
    return finish(x, attended, w, config), kept


def heads(
    h: Array, w: Params, name: str, config: LMConfig, rotation: tuple[Array, Array]
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


def finish(x: Array, attended: Array, w: Params, config: LMConfig) -> Array:
    """Adds attention [N, L, H, h], then the MLP, to the stream x [N, L, D]."""
    x = x + dense("tgh,ghd->td", attended, w, "o")
    h = rms_norm(x, w["mlp_norm"], config.rms_eps)
    gate, up = (dense("td,df->tf", h, w, name) for name in ("gate", "up"))
    return x + dense("tf,fd->td", jax.nn.silu(gate) * up, w, "down")


def dense(equation: str, x: Array, w: Params, name: str) -> Array:
    """Maps x [N, L, inputs] by w[name] [inputs, outputs], plus a low-rank part if any.

    `name_a` [inputs, rank] and `name_b` [rank, outputs] are there if an adapter was
    attached, see `lora`. The equation is of tokens in one row, [N * L, inputs]: summed
    over two axes, the gradient of w is a slower product on a CPU.
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


# XLA's loop on CPU copies each layer's weights: so few layers are unrolled.
MAX_UNROLLED = 4

REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def rematerialise(step: Callable, name: str) -> Callable:
    """Wraps a layer so that its gradient recomputes what the policy does not keep."""
    if name not in REMAT:
        raise ValueError(f"remat must be one of {sorted(REMAT)}, got {name!r}.")
    if REMAT[name] is None:
        return step
    return jax.checkpoint(step, policy=REMAT[name], prevent_cse=False)


def over_layers(step: Callable, x: Array, *layers: Any) -> tuple[Array, Any]:
    """Carries x through the layers: a scan if they are stacked, else a plain loop.

    Args:
      step: (x, one layer of each of `layers`) -> (x, what to keep of the layer).
      x: the carry.
      *layers: trees with a leading layer axis, or tuples of one tree per layer.

    Returns:
      the last x, and what was kept, in the same form: each leaf stacked, or a tuple.
    """
    if not isinstance(layers[0], tuple):
        depth = len(jax.tree.leaves(layers[0])[0])
        return jax.lax.scan(
            lambda x, layer: step(x, *layer), x, layers, unroll=depth <= MAX_UNROLLED
        )
    kept = []
    for layer in zip(*layers, strict=True):
        x, keep = step(x, *layer)
        kept.append(keep)
    return x, jax.tree.map(lambda *leaves: leaves, *kept) if kept else ()


def serving(params: Params, dtype: Any = None) -> Params:
    """Returns the weights as sampling wants them: one tree per layer, of `dtype`.

    A program that reads a slice of stacked weights at every decode step copies them
    at every step; separate arrays are read in place. Every function of this package
    takes either form. The training form is the stacked one.
    """
    if dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    leaves, shape = jax.tree.flatten(params["layers"])
    layers = zip(*leaves, strict=True)
    return params | {"layers": tuple(shape.unflatten(layer) for layer in layers)}
