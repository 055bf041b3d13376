"""Turns as they are on disk -> which advantage each token of a response carries.

    credit of token l = Σ of the turn's advantages whose bit is set in carriers[l]

What `credit.common.tokens.on_blocks` does in an update, said again of stored turns.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hiper_jax.act.episode import Episode
from hiper_jax.act.spans import TokenMasks, token_masks
from hiper_jax.act.stack import loose_tokens

LOW, HIGH, SWITCH = 1, 2, 4  # bits: whose advantage a token carries


def carriers(
    episodes: Sequence[Episode], pieces: Any, config: Mapping[str, Any]
) -> list[np.ndarray]:
    """The bits of each response's tokens.

    Where an estimator has one advantage a turn (`advantage` in an episode's credit),
    all tokens carry it: LOW.

    Args:
      episodes: of one run.
      pieces: the run's piece table.
      config: the run's settings, as config.json holds them.

    Returns:
      [R] uint8 for each turn, turn by turn.

    Raises:
      ValueError: a token is outside of the vocabulary.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    if not turns:
        return []
    reading, learn = config.get("reading", {}), config.get("learn", {})
    mode, flat = reading.get("mode", "corrected"), reading.get("format") == "flat"
    lengths = np.array([len(turn.response) for turn in turns])
    mask = np.arange(max(lengths.max(), 1)) < lengths[:, None]
    response = np.zeros(mask.shape, np.int32)
    response[mask] = np.concatenate([turn.response for turn in turns])
    on_plans = [
        "advantage_low" in (e.credit or {}) or not (e.credit or flat) for e in episodes
    ]
    planned = np.repeat(on_plans, [len(e.turns) for e in episodes])
    index = np.concatenate([np.arange(len(e.turns)) for e in episodes])
    kind = "flat" if flat else "plan"
    masks = token_masks(response, mask, index, pieces, mode=mode, format=kind)
    starts = np.array([turn.switch for turn in turns]) | (index == 0)
    bits = _on_blocks(masks, mask, starts, learn, mode)
    bits = np.where(planned[:, None], bits, LOW * mask).astype(np.uint8)
    return [row[:length] for row, length in zip(bits, lengths, strict=True)]


def _on_blocks(
    masks: TokenMasks, mask: np.ndarray, starts: np.ndarray, learn, mode: str
) -> np.ndarray:
    """[N, R] bits, where subgoals and switches have an advantage of their own."""
    action, subgoal, switch = masks.action, masks.subgoal, masks.switch
    if mode != "paper":
        action = action | loose_tokens(masks, mask)
    if learn.get("switch_on_loose"):
        place = np.arange(mask.shape[1])
        early = action & (place < np.argmax(masks.value_low, axis=1)[:, None])
        action, switch = action & ~early, switch | early
    first = starts[:, None]
    high, decision = first & subgoal, switch
    if learn.get("high_on_switch"):
        high = high | (first & switch)
    if learn.get("switch_on_kept"):
        decision = decision | (~first & subgoal)
    return (LOW * action + HIGH * high + SWITCH * decision) * mask
