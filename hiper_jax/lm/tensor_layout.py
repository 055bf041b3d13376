"""Which slice of which of our weights each tensor of a file is.

A file's tensor is one layer's slice of one weight, with axes merged and swapped.
Loading and saving both follow `layout`.
"""

from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hiper_jax.lm.config import LMConfig
from hiper_jax.lm.families import Family, family_of
from hiper_jax.lm.params import Params, ParamSpec

# A critic's heads, the same in every family.
VALUE = {"value": "value_head.weight", "value_bias": "value_head.bias"}
# Weights that map inputs to outputs; files store (outputs, inputs).
SWAPPED = {"q", "k", "v", "o", "gate", "up", "down", "value"}


class Tensor(NamedTuple):
    """Where one tensor of a file lies in our tree."""

    leaf: str  # the last key of its path
    layer: int | None  # its place on the leading axis; None: the whole weight
    ours: tuple[int, ...]  # shape of our slice, without the layer axis
    theirs: tuple[int, ...]  # shape in the file


def layout(config: LMConfig, specs: Params) -> dict[str, Tensor]:
    """Returns, by the file's names, the tensors that fill a tree of specs."""
    family = family_of(config.family)
    table = {}
    for path, spec in jax.tree.leaves_with_path(specs):
        name = path[-1].key
        stacked = spec.axes[0] == "layer"
        ours = spec.shape[1:] if stacked else spec.shape
        theirs = stored_shape(name, spec)
        for i in range(config.depth) if stacked else [None]:
            table[stored_name(family, name, i)] = Tensor(name, i, ours, theirs)
    return table


def stored_name(family: Family, name: str, layer: int | None) -> str:
    """Returns the file's name of a weight, or of one layer of it."""
    if layer is not None:
        return f"model.layers.{layer}.{family.layer[name].hf}"
    return VALUE[name] if name in VALUE else family.whole[name].hf


def stored_shape(name: str, spec: ParamSpec) -> tuple[int, ...]:
    """Returns the shape that a file gives a weight, or a layer of it."""
    stacked = spec.axes[0] == "layer"
    shape = spec.shape[1:] if stacked else spec.shape
    if name in SWAPPED:
        cut = 2 if name == "o" else 1  # axes that are inputs
        return int(np.prod(shape[cut:])), int(np.prod(shape[:cut]))
    if name.endswith("_bias") and stacked:
        return (int(np.prod(shape)),)
    return shape


def to_ours(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """A file's array as a slice of our weight."""
    if tensor.leaf in SWAPPED:
        array = array.T
    return array.reshape(tensor.ours)


def to_theirs(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """A slice of our weight as a file's array."""
    if tensor.leaf in SWAPPED:
        return array.reshape(tensor.theirs[::-1]).T
    return array.reshape(tensor.theirs)


def check_tensors(
    tensors: Mapping[str, Any], table: Mapping[str, Tensor], ignored: Set[str]
) -> None:
    """Raises ValueError if names or shapes are not those of the table."""
    for name, tensor in table.items():
        if name not in tensors:
            raise ValueError(
                f"The weights lack {name}; is config.json that of another model?"
            )
        if tensors[name].shape != tensor.theirs:
            raise ValueError(
                f"{name} has shape {tensors[name].shape}, but config.json asks for "
                f"{tensor.theirs}; is config.json that of another model?"
            )
        kind = getattr(tensors[name], "dtype", np.dtype(np.float32))
        if not jnp.issubdtype(kind, jnp.floating):
            raise ValueError(
                f"{name} is stored as {kind}, without scales: convert the model to "
                "float32, float16 or bfloat16."
            )
    for name in tensors:
        known = name in table or name in ignored or name.endswith("rotary_emb.inv_freq")
        if not known:
            raise ValueError(
                f"The weights hold {name}, which this model does not have; is "
                "config.json that of another model?"
            )
