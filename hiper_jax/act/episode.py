"""What a rollout yields and what is written to disk: ragged, numpy, no jax.

A `Turn` is one training sequence (prompt and response); an `Episode` is the list
of turns of one trajectory. Token ids are those that went into and came out of the
model: nothing here is ever tokenised again.
"""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Turn:
    """One decision: the prompt that was read, the response that was sampled."""

    prompt: np.ndarray  # [P] int32, token ids given to the model
    response: np.ndarray  # [R] int32, token ids sampled, end of message included
    log_prob: np.ndarray  # [R] float32, nats, under the sampling distribution
    text: str  # the response for people to read
    observation: str  # what the environment showed before this turn
    admissible: tuple[str, ...]  # the actions it would have accepted
    action: str  # what was sent to the environment
    subgoal: str  # the subgoal in force during this turn; "" without a plan
    switch: bool  # this turn starts a segment (turn 0 always does)
    said_switch: bool  # the response asked for a switch
    format_valid: bool  # the response has its format's blocks in good form
    action_valid: bool  # `admissible` has the action, or its form
    reward: float  # environment reward for this turn, unshaped
    prompt_truncated: bool = False  # the prompt had to be cut to fit


@dataclasses.dataclass(frozen=True)
class Episode:
    """One trajectory, from reset to termination or truncation."""

    game: str  # which task instance, as the environment names it
    task: str  # the task sentence
    task_type: str  # the kind of task, for tables
    turns: tuple[Turn, ...]
    terminated: bool  # the environment ended the episode
    truncated: bool  # the turn limit did
    won: bool
    score: float  # the environment's own score in [0, 1]
    next_prompt: np.ndarray  # [P] int32, the prompt after the last action; may be empty
    credit: dict[str, list[float]] | None = None  # per turn, filled in after an update

    @property
    def reward(self) -> float:
        """The undiscounted, unshaped return."""
        return float(sum(turn.reward for turn in self.turns))


def to_json(episode: Episode) -> dict[str, Any]:
    """Turns an episode into plain JSON values (lists, strings, numbers)."""
    record = {f.name: getattr(episode, f.name) for f in dataclasses.fields(episode)}
    record["next_prompt"] = np.asarray(episode.next_prompt).tolist()
    record["turns"] = [
        {f.name: _plain(getattr(turn, f.name)) for f in dataclasses.fields(turn)}
        for turn in episode.turns
    ]
    return record


def from_json(record: dict[str, Any]) -> Episode:
    """Rebuilds an episode from `to_json`'s values.

    Raises:
      TypeError, KeyError, ValueError, OverflowError: they are not those.
    """
    _check_kinds(Episode, record)
    credit = (record.get("credit") or {}).values()
    if not all(isinstance(x, _KINDS[float]) for values in credit for x in values):
        raise TypeError("credit must be numbers")
    turns = tuple(
        Turn(
            **{
                **_check_kinds(Turn, turn),
                "prompt": np.asarray(turn["prompt"], np.int32),
                "response": np.asarray(turn["response"], np.int32),
                "log_prob": np.asarray(turn["log_prob"], np.float32),
                "admissible": tuple(turn["admissible"]),
            }
        )
        for turn in record["turns"]
    )
    next_prompt = np.asarray(record["next_prompt"], np.int32)
    return Episode(**{**record, "turns": turns, "next_prompt": next_prompt})


_KINDS: dict[Any, Any] = {str: str, bool: bool, float: int | float}


def _check_kinds(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values; TypeError where one is not of its field's kind."""
    for field in dataclasses.fields(kind):
        wanted = _KINDS.get(field.type)
        if wanted and field.name in values:
            if not isinstance(values[field.name], wanted):
                raise TypeError(f"{field.name} must be a {field.type}")
    for text in values.get("admissible", ()):
        if not isinstance(text, str):
            raise TypeError("admissible must be texts")
    return values


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
