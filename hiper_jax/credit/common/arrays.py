"""Arrays of one trajectory: their check, their ends, their segments."""

from typing import Any

import chex
import jax.numpy as jnp
from jax import Array


def one_trajectory(function: str, **arrays: Array | None) -> tuple[Any, ...]:
    """Returns the arrays as jax arrays once all are [T]; None passes through.

    Args:
      function: the caller's name, for the message.
      **arrays: [T] each, or None for an argument that was left out.

    Raises:
      ValueError: an array has another rank, the lengths differ, or T is 0.
    """
    given = {k: jnp.asarray(v) for k, v in arrays.items() if v is not None}
    for name, array in given.items():
        if array.ndim != 1:
            raise ValueError(
                f"{function} takes one trajectory, so `{name}` must be [T], but its "
                f"shape is {array.shape}: jax.vmap {function} over the batch."
            )
    lengths = {name: array.shape[0] for name, array in given.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"{function} needs arrays of one length T, but got {lengths}: "
            "pad them alike."
        )
    if 0 in lengths.values():
        raise ValueError(f"{function} needs a turn, but T is 0.")
    return tuple(given.get(name) for name in arrays)


def end_value(bootstrap: str, value_next: Array | None, same_state: Array, dtype):
    """The value that follows a record which stops without terminating.

    Args:
      bootstrap: "none" (zero), "same_state" (as published) or "next_state".
      value_next: [] value of the state after the record's last turn, or [T] values of
        the state after each turn; only with "next_state".
      same_state: [] or [T] value the published code reads.
      dtype: of the result.

    Returns:
      [] or [T]; it counts at the last turn only.

    Raises:
      ValueError: an unknown `bootstrap`, or "next_state" without `value_next`.
    """
    if bootstrap == "none":
        return jnp.zeros((), dtype)
    if bootstrap == "same_state":
        return same_state
    if bootstrap == "next_state":
        if value_next is None:
            raise ValueError(
                'bootstrap="next_state" needs value_next, the value of the state '
                "after the last turn."
            )
        value_next = jnp.asarray(value_next, dtype)
        if value_next.shape not in ((), same_state.shape, (1,)):
            raise ValueError(
                "value_next must be [] (one value, after the last turn) or [T], but "
                f"its shape is {value_next.shape}."
            )
        return value_next.reshape(()) if value_next.shape == (1,) else value_next
    raise ValueError(
        'bootstrap must be "none", "same_state" or "next_state", '
        f"but it is {bootstrap!r}."
    )


def run_ends(valid: Array) -> tuple[Array, Array]:
    """[T] masks of the first and of the last turn of the run of real turns."""
    edge = jnp.zeros((1,), bool)
    before = jnp.concatenate([edge, valid[:-1]])
    after = jnp.concatenate([valid[1:], edge])
    return valid & ~before, valid & ~after


def boundaries(switch: Array, valid: Array) -> Array:
    """[T] segment starts: the first real turn, whatever it says, and every switch."""
    switch, valid = one_trajectory("boundaries", switch=switch, valid=valid)
    valid = valid.astype(bool)
    first, _ = run_ends(valid)
    return first | (valid & switch.astype(bool))


def segment_starts(segment: Array) -> Array:
    """Where segments begin, of a batch that numbers them.

    Args:
      segment: [..., T] int32, index of each turn's segment; -1 on padding.

    Returns:
      [..., T] bool, false on padding.
    """
    chex.assert_type(segment, int)
    before = jnp.roll(segment, 1, axis=-1).at[..., 0].set(-1)
    return (segment >= 0) & (segment != before)
