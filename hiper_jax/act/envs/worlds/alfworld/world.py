"""`AlfWorld`: ALFWorld's text games behind the environment protocol."""

import json
import os
from typing import Literal, NamedTuple

from hiper_jax.act.envs.env import Info, Reset, Step
from hiper_jax.act.envs.worlds.alfworld import native
from hiper_jax.act.envs.worlds.alfworld.data import MAX_BYTES
from hiper_jax.act.envs.worlds.alfworld.dialect import TASK
from hiper_jax.act.envs.worlds.alfworld.native import Seen

ENGINES = ("native", "textworld")


class Snapshot(NamedTuple):
    """An episode as it stood; see `AlfWorld.state`."""

    game: str  # path
    about: Info  # what every info holds
    turn: int | None  # None: the episode is over
    engine: tuple


class AlfWorld:
    """One ALFWorld game at a time.

    The observation is the engine's text without the welcome line. An action that the
    engine does not know costs a turn and answers "Nothing happens.".

    A game may have several goals, one due after another. Its task is then the goal that
    is due; the answer to the move that reaches one says the next, and the last wins.
    """

    def __init__(
        self,
        *,
        max_turns: int = 50,
        reward: float = 10.0,
        engine: Literal["native", "textworld"] = "native",
    ):
        """
        Args:
          max_turns: an episode that is not won by then is truncated; of a game with
            several goals, for each of them.
          reward: what the winning step pays; all other steps pay 0.
          engine: "native", or "textworld" for the slow one it is held against, which
            needs the extra `reference`.
        """
        if max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, not {max_turns}.")
        if engine not in ENGINES:
            raise ValueError(f"engine is native or textworld, not {engine!r}.")
        if engine == "textworld":
            from hiper_jax.act.envs.worlds.alfworld import reference

            self._engine = reference.Engine()
        else:
            self._engine = native.Engine()
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
          ValueError: the game is damaged, or of a domain that the engine does not know.
        """
        task = os.fspath(task)
        self._turn = None
        if task != self._game:
            self._game = None
            try:
                self._engine.load(task)
            except ValueError as error:
                raise ValueError(f"{task}: {error}") from error
            self._type = task_type(task)
            self._game = task
        seen = self._engine.reset()
        observation = seen.text.strip()
        _, found, sentence = observation.partition(TASK)
        if not found:
            raise ValueError(
                f"The game {task} does not say its task: its grammar has no "
                f"'{TASK.strip()}', make or download the game again."
            )
        self._about = {
            "task": sentence.strip(),
            "task_type": self._type,
            "game": game_id(task),
        }
        self._turn = 0
        return observation, self._info(seen)

    def step(self, action: str) -> Step:
        """Plays one action; see `hiper_jax.act.envs.env` for what comes back."""
        if self._turn is None:
            raise RuntimeError("The episode is over or not begun: call reset first.")
        seen = self._engine.step(str(action))
        self._turn += 1
        goals = self._engine.goals()
        if seen.done:
            due = goals[seen.done - 1]
            # A new one: snapshots hold the old.
            self._about = self._about | {"task": due.task, "task_type": due.task_type}
        room = self._max_turns * (1 + len(goals))
        truncated = not seen.won and self._turn >= room
        if seen.won or truncated:
            self._turn = None
        reward = self._reward if seen.won else 0.0
        return seen.text, reward, seen.won, truncated, self._info(seen)

    def state(self) -> Snapshot:
        """The episode as it stands, to go on from later: here or in another `AlfWorld`.

        It costs a microsecond, and nothing that is played changes it.

        Raises:
          RuntimeError: no game was begun, or TextWorld plays it, which has no states.
        """
        if self._game is None:
            raise RuntimeError("No game was begun: call reset first.")
        return Snapshot(self._game, self._about, self._turn, self._engine.state())

    def restore(self, state: Snapshot) -> None:
        """Goes on from `state`: the same actions then have the same answers."""
        self._engine.restore(state.engine)
        self._game, self._about, self._turn = state.game, state.about, state.turn
        self._type = state.about["task_type"]

    def close(self) -> None:
        """Drops the game; a later reset loads it anew."""
        self._turn = self._game = None

    def _info(self, seen: Seen) -> Info:
        known = {"admissible_actions": list(seen.commands), "won": seen.won}
        return self._about | known


def game_id(path: str) -> str:
    """Names a game by its last three folders: split/task/trial."""
    return "/".join(os.path.abspath(path).split(os.sep)[-4:-1])


def task_type(path: str) -> str:
    """Reads a game's task type from the traj_data.json beside it."""
    file = os.path.join(os.path.dirname(path), "traj_data.json")
    try:
        with open(file, encoding="utf-8") as stream:
            return str(json.loads(stream.read(MAX_BYTES))["task_type"])
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no {file} beside the game: download or make the game again."
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({error!r}): download or make the game again."
        ) from None
