"""The interface of every estimator: a batch and the values it asks for -> credit.

    update: values = model at estimator.read_at(batch)      no heads: no critic at all
            credit = estimator.assign(batch, values)

An estimator is a pair of pure functions and the names of the value heads it reads. It
knows no model and no text. The update trains the tokens under `Credit.mask` with
`Credit.advantage`, and each head towards `Credit.return_` where `Credit.reads` says.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from hiper_jax.act.stack import Batch


class Credit(NamedTuple):
    """What an estimator says of N rows (turns) of R response tokens, for H heads.

    Where an estimator reads its heads at every position, the three arrays of heads
    are [N, R, H].
    """

    advantage: Array  # [N, R] float32, of each response token; a constant of the loss
    mask: Array  # [N, R] bool, the tokens that carry one; the rest are not trained
    return_: Array  # [N, H] float32, what each head is regressed on
    reads: Array  # [N, H] bool, the rows that train each head
    turn: dict[str, Array]  # [B, T] each, by name: for people and for the disk
    metrics: dict[str, Array]  # [] each, by name


class Estimator(NamedTuple):
    """How credit is assigned; see the module's text."""

    # Value heads it reads, by name; () is critic-free: the compiled update then has no
    # critic pass, state, loss or optimizer.
    heads: tuple[str, ...]
    # (batch) -> [N, H] int32, the response position at which each head is read; or
    # None: at every position, and values, returns and reads are [N, R, H].
    read_at: Callable[[Batch], Array | None]
    # (batch, values [N, H]) -> Credit; values are [N, 0] without heads.
    assign: Callable[[Batch, Array], Credit]


def read_nothing(batch: Batch) -> Array:
    """`read_at` of an estimator without heads: [N, 0]."""
    return jnp.zeros((batch.tokens.shape[0], 0), jnp.int32)
