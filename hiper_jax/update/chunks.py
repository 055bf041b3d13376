"""Rows in chunks of like length: one program for every batch, little padding fed.

A chunk is C rows, cut to the smallest of a few lengths that holds them all. How many
chunks there are is data, not shape.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from hiper_jax.act.stack import Batch
from hiper_jax.networks.model import OwnRows


class Rows(NamedTuple):
    """The rows of a batch and how they are fed."""

    tokens: Array  # [N, L] int32
    length: Array  # [N] int32, 0 on padding
    num_rows: Array  # [] int32, rows that hold something
    lengths: tuple[int, ...]  # what a chunk may be cut to, rising; the last is L
    chunk: int  # C
    own: OwnRows | None = None  # where each device feeds its own share of a chunk


def lengths_up_to(buckets: Sequence[int], longest: int) -> tuple[int, ...]:
    """The lengths of `Rows`: the buckets that are not above `longest`, and it."""
    return tuple(sorted({min(b, longest) for b in buckets} | {longest}))


def rows_of(
    batch: Batch, buckets: Sequence[int], chunk: int, own: OwnRows | None = None
) -> tuple[Batch, Rows]:
    """A batch as the passes take it, and its rows as they are fed.

    Args:
      batch: of numpy or jax arrays; N rows, L tokens at most.
      buckets: lengths that a chunk may be cut to; those above L are ignored.
      chunk: rows of a chunk; N at most are taken.
      own: how each device feeds its own share of a chunk, if they do.

    Returns:
      The batch as jax arrays, -1 where its response has no token; and the rows.
    """
    batch = jax.tree.map(jnp.asarray, batch)
    batch = batch.replace(response=jnp.where(batch.response_mask, batch.response, -1))
    N, L = batch.tokens.shape
    lengths, chunk = lengths_up_to(buckets, L), min(chunk, N)
    rows = Rows(batch.tokens, batch.length, batch.num_rows, lengths, chunk, own)
    return batch, rows


def at_length(fn: Callable[..., Any], rows: Rows, chosen: Array, *args: Any) -> Any:
    """fn(tokens [C, l], chosen, *args) at the smallest length l that holds them.

    Where devices feed their own rows, fn is given a device's share of all these.

    Args:
      fn: one body is compiled of it for each length.
      rows: all rows.
      chosen: [C] int32, which of them.
      *args: arrays [C, ...], passed on.
    """

    def at(length):
        return lambda r, *rest: fn(rows.tokens[r, :length], r, *rest)

    # Of all devices' rows: none waits for another that feeds longer ones.
    branch = jnp.searchsorted(jnp.array(rows.lengths), jnp.max(rows.length[chosen]))
    given = chosen, *args
    if rows.own is not None:
        given = tuple(rows.own.share(array) for array in given)
    return lax.switch(branch, [at(length) for length in rows.lengths], *given)


def map_rows(fn: Callable[..., Any], rows: Rows, like: Any, *given: Any) -> Any:
    """fn over all rows that hold something, in chunks of like length.

    Args:
      fn: (tokens [C, l], rows [C], *given) -> a pytree of [C, ...].
      rows: all rows.
      like: a pytree of [N, ...], the result where a row holds nothing.
      *given: passed on; where devices feed their own rows, fn closes over no array.

    Returns:
      A pytree like `like`.
    """
    if rows.own is None:
        return _mapped(fn, rows, like, *given)
    return rows.own.run(_mapped, fn, rows, like, *given)


def _mapped(fn: Callable[..., Any], rows: Rows, like: Any, *given: Any) -> Any:
    N, L = rows.tokens.shape
    C = rows.chunk
    order = jnp.argsort(jnp.where(rows.length > 0, rows.length, L + 1))
    order = jnp.pad(order, (0, -N % C), mode="edge")

    def at(tokens: Array, chosen: Array) -> Any:
        return fn(tokens, chosen, *given)

    def body(i, out):
        chosen = lax.dynamic_slice(order, (i * C,), (C,))
        values = at_length(at, rows, chosen)
        if rows.own is not None:
            values = jax.tree.map(rows.own.join, values)
        return jax.tree.map(lambda o, v: o.at[chosen].set(v), out, values)

    return lax.fori_loop(0, -(-rows.num_rows // C), body, like)
