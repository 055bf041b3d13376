"""Think blocks: what a response says to itself and is not played."""

import numpy as np


def closed_thoughts(
    start: np.ndarray,
    end: np.ndarray,
    closes: np.ndarray,
    row: np.ndarray,
    origin: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the closed think blocks of some responses, by their tags alone.

    A block runs from an opening tag to the next closing one, tags included, and on to
    further closing ones as far as tags were opened within. A response whose first tag
    closes a block began in it: its prompt holds the opening.

        <think> a <think> b </think> c </think> d </think>
        ^                                     ^             two were opened, two close

    Args:
      start: [K] where each tag begins, in order.
      end: [K] where it ends.
      closes: [K] bool, whether it is a closing one.
      row: [K] which response it stands in.
      origin: [N] where each response begins.

    Returns:
      [B] where each block begins, and [B] where it ends.
    """
    if not closes.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # The tags of a response are runs of opening ones, each followed by closing ones.
    new = np.append(True, (row[1:] != row[:-1]) | (closes[:-1] & ~closes[1:]))
    first, run = np.flatnonzero(new), np.cumsum(new) - 1
    closing = np.bincount(run, closes)
    opening = np.bincount(run, ~closes)
    inside = closes[first]  # from the response's beginning on
    begin = np.where(inside, origin[row[first]], start[first])
    number = np.minimum(np.maximum(opening, inside), closing).astype(np.int64)
    last = first + opening.astype(np.int64) + number - 1
    closed = number > 0
    return begin[closed], end[last[closed]]
