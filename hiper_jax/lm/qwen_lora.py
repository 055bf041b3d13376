"""Low-rank adapters: a small tree of weights beside a frozen large one.

    y = x W + (alpha / rank) (x A) B

A is drawn, B starts at zero: an untrained adapter changes nothing. Source: Hu et al.
2021, arXiv 2106.09685.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.lm import qwen
from hiper_jax.lm.config import LMConfig
from hiper_jax.lm.params import Params, ParamSpec, init_tree

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


def abstract(config: LMConfig, rank: int, targets: Sequence[str] = TARGETS) -> Params:
    """Returns the tree of specs of an adapter: `name_a` and `name_b` per target.

    Args:
      config: the shape of the frozen model.
      rank: r, of each update.
      targets: which of `TARGETS` are adapted.

    Raises:
      ValueError: if a target is not one of `TARGETS`.
    """
    layers = qwen.abstract(config)["layers"]
    tree = {}
    for name in targets:
        if name not in TARGETS:
            raise ValueError(f"Adapters go on {TARGETS}, not on {name!r}.")
        spec = layers[name]
        cut = _cut(name)
        depth, inputs, outputs = spec.shape[0], spec.shape[1:cut], spec.shape[cut:]
        fan_in = 1
        for size in inputs:
            fan_in *= size
        tree[f"{name}_a"] = ParamSpec(
            (depth, *inputs, rank), (*spec.axes[:cut], None), fan_in
        )
        tree[f"{name}_b"] = ParamSpec(
            (depth, rank, *outputs), ("layer", None, *spec.axes[cut:])
        )
    return tree


def init(
    config: LMConfig,
    key: Array,
    rank: int,
    targets: Sequence[str] = TARGETS,
    dtype: Any = jnp.float32,
) -> Params:
    """Draws an adapter that changes nothing yet."""
    return init_tree(abstract(config, rank, targets), key, dtype)


def attach(params: Params, adapter: Params, alpha: float) -> Params:
    """Returns weights that every function of this package reads with the adapter.

    Differentiate with respect to `adapter`; the large weights are held still.

    Args:
      params: stacked weights of the frozen model.
      adapter: see `init`.
      alpha: strength; the update is multiplied by alpha / rank.
    """
    params = jax.lax.stop_gradient(params)
    scaled = {
        name: leaf * (alpha / leaf.shape[1]) if name.endswith("_b") else leaf
        for name, leaf in adapter.items()
    }
    return params | {"layers": params["layers"] | scaled}


def merge(params: Params, adapter: Params, alpha: float) -> Params:
    """Returns plain weights with the adapter added in: for sampling and for export."""
    layers = dict(params["layers"])
    for name in TARGETS:
        if f"{name}_a" not in adapter:
            continue
        a, b = (adapter[f"{name}_{part}"].astype(jnp.float32) for part in "ab")
        update = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))(a, b)
        update = update * (alpha / b.shape[1])
        layers[name] = (layers[name] + update).astype(layers[name].dtype)
    return params | {"layers": layers}


def _cut(name: str) -> int:
    """The axis of a stacked leaf at which its outputs begin."""
    return 3 if name == "o" else 2
