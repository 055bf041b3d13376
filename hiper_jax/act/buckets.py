"""Ragged rows in arrays of few shapes: each shape is another program to compile."""

from collections.abc import Sequence

import numpy as np


def bucket(size: int, buckets: Sequence[int]) -> int:
    """Returns the smallest of the ascending `buckets` that holds `size`.

    Raises:
      ValueError: if none does.
    """
    for limit in buckets:
        if size <= limit:
            return limit
    raise ValueError(
        f"{size} is more than the largest bucket, {buckets[-1]}; add a larger bucket "
        "or shorten the prompts."
    )


def pad_prompts(
    prompts: Sequence[np.ndarray],
    *,
    rows: Sequence[int],
    tokens: Sequence[int],
    pad_id: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Lays ragged prompts into an array whose shape is one of few.

    Args:
      prompts: arrays [P_i] int32 of token ids, one per live row.
      rows: ascending row counts that may be compiled for.
      tokens: ascending prompt lengths that may be compiled for.
      pad_id: what fills the right of a prompt, and unused rows.

    Returns:
      [S, P] int32 and [S] int32 lengths, 0 on unused rows.
    """
    num_rows = bucket(len(prompts), rows)
    width = bucket(max(map(len, prompts), default=0), tokens)
    padded = np.full((num_rows, width), pad_id, np.int32)
    lengths = np.zeros((num_rows,), np.int32)
    for i, prompt in enumerate(prompts):
        padded[i, : len(prompt)] = prompt
        lengths[i] = len(prompt)
    return padded, lengths
