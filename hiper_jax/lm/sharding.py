"""Which part of what lies on which device: one mesh, one table.

Weights and activations name their axes ("embed", "heads", "rows", ...). `RULES` maps
each name to axes of the mesh; every placement in the project is read from it.

    data    rows of the batch, weights repeated
    fsdp    rows of the batch, weights cut along their width
    tensor  heads, inner width and vocabulary
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from hiper_jax.lm.attention import choose
from hiper_jax.lm.params import Params, ParamSpec

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # those that cut rows
RULES: Mapping[str, str | tuple[str, ...] | None] = {
    "layer": None,
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "rows": ROWS,
    "tokens": None,
}


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, *, devices: Any = None
) -> Mesh:
    """Lays devices out as [data, fsdp, tensor]; tensor neighbours are closest.

    Raises:
      ValueError: if there are not that many devices.
    """
    shape = (data, fsdp, tensor)
    devices = jax.devices() if devices is None else devices
    if len(devices) != np.prod(shape):
        raise ValueError(
            f"A mesh of {data} x {fsdp} x {tensor} (data, fsdp, tensor) needs "
            f"{np.prod(shape)} devices, there are {len(devices)}; change a factor."
        )
    types = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)


def spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Returns the mesh axes of an array whose axes have these logical names."""
    return PartitionSpec(*(RULES[name] if name else None for name in axes))


def shardings(specs: Params, mesh: Mesh) -> Params:
    """Returns a `NamedSharding` for each `ParamSpec` of a tree.

    Raises:
      ValueError: if the mesh does not divide an axis, naming both.
    """
    if fault := undivided(specs, mesh.shape):
        raise ValueError(fault)
    return jax.tree.map(lambda leaf: NamedSharding(mesh, spec(leaf.axes)), specs)


def undivided(specs: Params, mesh: Mapping[str, int]) -> str | None:
    """Says which axis of a tree a mesh (devices per axis) does not divide, if any."""
    for path, leaf in jax.tree.leaves_with_path(specs):
        for size, name, axis in zip(
            leaf.shape, leaf.axes, spec(leaf.axes), strict=True
        ):
            ways = mesh[axis] if axis else 1
            if size % ways:
                return (
                    f"{path[-1].key} has {size} {name}, which the mesh's {axis} = "
                    f"{ways} does not divide; choose a divisor of {size}."
                )
    return None


def serving_shardings(specs: Params, mesh: Mesh) -> Params:
    """Returns the places of `unstack_layers`' weights: cut along tensor, else repeated.

    Every decode step reads every weight: cut along fsdp they would all travel at
    every token.
    """
    places = jax.tree.map(functools.partial(_serving_sharding, mesh=mesh), specs)
    depth = jax.tree.leaves(specs["layers"])[0].shape[0]
    return places | {"layers": (places["layers"],) * depth}


def _serving_sharding(leaf: ParamSpec, *, mesh: Mesh) -> NamedSharding:
    axes = tuple(None if axis == "embed" else axis for axis in leaf.axes)
    return NamedSharding(mesh, spec(axes[1:] if axes[0] == "layer" else axes))


def hold(
    specs: Params, mesh: Mesh, *, whole: bool = False
) -> Callable[[Params], Params]:
    """Returns the function that keeps weights, and so their gradients, in place.

    Args:
      specs: the abstract tree of the weights.
      mesh: the mesh.
      whole: they are whole along the axes that cut rows.

    Raises:
      ValueError: if the mesh does not divide an axis, naming both.
    """

    if fault := undivided(specs, mesh.shape):
        raise ValueError(fault)

    def keep(params: Params) -> Params:
        def place(leaf: ParamSpec) -> NamedSharding:
            axes = spec(leaf.axes)
            return _here(mesh, without(axes, ROWS) if whole else axes)

        return jax.lax.with_sharding_constraint(params, jax.tree.map(place, specs))

    return keep


def state_shardings(state: Any, specs: Params, mesh: Mesh) -> Any:
    """Places everything that mirrors the weights as the weights, the rest everywhere.

    Args:
      state: arrays or shapes (`jax.eval_shape`); an optimizer's state, say. Whatever
        sits under the path of a weight and has its shape belongs to that weight.
      specs: the abstract tree of the weights.
      mesh: the mesh.
    """
    places = jax.tree.leaves(shardings(specs, mesh))
    known = {
        tuple(map(str, path)): (leaf.shape, place)
        for (path, leaf), place in zip(
            jax.tree.leaves_with_path(specs), places, strict=True
        )
    }
    everywhere = NamedSharding(mesh, PartitionSpec())
    place = functools.partial(_mirrored, known=known, otherwise=everywhere)
    return jax.tree.map_with_path(place, state)


def _mirrored(path, leaf, *, known, otherwise):
    """The place of the weight that an array of a state belongs to, if of any."""
    path = tuple(map(str, path))
    for start in range(len(path)):
        shape, place = known.get(path[start:], (None, None))
        if shape == leaf.shape:
            return place
    return otherwise


def placed(shapes: Any, places: Any) -> Any:
    """Shapes with their places: one place for all, or a tree of them."""
    if isinstance(places, Sharding):
        places = jax.tree.map(lambda _: places, shapes)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        places,
    )


def rows(mesh: Mesh) -> NamedSharding:
    """Returns the placement of batch arrays [N, ...]: rows over data and fsdp."""
    return _here(mesh, PartitionSpec(ROWS))


def constrain(mesh: Mesh) -> Callable[[Array, tuple[str | None, ...]], Array]:
    """Returns the function that `qwen.forward` places activations with."""

    def place(x: Array, axes: tuple[str | None, ...]) -> Array:
        return jax.lax.with_sharding_constraint(x, _here(mesh, spec(axes)))

    return place


def _here(mesh: Mesh, axes: PartitionSpec) -> NamedSharding:
    """The place of what is cut along `axes`; inside `by_rows`, by what is left."""
    inside = jax.sharding.get_abstract_mesh()
    if not inside.manual_axes:
        return NamedSharding(mesh, axes)
    return NamedSharding(inside, without(axes, inside.manual_axes))


def left_axes() -> set[str]:
    """Mesh axes that are left to XLA; all of them outside of any `shard_map`."""
    inside = jax.sharding.get_abstract_mesh().manual_axes
    return {axis for axis in AXES if axis not in inside}


def without(axes: PartitionSpec, left_out: Sequence[str]) -> PartitionSpec:
    """Returns the axes but for some, along which an array is then whole."""
    kept = (
        tuple(a for a in (axis if isinstance(axis, tuple) else (axis,)) if a)
        for axis in axes
    )
    kept = (tuple(a for a in names if a not in left_out) for names in kept)
    return PartitionSpec(*(names or None for names in kept))


def attention(mesh: Mesh, **options: Any) -> Callable[..., Array]:
    """Returns the attention for `qwen.forward` on a mesh: rows and heads apart.

    Each device runs the kernel of its platform on its own rows and heads.

    Args:
      mesh: the mesh; its tensor axis divides both head counts.
      **options: passed to the kernel.
    """
    return functools.partial(_attend_apart, mesh=mesh, options=options)


def _attend_apart(
    q: Array,
    k: Array,
    v: Array,
    segment: Array | None = None,
    *,
    mesh: Mesh,
    options: Mapping[str, Any],
) -> Array:
    heads = _here(mesh, spec(("rows", None, "heads", None)))
    packed = None if segment is None else _here(mesh, spec(("rows", None))).spec
    kernel = choose(mesh.devices.flat[0].platform, q, packed=segment is not None)
    kernel = functools.partial(kernel, **options)
    left = left_axes()
    if not left:
        return kernel(q, k, v, segment)
    return jax.shard_map(
        kernel,
        mesh=heads.mesh,
        in_specs=(heads.spec, heads.spec, heads.spec, packed),
        out_specs=heads.spec,
        axis_names=left,
        check_vma=False,
    )(q, k, v, segment)
