"""StraTA's judge: the model that played lists the steps that helped nothing.

It is shown the strategy and what was done under it, when all is over. What it writes is
not trained.

Source: arXiv 2605.06642.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hiper_jax.act.envs.wordings import Steps, Wording
from hiper_jax.act.episode import Episode
from hiper_jax.act.format import without_thoughts
from hiper_jax.act.rollout import Reader, Sampler
from hiper_jax.act.strategy import wording_of

JUDGES = 4094  # in the place of a turn, see `strategy.WRITES`


class Judged(NamedTuple):
    """Episodes with what was flagged."""

    episodes: list[Episode]
    metrics: dict[str, float]
    seconds: float


def read_flags(text: str, turns: int) -> tuple[int, ...] | None:
    """Reads a list of useless steps: "2, 5", "[2 5]" or "none".

    Args:
      text: what the judge wrote.
      turns: how many steps there are, numbered from 1.

    Returns:
      Turns from 0, rising, each once; None where the text is no such list or names a
      step that there is not. Takes time in proportion to the text.
    """
    text = without_thoughts(text).strip().removesuffix(".").lower()
    if text in ("none", "[]"):
        return ()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    words = text.replace(",", " ").split()
    found = set()
    for word in words:
        # Five digits are more than any episode has steps, and int() of many is slow.
        if not (word.isascii() and word.isdigit() and len(word) <= 5):
            return None
        if not 1 <= int(word) <= turns:
            return None
        found.add(int(word) - 1)
    return tuple(sorted(found)) if found else None


def judge(episodes: Sequence[Episode], sample: Sampler, reader: Reader) -> Judged:
    """Has the model that played list the steps that helped nothing.

    Args:
      episodes: played under strategies.
      sample: see `rollout`; its rows are named (episode, JUDGES).
      reader: how the prompts are written.

    Returns:
      The episodes with `flagged`, and metrics: the share of lists that could not be
      read, which flag nothing, and flags per episode.
    """
    began = time.perf_counter()
    prompts = [judge_prompt(episode, reader) for episode in episodes]
    names = np.arange(len(episodes), dtype=np.int32)
    sampled = sample(prompts, names, np.full(len(episodes), JUDGES, np.int32))
    judged = [
        dataclasses.replace(
            episode,
            flagged=read_flags(reader.codec.decode(tokens), len(episode.turns)),
        )
        for episode, tokens in zip(episodes, sampled.tokens, strict=True)
    ]
    flags = [episode.flagged for episode in judged]
    metrics = {
        "strategy/unread_lists": float(np.mean([f is None for f in flags])),
        "strategy/flags": float(np.mean([len(f or ()) for f in flags])),
    }
    return Judged(judged, metrics, time.perf_counter() - began)


def judge_prompt(episode: Episode, reader: Reader) -> np.ndarray:
    """[P] shows a strategy and what was done under it, within the room of a prompt."""
    return fit_judgement(
        wording_of(reader),
        reader.codec.encode_prompt,
        reader.max_prompt,
        episode.task,
        "" if episode.strategy is None else episode.strategy.text,
        [(turn.observation, turn.action) for turn in episode.turns],
    )


def fit_judgement(
    wording: Wording,
    encode: Callable[[str], list[int]],
    max_tokens: int,
    task: str,
    strategy: str,
    steps: Steps,
) -> np.ndarray:
    """[P] the question which steps were useless, in as many tokens at most.

    Observations are cut first, all to one length, which is halved until the prompt
    fits; then tokens are cut in front.
    """
    room = max((len(seen) for seen, _ in steps), default=0)
    while True:
        shown = [(seen[:room], did) for seen, did in steps]
        ids = encode(wording.judge(task, strategy, shown))
        if len(ids) <= max_tokens or not room:
            return np.asarray(ids[-max_tokens:], np.int32)
        room //= 2
