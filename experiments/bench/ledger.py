"""An environment that keeps the books of its turns; light, for worker processes."""

import hashlib

from hiper_jax.act.envs.env import Info, Reset, Step

ACTIONS = ("left", "right", "up", "down")


class Ledger:
    """An environment whose observations say which turn of which episode they are."""

    def reset(self, task: str) -> Reset:
        """Begins the episode `task`."""
        self._task, self._turn = task, 0
        self._digest = hashlib.sha256(task.encode()).hexdigest()[:16]
        return self._line(), self._info()

    def step(self, action: str) -> Step:
        """Takes an action into the digest."""
        self._turn += 1
        self._digest = after(self._digest, action)
        return self._line(), 0.0, False, False, self._info()

    def close(self) -> None:
        """Nothing is held."""

    def _line(self) -> str:
        return f"{self._task} {self._turn} {self._digest}"

    def _info(self) -> Info:
        return {
            "task": self._task,
            "admissible_actions": list(ACTIONS),
            "won": False,
            "task_type": "ledger",
            "game": self._task,
        }


def after(digest: str, action: str) -> str:
    """The digest of one action more."""
    return hashlib.sha256(f"{digest} {action}".encode()).hexdigest()[:16]
