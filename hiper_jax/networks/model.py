"""The networks as functions: what `make_update` is handed instead of a model.

Letters: C rows of a chunk, L tokens, R response tokens, H value heads.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array


def apart(reference: Any, actor: Any, critic: Any) -> tuple[Any, Any]:
    """`Model.assemble` of two networks of their own: both are whole as they are."""
    del reference
    return actor, critic


class OwnRows(NamedTuple):
    """Devices that each feed their own rows to whole weights, fetched beforehand."""

    # (reference, actor, critic) -> the same, whole where rows are cut, what is only
    # multiplied in the type that is computed in; None stays None
    fetch: Callable[[Any, Any, Any], tuple[Any, Any, Any]]
    # (fn, *args) -> fn(*args), run by each device; all have the same result
    run: Callable[..., Any]
    # (fn, leaves, *args) -> sums over devices of fn's gradients and metrics, and the
    # largest of its last; the gradients are cut as the weights that `leaves` are of
    summed: Callable[..., tuple[Any, dict[str, Array], Array]]
    share: Callable[[Array], Array]  # inside: [C, ...] -> this device's rows of it
    join: Callable[[Array], Array]  # inside: those of all devices
    leaves: tuple[Any, Any]  # abstract trees of what is trained of actor and critic


class Model(NamedTuple):
    """Pure functions over weights; weights are whatever pytrees they read.

    Where rows are packed (`learn.pack`), tokens are [W, L], bins of C / W rows each,
    and `segment=` [W, L] int32 says which tokens are one row, see `qwen.forward`;
    `start` counts from where a bin begins. C is what it is everywhere else.
    """

    # (actor, tokens [C, L], start [C], targets [C, R], below 0 on padding, temperature)
    #   -> log-probs [C, R], entropies [C, R]
    score: Callable[..., tuple[Array, Array]]
    # (critic, tokens [C, L], start [C], R) -> values [C, R, H], heads in the
    # estimator's order, each read before its token; None without a critic.
    values: Callable[..., Array] | None = None
    # (actor, critic, tokens, start, targets, temperature) -> log-probs, entropies,
    # values, where one pass gives all three (a shared trunk); None: two networks.
    score_and_values: Callable[..., tuple[Array, Array, Array]] | None = None
    # (reference, actor, critic) -> actor and critic as the functions above read them:
    # what is trained may stand on the frozen reference or on one another.
    assemble: Callable[[Any, Any, Any], tuple[Any, Any]] = apart
    # Where weights are fetched once a step, not for every chunk; None: they are not.
    own_rows: OwnRows | None = None
    # (critic, tokens, start, response positions [C, H]) -> values [C, H], of each head
    # at its own position, where that is less work; None: `values`, then a choice.
    values_at: Callable[..., Array] | None = None
