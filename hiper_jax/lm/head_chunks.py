"""Targets of any shape cut into chunks of few, so that few rows of logits exist."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Chunks(NamedTuple):
    """How targets [...] are cut: laid as [rows, positions], then cut by position."""

    shape: tuple[int, ...]  # of the targets
    rows: int
    positions: int
    count: int  # chunks
    each: int  # positions per chunk


def plan_chunks(shape: tuple[int, ...], chunk: int) -> Chunks:
    """Plans chunks of at most `chunk` targets, equally full."""
    total = math.prod(shape)
    if len(shape) == 2 and shape[0] <= chunk:
        rows, positions = shape
    else:
        # Neighbours go to different chunks: where rows are sharded over devices, every
        # device then holds an equal part of every chunk.
        positions = -(-total // chunk)
        rows = -(-total // positions)
    count = -(-positions // max(chunk // rows, 1))
    return Chunks(shape, rows, positions, count, each=-(-positions // count))


def into_chunks(x: Array, cut: Chunks, fill: int) -> Array:
    """[..., *rest] -> [count, rows * each, *rest], padded with `fill`."""
    rest = x.shape[len(cut.shape) :]
    x = x.reshape(math.prod(cut.shape), *rest)
    x = _pad(x, 0, cut.rows * cut.positions, fill)
    x = x.reshape(cut.rows, cut.positions, *rest)
    x = _pad(x, 1, cut.count * cut.each, fill)
    x = x.reshape(cut.rows, cut.count, cut.each, *rest)
    return x.swapaxes(0, 1).reshape(cut.count, cut.rows * cut.each, *rest)


def from_chunks(y: Array, cut: Chunks) -> Array:
    """[count, rows * each] -> [...], without the padding."""
    y = y.reshape(cut.count, cut.rows, cut.each).swapaxes(0, 1)
    y = y.reshape(cut.rows, cut.count * cut.each)[:, : cut.positions]
    return y.reshape(-1)[: math.prod(cut.shape)].reshape(cut.shape)


def _pad(x: Array, axis: int, size: int, fill: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, widths, constant_values=fill)
