"""Small deterministic environments for the pool's tests; workers import this module."""

import functools
import time

from hiper_jax.act.envs.world import World, named_tasks
from hiper_jax.experiments.bench.ledger import Ledger


class Counter:
    """Counts its steps; the observation tells the whole history of the episode."""

    def __init__(self, length=5, max_turns=8):
        self.length, self.max_turns = length, max_turns

    def reset(self, task):
        if task == "missing":
            raise FileNotFoundError("There is no game 'missing': list the games again.")
        if task == "broken":
            raise KeyError("grammar")
        self.task, self.history = task, []
        return task, self._info(False)

    def step(self, action):
        if action == "hang":
            time.sleep(1000.0)
        if action == "nap":
            time.sleep(1.0)
        self.history.append(action)
        won = self.history.count("right") == self.length
        truncated = not won and len(self.history) == self.max_turns
        observation = " ".join([self.task, *self.history])
        return observation, 10.0 * won, won, truncated, self._info(won)

    def close(self):
        self.history = []

    def _info(self, won):
        return {
            "task": self.task,
            "admissible_actions": ["left", "right"],
            "won": won,
            "task_type": "count",
            "game": self.task,
        }


class Modules(Counter):
    """Answers each step with the names of the heavy modules its process has loaded."""

    def step(self, action):
        import sys

        loaded = [name for name in ("jax", "torch", "textworld") if name in sys.modules]
        return " ".join(loaded), 0.0, False, False, self._info(False)


_LOADED = set()


class Loading(Counter):
    """A reset answers with how many games its process has loaded."""

    def reset(self, task):
        _LOADED.add(task)
        return f"{len(_LOADED)} loaded", super().reset(task)[1]


class Forgetful(Counter):
    """Not deterministic: every process tells another story."""

    def step(self, action):
        import os

        return str(os.getpid()), 0.0, False, False, self._info(False)


class Skipping(Ledger):
    """Loses the third action of every episode."""

    def step(self, action):
        before, result = self._digest, super().step(action)
        if self._turn == 3:
            self._digest = before
            result = (self._line(), *result[1:])
        return result


INFO = {"task": "t", "admissible_actions": ["left"], "won": False}
BAD_STEPS = {
    "nan": ("o", float("nan"), False, False, INFO),
    "inf": ("o", float("inf"), False, False, INFO),
    "huge": ("o", 1e38, False, False, INFO),
    "text reward": ("o", "1", False, False, INFO),
    "no reward": ("o", None, False, False, INFO),
    "nothing": None,
    "four": ("o", 0.0, False, INFO),
    "says no": ("o", 0.0, "no", False, INFO),
    "none": (None, 0.0, False, False, INFO),
    "bytes": (b"o", 0.0, False, False, INFO),
    "half": ("\ud800", 0.0, False, False, INFO),
    "nul": ("a\0b", 0.0, False, False, INFO),
    "long": ("x" * 5_000_000, 0.0, False, False, INFO),
    "no info": ("o", 0.0, False, False, None),
    "one text": ("o", 0.0, False, False, INFO | {"admissible_actions": "left"}),
    "numbers": ("o", 0.0, False, False, INFO | {"admissible_actions": [1]}),
    "half action": ("o", 0.0, False, False, INFO | {"admissible_actions": ["\udc00"]}),
    "won": ("o", 0.0, False, False, INFO | {"won": "yes"}),
    "score": ("o", 0.0, False, False, INFO | {"task_score": float("nan")}),
    "kind": ("o", 0.0, False, False, INFO | {"task_type": 3}),
}
BAD_RESETS = {"no task": ("o", {"admissible_actions": []}), "five": ("o", 0, 0, 0, {})}


class Faulty(Counter):
    """A counter whose task says which bad answer its second step (or reset) gives."""

    def reset(self, task):
        answer = super().reset(task)
        return BAD_RESETS.get(task, answer)

    def step(self, action):
        answer = super().step(action)
        if self.task == "unsendable":
            return answer[:4] + (answer[4] | {"more": lambda: 0},)
        return BAD_STEPS.get(self.task, answer) if len(self.history) > 1 else answer


def _tasks(settings, split):
    del settings
    good = [f"{split}-{i}" for i in range(3)]
    return named_tasks([*good, "nan" if split == "train" else "bytes"])


def _make_env(settings):
    return functools.partial(Faulty, max_turns=settings.max_turns)


WORLD = World("faulty", _tasks, _make_env)
