"""Devices that each feed their own rows: what they add up meets once, at the end.

whole weights, fetched beforehand      [cut along tensor only]
sums of a device's own rows            the same, float32
`added_up`                             cut as weights are, along fsdp and tensor
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from hiper_jax.lm.params import Params, ParamSpec
from hiper_jax.lm.sharding import AXES, ROWS, left_axes, spec, without


def by_rows(fn: Callable[..., Any], mesh: Mesh, out: Any = None) -> Callable[..., Any]:
    """Returns fn, run by each device for itself as far as rows are cut.

    What it adds up stays its own until `added_up`; what it is given is whole along
    those axes. The other axes are left to XLA.

    Args:
      fn: of pytrees; what in them is no array is passed on as it is. It must close over
        no array.
      mesh: the mesh.
      out: a PartitionSpec for each array it returns; None: all devices have the same.
    """
    own = {axis for axis in AXES if axis in ROWS or mesh.shape[axis] == 1}

    def run(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        held = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]

        def inside(*arrays: Array) -> Any:
            rest = iter(arrays)
            given = [
                next(rest) if is_array else leaf
                for is_array, leaf in zip(held, leaves, strict=True)
            ]
            return fn(*tree.unflatten(given))

        return jax.shard_map(
            inside,
            mesh=mesh,
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec() if out is None else out,
            axis_names=own,
            check_vma=False,
        )(*(leaf for is_array, leaf in zip(held, leaves, strict=True) if is_array))

    return run


def share() -> int:
    """Devices that rows are cut over, inside `by_rows`; outside 1."""
    inside = jax.sharding.get_abstract_mesh().manual_axes
    return jax.lax.axis_size(ROWS) if set(ROWS) <= set(inside) else 1


def own_rows(x: Array) -> Array:
    """Inside `by_rows`: this device's share of the rows x [C, ...] of a chunk."""
    size = x.shape[0] // jax.lax.axis_size(ROWS)
    start = jax.lax.axis_index(ROWS) * size
    return jax.lax.dynamic_slice_in_dim(x, start, size)


def all_rows(x: Array) -> Array:
    """Inside `by_rows`: [C, ...] of every device's share."""
    return jax.lax.all_gather(x, ROWS, tiled=True)


def added_up(specs: Params, gradients: Params) -> Params:
    """Inside `by_rows`: sums over devices, each left with its part along fsdp."""

    def add(leaf: ParamSpec, gradient: Array) -> Array:
        for at, axis in enumerate(spec(leaf.axes)):
            if axis == "fsdp":
                gradient = jax.lax.psum_scatter(
                    gradient, axis, scatter_dimension=at, tiled=True
                )
                return jax.lax.psum(gradient, "data")
        return jax.lax.psum(gradient, ROWS)

    left = left_axes()
    if not left:
        return jax.tree.map(add, specs, gradients)
    # XLA would make whole, along axes that are left to it, what devices share out.
    cut = jax.tree.map(lambda leaf: without(spec(leaf.axes), ROWS), specs)
    return jax.shard_map(
        functools.partial(jax.tree.map, add, specs),
        in_specs=(cut,),
        out_specs=cut,
        axis_names=left,
        check_vma=False,
    )(gradients)


def parts(specs: Params) -> Any:
    """What `added_up` leaves, as `by_rows` is told of it."""
    return jax.tree.map(lambda leaf: without(spec(leaf.axes), ("tensor",)), specs)
