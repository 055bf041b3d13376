"""`AlfWorld`: ALFWorld's text games behind the environment protocol."""

import contextlib
import json
import os
import random

import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredExpert

from hiper_jax.act.envs.env import Info, Reset, Step
from hiper_jax.act.envs.worlds.alfworld import engine

_BANNER = "-= Welcome to TextWorld, ALFRED! =-"
_TASK = "Your task is to: "


class AlfWorld:
    """One ALFWorld game at a time, on TextWorld's PDDL engine.

    The observation is the engine's text without the welcome line. An action that the
    engine does not know costs a turn and answers "Nothing happens.".
    """

    def __init__(
        self, *, max_turns: int = 50, reward: float = 10.0, expert: bool = False
    ):
        """
        Args:
          max_turns: an episode that is not won by then is truncated.
          reward: what the winning step pays; all other steps pay 0.
          expert: puts the next action of ALFWorld's hand-coded expert in
            `info["expert"]`.
        """
        if max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, not {max_turns}.")
        infos = textworld.EnvInfos(
            won=True, admissible_commands=True, facts=expert, extras=["gamefile"]
        )
        self._env = AlfredDemangler(engine.Engine(infos))
        if expert:
            self._env = AlfredExpert(self._env)
        self._expert = random.Random(0) if expert else None
        self._max_turns = max_turns
        self._reward = float(reward)
        self._turn = None
        self._game = self._type = None
        self._about = {}

    def reset(self, task: str) -> Reset:
        """Starts the game file `task`.

        Args:
          task: path of a game.tw-pddl file; its traj_data.json stands beside it.

        Returns:
          The first observation and its info.

        Raises:
          FileNotFoundError: there is no such game.
          ValueError: the game is damaged.
        """
        task = os.fspath(task)
        self._turn = None
        if task != self._game:
            self._game = None
            try:
                self._env.load(task)
            except ValueError as error:
                raise ValueError(f"{task}: {error}") from error
            self._type = task_type(task)
            self._game = task
        if self._expert is not None:
            self._expert.seed(0)
        with _random(self._expert):
            state = self._env.reset()
        observation = state.feedback.replace(_BANNER, "").strip()
        _, found, sentence = observation.partition(_TASK)
        if not found:
            raise ValueError(
                f"The game {task} does not say its task: its grammar has no "
                f"'{_TASK.strip()}', make or download the game again."
            )
        self._about = {
            "task": sentence.strip(),
            "task_type": self._type,
            "game": game_id(task),
        }
        self._turn = 0
        return observation, self._info(state)

    def step(self, action: str) -> Step:
        """Plays one action; see `hiper_jax.act.envs.env` for what comes back."""
        if self._turn is None:
            raise RuntimeError("The episode is over or not begun: call reset first.")
        with _random(self._expert):
            state, _, _ = self._env.step(str(action))
        self._turn += 1
        won = bool(state["won"])
        truncated = not won and self._turn >= self._max_turns
        if won or truncated:
            self._turn = None
        reward = self._reward if won else 0.0
        return state.feedback, reward, won, truncated, self._info(state)

    def close(self) -> None:
        """Drops the game; a later reset loads it anew."""
        self._turn = self._game = None

    def _info(self, state) -> Info:
        info = dict(self._about)
        info["admissible_actions"] = list(state["admissible_commands"])
        info["won"] = bool(state["won"])
        if self._expert is not None:
            info["expert"] = state["extra.expert_plan"][0]
        return info


def game_id(path: str) -> str:
    """Names a game by its last three folders: split/task/trial."""
    return "/".join(os.path.abspath(path).split(os.sep)[-4:-1])


def task_type(path: str) -> str:
    """Reads a game's task type from the traj_data.json beside it."""
    file = os.path.join(os.path.dirname(path), "traj_data.json")
    try:
        with open(file, encoding="utf-8") as stream:
            return str(json.load(stream)["task_type"])
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no {file} beside the game: download or make the game again."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({error!r}): download or make the game again."
        ) from None


@contextlib.contextmanager
def _random(generator):
    """Lends `generator` to code that uses the global one; None changes nothing."""
    if generator is None:
        yield
        return
    outer = random.getstate()
    random.setstate(generator.getstate())
    try:
        yield
    finally:
        generator.setstate(random.getstate())
        random.setstate(outer)
