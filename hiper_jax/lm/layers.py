"""A step over all layers: stacked and scanned, or apart in a plain loop."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

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


def split_is_free(layers: Any) -> bool:
    """Whether `split_last` copies no weights: layers apart, or unrolled anyway."""
    if isinstance(layers, tuple):
        return True
    return len(jax.tree.leaves(layers)[0]) <= MAX_UNROLLED


def split_last(layers: Any) -> tuple[Any, Any]:
    """Layers in either form -> all but the last in that form, and the last."""
    if isinstance(layers, tuple):
        return layers[:-1], layers[-1]
    first = jax.tree.map(lambda leaf: leaf[:-1], layers)
    return first, jax.tree.map(lambda leaf: leaf[-1], layers)


def unstack_layers(params: Any, dtype: Any = None) -> Any:
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
