"""Episodes -> blocks that a page unpacks: texts once, token ids as letters, deflated.

A block is an iteration's episodes as JSON:

    tokens    [[id, text], ...]       the tokens that occur, the most frequent first;
                                      a third entry has the bytes of part of a character
    texts     [text, ...]             all other texts
    episodes  [[game, task, type, flags, score, credit, number of turns, strategy], ...]
    strategy  [text, candidate, turns judged useless or null], or null
    turns     [prompts, responses, log-probs, carriers, observations, listed actions,
               actions, subgoals, flags, rewards, texts], each a list over all turns

Prompt and response are words over the letters of `tokens`, the listed actions one over
the letters of `texts`; other texts are places in `texts`. A response's text is -1 where
it is that of its tokens. Rewards and credit are in thousandths, rounded; a log-prob x
is the letter of ⌊½ + 100 ln(−x / 10⁻⁷)⌋, half a percent at most away from x.

Every text goes through `visible` here, and the page shows texts as texts.
"""

import base64
import collections
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiper_jax.act.episode import Episode, Turn
from hiper_jax.experiments.report.credit_tokens import carriers
from hiper_jax.experiments.visible import visible

FIRST = 0x5D  # the first letter: after the quote and the backslash of JSON
LEAST = 1e-7  # nats, the smallest log-prob that is told from 0


class Vocabulary(NamedTuple):
    """What a run's token ids mean."""

    pieces: Any  # the tokenizer's piece table
    unread: tuple[int, ...]  # tokens that the text of a response leaves out


def letter(place: int) -> str:
    """The letter of a place; places beyond Unicode's end do not occur."""
    code = place + FIRST
    return chr(code if code < 0xD800 else code + 0x800)


def packed(value: Any) -> str:
    """Plain values as JSON, deflated, in Base64: letters that no page reads as tags."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def block(
    episodes: Sequence[Episode], config: Mapping[str, Any], known: Vocabulary | None
) -> dict[str, Any]:
    """One iteration's episodes as plain values; see the module's text.

    Args:
      episodes: of one iteration.
      config: the run's settings, as config.json holds them.
      known: the run's vocabulary; None where there is none: tokens are then numbers.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    counts: collections.Counter[int] = collections.Counter()
    for turn in turns:
        counts.update(turn.prompt.tolist())
        counts.update(turn.response.tolist())
    tokens = [token for token, _ in counts.most_common()]
    letters = {token: letter(n) for n, token in enumerate(tokens)}
    listed = collections.Counter(a for turn in turns for a in turn.admissible)
    texts = {text: n for n, (text, _) in enumerate(listed.most_common())}
    if known is not None and max(tokens, default=0) >= len(known.pieces.length):
        known = None  # another tokenizer's
    bits = iter(
        carriers(episodes, known.pieces, config)
        if known
        else (np.zeros(len(turn.response), np.uint8) for turn in turns)
    )

    def place(text: str) -> int:
        return texts.setdefault(text, len(texts))

    def of_turn(turn: Turn) -> list[Any]:
        return [
            "".join([letters[i] for i in turn.prompt.tolist()]),
            "".join([letters[i] for i in turn.response.tolist()]),
            "".join([_log_letter(x) for x in turn.log_prob.tolist()]),
            "".join(map(str, next(bits).tolist())),
            place(turn.observation),
            "".join([letter(place(action)) for action in turn.admissible]),
            place(turn.action),
            place(turn.subgoal),
            _flags(
                turn.switch,
                turn.said_switch,
                turn.format_valid,
                turn.action_valid,
                turn.prompt_truncated,
            ),
            _thousandths(turn.reward),
            -1 if known and _said(turn, known) == turn.text else place(turn.text),
        ]

    packed_episodes = [
        [
            *(place(text) for text in (e.game, e.task, e.task_type)),
            _flags(e.won, e.terminated, e.truncated),
            _thousandths(e.score),
            {
                visible(name, one_line=True): [_thousandths(x) for x in values]
                for name, values in (e.credit or {}).items()
            },
            len(e.turns),
            _strategy(e, place),
        ]
        for e in episodes
    ]
    columns = zip(*(of_turn(turn) for turn in turns), strict=True)
    return {
        "turns": [list(column) for column in columns],
        "tokens": [[token, *_shown(token, known)] for token in tokens],
        "texts": [visible(text) for text in texts],
        "episodes": packed_episodes,
    }


def summaries(step: int, episodes: Iterable[Episode]) -> list[list[Any]]:
    """What the list tells of each: step, place, won, type, turns, switches, flaws.

    Flaws are the refused actions, the badly formed responses and the cut prompts.
    """
    return [
        [
            step,
            n,
            int(e.won),
            visible(e.task_type, one_line=True),
            len(e.turns),
            sum(turn.switch for turn in e.turns[1:]),
            sum(not turn.action_valid for turn in e.turns),
            sum(not turn.format_valid for turn in e.turns),
            sum(turn.prompt_truncated for turn in e.turns),
            _thousandths(e.reward),
        ]
        for n, e in enumerate(episodes)
    ]


def _strategy(episode: Episode, place: Callable[[str], int]) -> list[Any] | None:
    """What the episode followed, and what became of the judgement."""
    if episode.strategy is None:
        return None
    judged = None if episode.flagged is None else list(episode.flagged)
    return [place(episode.strategy.text), episode.strategy.candidate, judged]


def _flags(*bits: bool) -> int:
    return sum(1 << n for n, bit in enumerate(bits) if bit)


def _thousandths(number: float) -> int | None:
    return round(1000 * number) if math.isfinite(number) else None


def _log_letter(log_prob: float) -> str:
    size = -log_prob
    if not size > LEAST:  # also what is no number
        return letter(0)
    return letter(round(100 * math.log(min(size, 1e30) / LEAST)))


def _said(turn: Turn, known: Vocabulary) -> str:
    """The text of a response's tokens."""
    pieces = [known.pieces.piece(i) for i in turn.response if i not in known.unread]
    return b"".join(pieces).decode(errors="replace")


def _shown(token: int, known: Vocabulary | None) -> tuple[str, ...]:
    """A token's text; and in hexadecimal what is part of a character only."""
    if known is None:
        return (f"[{token}]",)
    piece = known.pieces.piece(token)
    try:
        return (visible(piece.decode()),)
    except UnicodeDecodeError:
        return (visible(piece.decode(errors="backslashreplace")), piece.hex())
