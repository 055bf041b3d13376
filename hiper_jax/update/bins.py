"""Rows of tokens laid end to end, each seeing itself alone: few lengths, no gaps.

A bin is a row that a network is fed. Up to K rows lie in one, by first fit, the
longest first. All bins have one length, but for the last few, which may be short.

Letters: N rows of at most L tokens; W bins; C bins of a chunk; S rows that are fed.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class Fed(NamedTuple):
    """Rows of a batch as a network reads them: each alone, or several in a bin."""

    tokens: Array  # [S, l] int32; of bins [S / K, l]
    rows: Array  # [S] int32, which rows of the batch
    segment: Array | None = None  # [S / K, l] int32, see `qwen.forward`
    shift: Array | None = None  # [S] int32, where each begins in its bin
    used: Array | None = None  # [S] bool, a row lies there

    def start(self, start: Array) -> Array:
        """[S] where responses begin in what is fed; start [N] in a row of its own."""
        own = start[self.rows]
        return own if self.shift is None else own + self.shift

    def said(self, response: Array) -> Array:
        """[S, R] of the batch's response [N, R], -1 where no row lies."""
        own = response[self.rows]
        return own if self.used is None else jnp.where(self.used[:, None], own, -1)

    @property
    def packed(self) -> dict[str, Array]:
        """What `Model`'s functions are told beside: nothing of rows that are alone."""
        return {} if self.segment is None else {"segment": self.segment}


class Bins(NamedTuple):
    """Which rows lie in which bin; those of a bin stand side by side."""

    rows: Array  # [W, K] int32, 0 where none lies
    used: Array  # [W, K] bool
    shift: Array  # [W, K] int32, where each begins, tokens
    filled: Array  # [W] int32, tokens


def rooms(longest: int) -> tuple[int, ...]:
    """Lengths of bins: half a row, as kernels take it, and the longest row."""
    step = 128 if longest % 128 == 0 else 8
    half = -(-longest // 2 // step) * step
    return (half, longest) if half < longest else (longest,)


def pack(
    length: Array, rows: Array, used: Array, lengths: tuple[int, ...], K: int, C: int
) -> tuple[Bins, Array]:
    """Lays rows out in bins, and the bins of the last chunk as short as they may.

    Args:
      length: [N] int32, tokens of each row of the batch.
      rows: [M] int32, which of them are fed.
      used: [M] bool, false where none is meant.
      lengths: of bins, rising; the last holds any row.
      K: rows of a bin at most.
      C: bins of a chunk.

    Returns:
      The bins, a multiple of C; and [] int32, how many chunks of them hold something,
      which come first.
    """
    M = len(rows)
    W = -(-M // C) * C
    size = jnp.where(used, length[rows], 0)
    order = jnp.argsort(-size)  # stable: equal rows keep their order
    rows, size = rows[order], size[order]
    room = jnp.full((W,), lengths[-1], jnp.int32)
    fit = functools.partial(_first_fit, size, K=K)
    placed = fit(room)
    last = (jnp.max(jnp.where(size > 0, placed[0], -1)) + 1) // C * C
    at = jnp.arange(W)
    for short in reversed(lengths[:-1]):
        tried = fit(jnp.where(at < last, room, jnp.where(at < last + C, short, 0)))
        fits = jnp.all(jnp.where(size > 0, tried[0] < W, True))
        placed = jax.tree.map(lambda a, b, f=fits: jnp.where(f, a, b), tried, placed)
    bin, slot, shift, filled = placed
    bin = jnp.where(size > 0, bin, W)  # out of bounds: dropped

    def laid(values: Array) -> Array:
        blank = jnp.zeros((W, K), values.dtype)
        return blank.at[bin, slot].set(values, mode="drop")

    bins = Bins(laid(rows), laid(size > 0), laid(shift), filled)
    return bins, -(-jnp.sum(filled > 0) // C)


def _first_fit(size: Array, room: Array, *, K: int) -> tuple[Array, ...]:
    """Puts each row into the first bin that has room for it.

    Args:
      size: [M] int32, tokens; 0 takes no room.
      room: [W] int32, tokens of each bin.
      K: rows of a bin at most.

    Returns:
      bin [M], W where there is none; slot [M]; shift [M]; and filled [W].
    """

    def put(carry: tuple[Array, Array], own: Array) -> Any:
        filled, number = carry
        fits = (filled + own <= room) & (number < K)
        bin = jnp.where(jnp.any(fits), jnp.argmax(fits), len(room))
        found = bin, number[bin], filled[bin]
        one = (own > 0).astype(jnp.int32)
        carry = filled.at[bin].add(own), number.at[bin].add(one)
        return carry, found

    blank = jnp.zeros(room.shape, jnp.int32)
    (filled, _), (bin, slot, shift) = lax.scan(put, (blank, blank), size)
    return bin, slot, shift, filled


def bins_of_chunk(bins: Bins, i: Array, C: int) -> Bins:
    """Those of chunk i, C bins."""
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, i * C, C), bins)


def feed(tokens: Array, bins: Bins, length: int) -> Fed:
    """Some bins as they are fed.

    Args:
      tokens: [N, L] int32 of the batch.
      bins: of C bins.
      length: l, tokens of a bin; what is filled is no longer.
    """
    K = bins.rows.shape[1]
    at = jnp.arange(length)
    begun = bins.used[:, :, None] & (bins.shift[:, :, None] <= at[None, None])
    slot = jnp.maximum(jnp.sum(begun, axis=1) - 1, 0)  # [C, l]
    row, shift = (
        jnp.take_along_axis(array, slot, axis=1) for array in (bins.rows, bins.shift)
    )
    inside = at[None] < bins.filled[:, None]
    own = tokens[row, jnp.minimum(at[None] - shift, tokens.shape[1] - 1)]
    return Fed(
        jnp.where(inside, own, 0),
        bins.rows.reshape(-1),
        # What pads a bin is a sequence of its own.
        jnp.where(inside, slot, K).astype(jnp.int32),
        bins.shift.reshape(-1),
        bins.used.reshape(-1),
    )
