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
    task: str = ""  # the task sentence, where it is not the episode's any more
    # [R, H] float32, values before each token, of the weights that sampled them. Of no
    # use to others, so they are not written to disk.
    values: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A text that an episode follows from its first turn to its last."""

    text: str  # as every prompt shows it
    prompt: np.ndarray  # [P] int32, token ids that asked for it
    response: np.ndarray  # [R] int32, token ids that were sampled
    log_prob: np.ndarray  # [R] float32, nats, under the sampling distribution
    number: int  # equal for the episodes of one iteration that follow it
    candidate: int  # which of those that were drawn for the task it is, from 0


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
    strategy: Strategy | None = None  # what it followed; None: nothing
    # Turns, from 0, that were judged neither to follow the strategy nor to advance;
    # None: nobody judged, or the judgement could not be read.
    flagged: tuple[int, ...] | None = None

    @property
    def reward(self) -> float:
        """The undiscounted, unshaped return."""
        return float(sum(turn.reward for turn in self.turns))


def to_json(episode: Episode) -> dict[str, Any]:
    """Turns an episode into plain JSON values (lists, strings, numbers).

    What has to do with strategies is left out where there is none.
    """
    record = {f.name: getattr(episode, f.name) for f in dataclasses.fields(episode)}
    record["next_prompt"] = np.asarray(episode.next_prompt).tolist()
    record["turns"] = [_record(turn) for turn in episode.turns]
    if episode.strategy is None:
        del record["strategy"], record["flagged"]
        return record
    flagged = episode.flagged
    record["strategy"] = _record(episode.strategy)
    record["flagged"] = None if flagged is None else list(flagged)
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
                **_tokens(turn),
                "admissible": tuple(turn["admissible"]),
            }
        )
        for turn in record["turns"]
    )
    next_prompt = np.asarray(record["next_prompt"], np.int32)
    more: dict[str, Any] = {}
    if (strategy := record.get("strategy")) is not None:
        if not isinstance(strategy, dict):
            raise TypeError("strategy must be a record")
        _check_kinds(Strategy, strategy)
        more["strategy"] = Strategy(**{**strategy, **_tokens(strategy)})
    if (flagged := record.get("flagged")) is not None:
        if not all(type(t) is int and 0 <= t < len(turns) for t in flagged):
            raise ValueError("flagged must be numbers of turns")
        more["flagged"] = tuple(flagged)
    return Episode(**{**record, "turns": turns, "next_prompt": next_prompt, **more})


_KINDS: dict[Any, Any] = {str: str, bool: bool, int: int, float: int | float}


def _tokens(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """What was read and sampled, as arrays."""
    return {
        "prompt": np.asarray(record["prompt"], np.int32),
        "response": np.asarray(record["response"], np.int32),
        "log_prob": np.asarray(record["log_prob"], np.float32),
    }


def _record(value: Turn | Strategy) -> dict[str, Any]:
    fields = dataclasses.fields(value)
    record = {f.name: _plain(getattr(value, f.name)) for f in fields}
    record.pop("values", None)
    if not record.get("task", True):
        del record["task"]
    return record


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
