"""What a network's weights are before they exist: a tree of `ParamSpec`s."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Params = Any  # nested dict of arrays, or of their `ParamSpec`s


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """What one weight is.

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

    def stacked(self, depth: int) -> "ParamSpec":
        """The weights of `depth` equal layers, on a leading axis."""
        return dataclasses.replace(
            self, shape=(depth, *self.shape), axes=("layer", *self.axes)
        )


def init_tree(specs: Params, key: Array, dtype: Any = jnp.float32) -> Params:
    """Draws the weights of a tree of `ParamSpec`s."""
    flat, shape = jax.tree.flatten(specs)
    keys = jax.random.split(key, len(flat))
    drawn = [draw(spec, key, dtype) for spec, key in zip(flat, keys, strict=True)]
    return shape.unflatten(drawn)


def draw(spec: ParamSpec, key: Array, dtype: Any) -> Array:
    """Draws one weight."""
    if not spec.fan_in:
        return jnp.full(spec.shape, spec.constant, dtype)
    return jax.random.normal(key, spec.shape, dtype) * spec.fan_in**-0.5
