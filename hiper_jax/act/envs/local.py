"""Environments of several slots in one process, this one or a worker's."""

from typing import Any

from hiper_jax.act.envs.env import Env, MakeEnv


class Local:
    """Makes a slot's environment when it is first asked for, and plays requests.

    reset   a task           (observation, info)
    step    an action        (observation, reward, terminated, truncated, info)
    replay  (task, actions)  the last observation of the episode so far
    """

    def __init__(self, make_env: MakeEnv):
        self._make_env = make_env
        self._envs: dict[int, Env] = {}

    def play(self, slot: int, name: str, argument: Any) -> Any:
        """Answers one request; raises what the environment raises."""
        if slot not in self._envs:
            self._envs[slot] = self._make_env()
        env = self._envs[slot]
        if name == "reset":
            return env.reset(argument)
        if name == "step":
            return env.step(argument)
        task, actions = argument
        observation = env.reset(task)[0]
        for action in actions:
            observation = env.step(action)[0]
        return observation

    def close(self) -> None:
        """Closes all environments."""
        for env in self._envs.values():
            env.close()
        self._envs = {}
