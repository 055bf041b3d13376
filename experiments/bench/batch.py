"""Batches that look like the published runs': their lengths, random tokens."""

import numpy as np

from hiper_jax.act.stack import Batch
from hiper_jax.experiments.bench import models
from hiper_jax.networks.shapes import shapes_of


def published(scale: int) -> tuple[int, int, tuple[int, ...]]:
    """Room for prompts and responses and our length buckets, divided by `scale`.

    Small models run so short that compiling would be most of the time: they get every
    second bucket.
    """
    buckets = shapes_of(
        max_prompt=models.MAX_PROMPT,
        max_response=models.MAX_RESPONSE,
        episodes=128,
        max_turns=50,
    ).lengths
    return (
        models.MAX_PROMPT // scale,
        models.MAX_RESPONSE // scale,
        tuple(-(-b // scale) for b in buckets[:: 1 if scale == 1 else 2]),
    )


def random_batch(
    rng: np.random.Generator, vocab: int, B: int, T: int, scale: int
) -> Batch:
    """B full trajectories of T turns: random tokens, published lengths."""
    P, R, _ = published(scale)
    start, said = models.log_lengths(rng, B * T, scale)
    start, said = np.minimum(start, P), np.minimum(np.maximum(said, 3), R)
    return filled(rng, vocab, (B, T), R, start, said, P + R)


def filled(
    rng: np.random.Generator,
    vocab: int,
    shape: tuple[int, int],
    R: int,
    start: np.ndarray,
    said: np.ndarray,
    L: int,
) -> Batch:
    """Full trajectories of random tokens.

    Args:
      rng: of the tokens.
      vocab: tokens are below it.
      shape: B trajectories of T turns; N = B T rows.
      R: response tokens at most.
      start: [N] tokens of the prompts.
      said: [N] tokens of the responses, 3 to R.
      L: tokens of a row at most.
    """
    (B, T), N = shape, len(start)
    place = np.arange(L)
    tokens = rng.integers(1, vocab, (N, L)).astype(np.int32)
    tokens[place >= (start + said)[:, None]] = 0
    here = np.arange(R)
    mask = here < said[:, None]
    response = np.take_along_axis(
        tokens, np.minimum(start[:, None] + here, L - 1), axis=1
    )
    # A switch token, then a third of the rest for the plan, then the action.
    planned = 1 + (said - 1) // 3
    parts = {
        "switch": here < 1,
        "subgoal": (here >= 1) & (here < planned[:, None]),
        "action": (here >= planned[:, None]) & mask,
    }
    parts = {k: np.broadcast_to(v, (N, R)) & mask for k, v in parts.items()}
    switch = rng.random((B, T)) < 0.3
    terminated = np.zeros((B, T), bool)
    terminated[:, -1] = True
    reward = np.zeros((B, T), np.float32)
    reward[:, -1] = rng.random(B) < 0.5
    everywhere = np.ones((B, T), bool)
    starts = switch | (np.arange(T) == 0)
    return Batch(
        tokens=tokens,
        start=start.astype(np.int32),
        length=(start + said).astype(np.int32),
        response=response * mask,
        response_mask=mask,
        old_log_prob=np.zeros((N, R), np.float32),
        action_mask=parts["action"],
        subgoal_mask=parts["subgoal"],
        switch_mask=parts["switch"],
        value_low_at=planned.astype(np.int32),
        is_turn=np.ones(N, bool),
        num_rows=np.int32(N),
        num_turns=np.int32(N),
        row=np.arange(N, dtype=np.int32).reshape(B, T),
        next_row=np.full(B, -1, np.int32),
        valid=everywhere,
        said_switch=switch,
        segment=np.cumsum(starts, axis=1).astype(np.int32) - 1,
        reward=reward,
        terminated=terminated,
        format_valid=everywhere,
        action_valid=everywhere,
        subgoal_id=np.cumsum(starts, axis=1).astype(np.int32),
        has_action=everywhere,
        has_subgoal=everywhere,
        has_switch=everywhere,
        group=np.arange(B, dtype=np.int32),
        anchor=np.arange(N, dtype=np.int32).reshape(B, T),
        action=np.arange(N, dtype=np.int32).reshape(B, T),
        won=reward[:, -1] > 0,
    )
