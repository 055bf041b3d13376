"""Rows in chunks of like length: one program for every batch, little padding fed.

A chunk is C rows, cut to the smallest of a few lengths that holds them all; or C bins
of several rows each, see `bins`. How many chunks there are is data, not shape.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from hiper_jax.act.stack import Batch
from hiper_jax.networks.model import OwnRows
from hiper_jax.update.bins import Bins, Fed, bins_of_chunk, feed, pack, rooms


class Rows(NamedTuple):
    """The rows of a batch and how they are fed."""

    tokens: Array  # [N, L] int32
    length: Array  # [N] int32, 0 on padding
    num_rows: Array  # [] int32, rows that hold something
    lengths: tuple[int, ...]  # what a chunk may be cut to, rising; the last is L
    chunk: int  # C
    own: OwnRows | None = None  # where each device feeds its own share of a chunk
    pack: int = 1  # rows of a bin at most; 1: each row is fed alone


def lengths_up_to(buckets: Sequence[int], longest: int, pack: int) -> tuple[int, ...]:
    """The lengths of `Rows`: the buckets that are not above `longest`, and it.

    Where rows are packed, those of bins.
    """
    if pack > 1:
        return rooms(longest)
    return tuple(sorted({min(b, longest) for b in buckets} | {longest}))


def rows_of(
    batch: Batch,
    buckets: Sequence[int],
    chunk: int,
    pack: int = 1,
    own: OwnRows | None = None,
) -> tuple[Batch, Rows]:
    """A batch as the passes take it, and its rows as they are fed.

    Args:
      batch: of numpy or jax arrays; N rows, L tokens at most.
      buckets: lengths that a chunk may be cut to; those above L are ignored.
      chunk: rows of a chunk; N at most are taken.
      pack: rows of a bin at most; bins have lengths of their own.
      own: how each device feeds its own share of a chunk, if they do.

    Returns:
      The batch as jax arrays, -1 where its response has no token; and the rows.
    """
    batch = jax.tree.map(jnp.asarray, batch)
    batch = batch.replace(response=jnp.where(batch.response_mask, batch.response, -1))
    N, L = batch.tokens.shape
    lengths, chunk = lengths_up_to(buckets, L, pack), min(chunk, N)
    rows = Rows(batch.tokens, batch.length, batch.num_rows, lengths, chunk, own, pack)
    return batch, rows


def at_length(fn: Callable[..., Any], rows: Rows, chosen: Array, *args: Any) -> Any:
    """fn(fed, *args) at the smallest length l that holds the rows that are chosen.

    Where devices feed their own rows, fn is given a device's share of all these.

    Args:
      fn: one body is compiled of it for each length.
      rows: all rows.
      chosen: [C] int32, which of them.
      *args: arrays [C, ...], passed on.
    """

    def at(length):
        return lambda r, *rest: fn(Fed(rows.tokens[r, :length], r), *rest)

    # Of all devices' rows: none waits for another that feeds longer ones.
    longest = jnp.max(rows.length[chosen])
    return _switched(at, rows, longest, chosen, *args)


def at_room(fn: Callable[..., Any], rows: Rows, bins: Bins) -> Any:
    """fn(fed) at the smallest length that holds some bins; see `at_length`."""

    def at(length):
        return lambda *own: fn(feed(rows.tokens, Bins(*own), length))

    return _switched(at, rows, jnp.max(bins.filled), *bins)


def _switched(at: Callable, rows: Rows, longest: Array, *given: Any) -> Any:
    """at(length)(*given) at the smallest length that is no less than `longest`."""
    branch = jnp.searchsorted(jnp.array(rows.lengths), longest)
    if rows.own is not None:
        given = tuple(rows.own.share(array) for array in given)
    return lax.switch(branch, [at(length) for length in rows.lengths], *given)


def map_rows(fn: Callable[..., Any], rows: Rows, like: Any, *given: Any) -> Any:
    """fn over all rows that hold something, in chunks of like length, or in bins.

    Args:
      fn: (fed, *given) -> a pytree of [S, ...], of the S rows that are fed.
      rows: all rows.
      like: a pytree of [N, ...], the result where a row holds nothing.
      *given: passed on; where devices feed their own rows, fn closes over no array.

    Returns:
      A pytree like `like`.
    """
    mapped = _mapped if rows.pack == 1 else _mapped_bins
    if rows.own is None:
        return mapped(fn, rows, like, *given)
    return rows.own.run(mapped, fn, rows, like, *given)


def _mapped(fn: Callable[..., Any], rows: Rows, like: Any, *given: Any) -> Any:
    N, L = rows.tokens.shape
    C = rows.chunk
    order = jnp.argsort(jnp.where(rows.length > 0, rows.length, L + 1))
    order = jnp.pad(order, (0, -N % C), mode="edge")

    def body(i, out):
        chosen = lax.dynamic_slice(order, (i * C,), (C,))
        values = at_length(lambda fed: fn(fed, *given), rows, chosen)
        return _put(rows, out, chosen, values)

    return lax.fori_loop(0, -(-rows.num_rows // C), body, like)


def _mapped_bins(fn: Callable[..., Any], rows: Rows, like: Any, *given: Any) -> Any:
    N, C = len(rows.tokens), rows.chunk
    asked = rows.length, jnp.arange(N), rows.length > 0
    bins, count = pack(*asked, rows.lengths, rows.pack, C)

    def body(i, out):
        part = bins_of_chunk(bins, i, C)
        values = at_room(lambda fed: fn(fed, *given), rows, part)
        # Where no row lies, nothing is put.
        chosen = jnp.where(part.used, part.rows, N).reshape(-1)
        return _put(rows, out, chosen, values)

    return lax.fori_loop(0, count, body, like)


def _put(rows: Rows, out: Any, chosen: Array, values: Any) -> Any:
    """`out` with the values of the rows that are chosen."""
    if rows.own is not None:
        values = jax.tree.map(rows.own.join, values)
    return jax.tree.map(lambda o, v: o.at[chosen].set(v, mode="drop"), out, values)
