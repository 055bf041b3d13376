"""Small deterministic environments for the pool's tests; workers import this module."""

import time

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
