"""Trajectories of any agent, as JSON lines of text -> episodes.

A line is an episode; what is in brackets may be left out:

    {"task": "find the book", ["game": "...", "task_type": "...", "terminated": true,
     "won": false, "next_observation": "..."],
     "turns": [{"observation": "...", "response": "...", ["reward": 0.0,
       "admissible": ["look"], "values": {"low": 0.1, "high": 0.2, "switch": 0.0}]}]}

Instead of a response a turn may have an "action", and then ["subgoal", "switch"]: its
response is written as our agents write theirs. Equal games are compared by estimators
that compare; without one the task is the game. They are played back: what comes of a
line is what a rollout makes of the same words.
"""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from hiper_jax.act.episode import Episode
from hiper_jax.act.rollout import Reader, Sampled, rollout

RESPONSE = "<switch>{}</switch><subgoal>{}</subgoal><action>{}</action>"
_NUMBER = (int, float)
_EPISODE = {
    "task": str,
    "turns": list,
    "game": str,
    "task_type": str,
    "terminated": bool,
    "won": bool,
    "next_observation": str,
}
_TURN = {
    "observation": str,
    "response": str,
    "action": str,
    "subgoal": str,
    "switch": bool,
    "reward": _NUMBER,
    "admissible": list,
    "values": dict,
}
_WORDS = {str: "a text", list: "a list", bool: "true or false", dict: "a mapping"}


def read_lines(path) -> list[dict[str, Any]]:
    """Reads and checks a file of trajectories.

    Raises:
      FileNotFoundError: there is none.
      ValueError: naming the file, the line and what is wrong there.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    found = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    raise ValueError(f"{where}: this is no JSON") from None
                _check_episode(record, where)
                found.append(record)
    if not found:
        raise ValueError(f"{path} has no trajectory: write one a line")
    return found


def to_episodes(lines: Sequence[dict[str, Any]], reader: Reader) -> list[Episode]:
    """What a rollout would have made of these words; log-probs are 0, being unknown."""
    responses = [[_response(turn) for turn in line["turns"]] for line in lines]
    codec = reader.codec

    def sample(prompts, indices, turns) -> Sampled:
        tokens = [
            np.array(codec.encode_response(responses[i][t]), np.int32)
            for i, t in zip(indices, turns, strict=True)
        ]
        return Sampled(tokens, [np.zeros(len(ids), np.float32) for ids in tokens])

    longest = max(len(line["turns"]) for line in lines)
    places = [str(i) for i in range(len(lines))]
    episodes, _ = rollout(_Played(lines), sample, places, reader, max_turns=longest + 1)
    return episodes


class _Played:
    """Environments that show what the lines say was shown."""

    def __init__(self, lines: Sequence[dict[str, Any]]):
        self.size = len(lines)
        self._lines = lines
        self._at: dict[int, tuple[int, int]] = {}

    def reset(self, slots: Sequence[int], tasks: Sequence[str]) -> list:
        answers = []
        for slot, task in zip(slots, tasks, strict=True):
            line = self._lines[int(task)]
            self._at[slot] = int(task), 0
            names = {
                "game": line.get("game", line["task"]),
                "task": line["task"],
                "task_type": line.get("task_type", ""),
            }
            turn = line["turns"][0]
            answers.append((turn["observation"], {**names, **_listed(turn)}))
        return answers

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list:
        del actions  # what came of them is known
        answers = []
        for slot in slots:
            episode, t = self._at[slot]
            line = self._lines[episode]
            self._at[slot] = episode, t + 1
            reward = float(line["turns"][t].get("reward", 0.0))
            last = t + 1 == len(line["turns"])
            ended = last and line.get("terminated", True)
            shown = {} if last else line["turns"][t + 1]
            seen = shown.get("observation", line.get("next_observation", ""))
            info = {**_listed(shown), "won": line.get("won", ended and reward > 0)}
            answers.append((seen, reward, ended, last and not ended, info))
        return answers


def _listed(turn: dict[str, Any]) -> dict[str, Any]:
    return {"admissible_actions": tuple(turn.get("admissible", ()))}


def _response(turn: dict[str, Any]) -> str:
    if "response" in turn:
        return turn["response"]
    switch = "SWITCH" if turn.get("switch", False) else "KEEP"
    return RESPONSE.format(switch, turn.get("subgoal", ""), turn["action"])


def _check_episode(record: Any, where: str) -> None:
    _check_fields(record, _EPISODE, ("task", "turns"), where)
    if not record["turns"]:
        raise ValueError(f"{where}: turns is empty")
    for t, turn in enumerate(record["turns"]):
        here = f"{where}: turn {t}"
        _check_fields(turn, _TURN, ("observation",), here)
        if ("response" in turn) == ("action" in turn):
            raise ValueError(f"{here} needs a response, or an action instead")
        if not math.isfinite(turn.get("reward", 0.0)):
            raise ValueError(f"{here}: reward must be a finite number")
        for text in turn.get("admissible", ()):
            if not isinstance(text, str):
                raise ValueError(f"{here}: admissible must be a list of texts")
        for name, value in turn.get("values", {}).items():
            if type(value) not in _NUMBER or not math.isfinite(value):
                raise ValueError(f"{here}: value {name} must be a finite number")


def _check_fields(record: Any, kinds: dict, needed: Sequence[str], where: str) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: this is no mapping")
    for name in needed:
        if name not in record:
            raise ValueError(f"{where} has no {name}")
    for name, value in record.items():
        if name not in kinds:
            known = ", ".join(kinds)
            raise ValueError(
                f"{where} has an unknown field {name!r}; there are {known}"
            )
        kind = kinds[name]
        fits = isinstance(value, kind) and (kind is not _NUMBER or type(value) in kind)
        if not fits:
            raise ValueError(f"{where}: {name} must be {_WORDS.get(kind, 'a number')}")
