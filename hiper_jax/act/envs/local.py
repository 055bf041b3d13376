"""Environments of several slots in one process, this one or a worker's."""

from typing import Any

from hiper_jax.act.envs.answers import Fault, Limits, reset_answer, step_answer
from hiper_jax.act.envs.env import Env, MakeEnv


class Local:
    """Makes a slot's environment when it is first asked for, and plays requests.

    reset   a task           (observation, info)
    step    an action        (observation, reward, terminated, truncated, info)
    replay  (task, actions)  the last observation of the episode so far

    An answer that cannot be used is a `Fault`.
    """

    def __init__(self, make_env: MakeEnv, limits: Limits):
        self._make_env = make_env
        self._limits = limits
        self._envs: dict[int, Env] = {}

    def play(self, slot: int, name: str, argument: Any) -> Any:
        """Answers one request; raises what the environment raises."""
        if slot not in self._envs:
            self._envs[slot] = self._make_env()
        env = self._envs[slot]
        if name == "reset":
            return reset_answer(env.reset(argument), self._limits)
        if name == "step":
            return step_answer(env.step(argument), self._limits)
        task, actions = argument
        answer = reset_answer(env.reset(task), self._limits)
        for action in actions:
            if isinstance(answer, Fault):
                break
            answer = step_answer(env.step(action), self._limits)
        return answer if isinstance(answer, Fault) else answer[0]

    def close(self) -> None:
        """Closes all environments."""
        for env in self._envs.values():
            env.close()
        self._envs = {}
