"""A minibatch's gradients, its chunks added up.

Where each device feeds its own rows, it is one network after the other: its weights are
fetched, each device adds up the gradients of its own rows of all chunks, and then all
devices' sums meet, once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from hiper_jax.update.bins import Fed, bins_of_chunk, pack
from hiper_jax.update.chunks import Rows, at_length, at_room
from hiper_jax.update.minibatch import Totals
from hiper_jax.update.objective import (
    Chunk,
    Loss,
    critic_gradient,
    gradient,
    loss_names,
    value_names,
)


class Minibatch(NamedTuple):
    """Rows of one optimizer step, like lengths side by side."""

    rows: Rows  # of the batch
    slots: Array  # [M] int32, which of them; those not used stand first
    used: Array  # [M] bool
    totals: Totals


def add_up(
    part: Callable[..., tuple[Any, Any, dict[str, Array], Array]],
    names: tuple[str, ...],
    trained: tuple[Any, Any],
    loss: Loss,
    given: Minibatch,
    actor: Any,
    critic: Any,
) -> tuple[tuple[Any, Any], dict[str, Array], Array]:
    """Adds up a part of the gradient over a minibatch's chunks.

    Args:
      part: `gradient`, or one that gives less of it.
      names: of the metrics that it gives.
      trained: shapes of the gradients of actor and critic; None where it gives none.
      loss, given: what it is the gradient of.
      actor, critic: weights.

    Returns:
      Gradients like `trained`, the metrics by name, and [] the largest difference from
      the sampler's log-probs.
    """
    chunks, chunk = _in_bins(given) if given.rows.pack > 1 else _by_length(given)

    def of(fed: Fed, used: Array) -> Any:
        return part(actor, critic, loss, Chunk(fed, used, given.totals))

    def add(j, sums):
        *more, shares, gap = chunk(of, j)
        grads, losses, worst = sums
        return (
            jax.tree.map(jnp.add, grads, tuple(more)),
            jax.tree.map(jnp.add, losses, shares),
            jnp.maximum(worst, gap),
        )

    blank = (
        jax.tree.map(jnp.zeros_like, trained),
        dict.fromkeys(names, jnp.zeros(())),
        jnp.zeros(()),
    )
    return lax.fori_loop(0, chunks, add, blank)


def _by_length(given: Minibatch) -> tuple[Array, Callable[..., Any]]:
    """How many chunks there are; and fn(fed, used) of chunk j, given (fn, j)."""
    M, C = len(given.slots), given.rows.chunk
    chunks = -(-given.totals.turns // C)

    def chunk(fn: Callable[..., Any], j: Array) -> Any:
        place = M - (chunks - j) * C
        chosen = lax.dynamic_slice(given.slots, (place,), (C,))
        here = lax.dynamic_slice(given.used, (place,), (C,))
        # An unused slot may name a long row: it must not set the length.
        chosen = jnp.where(here, chosen, chosen[-1])
        return at_length(fn, given.rows, chosen, here)

    return chunks, chunk


def _in_bins(given: Minibatch) -> tuple[Array, Callable[..., Any]]:
    """As `_by_length`, of rows that lie in bins."""
    rows = given.rows
    wanted = rows.length, given.slots, given.used
    bins, count = pack(*wanted, rows.lengths, rows.pack, rows.chunk)

    def chunk(fn: Callable[..., Any], j: Array) -> Any:
        part = bins_of_chunk(bins, j, rows.chunk)
        return at_room(lambda fed: fn(fed, fed.used), rows, part)

    return count, chunk


def apart_gradient(loss: Loss, given: Minibatch, actor: Any, critic: Any):
    """What `add_up` gives of the whole gradient, each device feeding its own rows.

    Args:
      loss: its reference is whole on each device.
      given: the minibatch.
      actor, critic: as they are trained.
    """
    if not loss.heads or loss.model.score_and_values is not None:
        both = True, bool(loss.heads)
        return _apart(gradient, loss_names(loss), both, loss, given, actor, critic)
    first = loss._replace(heads=())
    (to_actor, _), losses, worst = _apart(
        gradient, loss_names(first), (True, False), first, given, actor, critic
    )
    # The critic's weights are not fetched before the actor's sums have met.
    to_actor, critic = lax.optimization_barrier((to_actor, critic))
    (_, to_critic), errors, _ = _apart(
        critic_gradient, value_names(loss), (False, True), loss, given, actor, critic
    )
    return (to_actor, to_critic), losses | errors, worst


def _apart(part, names, which, loss, given, actor, critic):
    own = loss.model.own_rows
    assert own is not None  # who calls has looked
    specs = tuple(s if w else None for s, w in zip(own.leaves, which, strict=True))
    # Added up in float32, whatever the fetched weights are.
    trained = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, "float32"), specs)

    def run(loss, given, actor, critic):
        return add_up(part, names, trained, loss, given, actor, critic)

    _, actor, critic = own.fetch(None, actor, critic)
    return own.summed(run, specs, loss, given, actor, critic)
