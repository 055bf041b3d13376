"""What an environment answers, looked at where it enters.

An answer that nothing could be learned from (a reward that is no finite number, an
observation that is no text) becomes a `Fault`, which costs its episode and no more.
"""

import dataclasses
import math
import numbers
from typing import Any, NamedTuple

import numpy as np

_TRUTH = (bool, np.bool_)


class Limits(NamedTuple):
    """What an environment may answer at most."""

    reward: float = 1e6  # the largest size of a reward
    text: int = 1_000_000  # bytes of an observation, a task or all actions together


LIMITS = Limits()


@dataclasses.dataclass(frozen=True)
class Fault:
    """Stands in place of an answer that cannot be used; its episode is over."""

    reason: str  # what is wrong, in a few words
    worker: int | None = None  # which process answered; None is this one

    def __str__(self) -> str:
        by = "" if self.worker is None else f" (worker {self.worker})"
        return self.reason + by


class _Unusable(Exception):
    """Its text says what is wrong."""


def reset_answer(answer: Any, limits: Limits) -> Any:
    """(observation, info) as a reset gave it, or a `Fault`."""
    try:
        observation, info = _parts(answer, ("observation", "info"))
        _text("the observation", observation, limits)
        _info(info, limits)
        if "task" not in info:
            raise _Unusable("info has no 'task'")
    except _Unusable as error:
        return Fault(str(error))
    return observation, info


def step_answer(answer: Any, limits: Limits) -> Any:
    """The five-tuple as a step gave it, its numbers plain, or a `Fault`."""
    try:
        observation, reward, terminated, truncated, info = _parts(
            answer, ("observation", "reward", "terminated", "truncated", "info")
        )
        _text("the observation", observation, limits)
        reward = _number("the reward", reward, limits.reward)
        for name, value in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(value, _TRUTH):
                raise _Unusable(f"{name} must be True or False, got {_short(value)}")
        _info(info, limits)
    except _Unusable as error:
        return Fault(str(error))
    return observation, reward, bool(terminated), bool(truncated), info


def _parts(answer: Any, names: tuple[str, ...]) -> Any:
    if not isinstance(answer, tuple | list) or len(answer) != len(names):
        size = f"{len(answer)} of them" if isinstance(answer, tuple | list) else ""
        raise _Unusable(
            f"an answer must be ({', '.join(names)}), got {size or _short(answer)}"
        )
    return answer


def _text(what: str, value: Any, limits: Limits) -> None:
    if not isinstance(value, str):
        raise _Unusable(f"{what} must be a text, got {_short(value)}")
    size = len(value)
    if size <= limits.text and not value.isascii():
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise _Unusable(f"{what} holds half a character (a surrogate)") from None
    if size > limits.text:
        raise _Unusable(f"{what} has {size} bytes, {limits.text} are allowed")
    if "\0" in value:
        raise _Unusable(f"{what} holds a NUL character")


def _number(what: str, value: Any, largest: float) -> float:
    plain = isinstance(value, numbers.Real) or getattr(value, "shape", None) == ()
    try:
        number = float(value) if plain else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= largest:
        raise _Unusable(
            f"{what} must be a number between {-largest:g} and {largest:g}, got "
            f"{_short(value)}"
        )
    return number


def _info(info: Any, limits: Limits) -> None:
    """Raises where the entries that a rollout reads are of another kind."""
    if not isinstance(info, dict):
        raise _Unusable(f"info must be a dict, got {_short(info)}")
    for name in ("task", "task_type", "game"):
        if name in info:
            _text(f"info[{name!r}]", info[name], limits)
    actions = info.get("admissible_actions")
    try:
        listed = "\n".join(actions) if isinstance(actions, list | tuple) else None
    except TypeError:
        listed = None
    if listed is None:
        raise _Unusable(
            f"info['admissible_actions'] must be a list of texts, got {_short(actions)}"
        )
    _text("info['admissible_actions']", listed, limits)
    if not isinstance(info.get("won", False), _TRUTH):
        raise _Unusable(f"info['won'] must be True or False, got {_short(info['won'])}")
    if "task_score" in info:
        _number("info['task_score']", info["task_score"], limits.reward)


def _short(value: Any) -> str:
    """A value of whatever kind in a few printable words."""
    try:
        shown = ascii(value[:60] if isinstance(value, str | bytes | list) else value)
    except Exception:
        shown = "?"
    shown = shown if len(shown) <= 80 else shown[:80] + "..."
    return f"{shown} ({type(value).__name__})"
