"""What is read of a batch beside its loss: a teacher's word, a critic's of turns."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.act.stack import Batch
from hiper_jax.networks.model import Model
from hiper_jax.update.chunks import Rows, lengths_up_to, map_rows
from hiper_jax.update.objective import expect, pick, read_scores, read_values


def values_of_rows(
    model: Model,
    critic: Any,
    batch: Batch,
    rows: Rows,
    read_at: Array | None,
    heads: int,
) -> Array:
    """What the critic thinks of every row, of which the sampler may have said most.

    Args:
      model: the networks.
      critic: its weights, assembled.
      batch: N rows of at most R response tokens.
      rows: the same, as they are fed.
      read_at: [N, H] int32 response positions; None: all.
      heads: H.

    Returns:
      [N, H], or [N, R, H] at all positions.
    """
    N, R = batch.response.shape
    blank = jnp.zeros((N, R, heads) if read_at is None else (N, heads))

    def read(fed, critic, start, read_at):
        return read_values(model, critic, fed, start, R, read_at, heads)

    given = critic, batch.start, read_at

    with jax.named_scope("values"):
        if batch.sampled_value is None:
            return map_rows(read, rows, blank, *given)
        expect("the sampler", (N, R, heads), batch.sampled_value)
        length = jnp.where(batch.is_valued, 0, rows.length)
        left = rows._replace(length=length, num_rows=jnp.sum(length > 0))
        found = map_rows(read, left, blank, *given)
        known = pick(batch.sampled_value, read_at)
        # Valued rows have filled up the last chunk, cut to the length of others.
        valued = batch.is_valued.reshape(N, *[1] * (known.ndim - 1))
        return jnp.where(valued, known, found)


def values_of_turns(
    batch: Batch, heads: Sequence[str], values: Array
) -> dict[str, Array]:
    """What the critic thought of each turn: enough to assign credit again.

    Args:
      batch: B trajectories of T turns, N rows.
      heads: names of the H value heads.
      values: [N, H], or [N, R, H], of which the first response token's are taken.

    Returns:
      Of each head `value_HEAD` [B, T], 0 on padding, and `value_next_HEAD` [B, T], the
      value of the state after the last action, at the last turn of what was cut.
    """
    first = values if values.ndim == 2 else values[:, 0]
    last = batch.valid & ~jnp.roll(batch.valid, -1, axis=1).at[:, -1].set(False)
    cut = last & (batch.next_row >= 0)[:, None]
    told = {}
    for h, name in enumerate(heads):
        after = first[jnp.maximum(batch.next_row, 0), h]
        told[f"value_{name}"] = jnp.where(batch.valid, first[batch.row, h], 0.0)
        told[f"value_next_{name}"] = jnp.where(cut, after[:, None], 0.0)
    return told


def taught(
    model: Model, actor: Any, temperature: float, batch: Batch, rows: Rows
) -> dict[str, Array]:
    """What a teacher thinks of the responses, and how sure the student was.

    Both are the actor as it is before the first step, assembled.

    Returns:
      teacher_log_prob [N, R] with the teacher's prompts; entropy [N, R] with the
      student's own.

    Raises:
      ValueError: the batch has no rows of a teacher.
    """
    if batch.teacher_tokens is None:
        raise ValueError(
            "the estimator reads a teacher: give the batch its prompts, with "
            "hiper_jax.act.teach.with_teacher"
        )
    longest = batch.teacher_tokens.shape[1]
    teacher_rows = Rows(
        batch.teacher_tokens,
        batch.teacher_length,
        batch.num_turns,
        lengths_up_to(rows.lengths, longest, rows.pack),
        rows.chunk,
        rows.own,
        rows.pack,
    )

    def read(which: int):
        def scored(fed, actor, start, response):
            return read_scores(model, actor, fed, start, response, temperature)[which]

        return scored

    blank, said = jnp.zeros(batch.response.shape), batch.response
    starts = batch.teacher_start, batch.start
    with jax.named_scope("teacher"):
        teacher = map_rows(read(0), teacher_rows, blank, actor, starts[0], said)
        entropy = map_rows(read(1), rows, blank, actor, starts[1], said)
    return {"teacher_log_prob": teacher, "entropy": entropy}
