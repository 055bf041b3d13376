"""A Gymnasium environment whose observations are text -> a World.

    # my_game.py
    from hiper_jax.act.envs.worlds.gymnasium_text import gymnasium_world

    WORLD = gymnasium_world(MyEnv, name="my game", task="Find the key.")

    hiper train quickstart --world.environment my_game:WORLD

Observations are texts (a `Text` space or plain `str`). Actions are texts (a `Text`
space), or numbers with names (a `Discrete` space). A task is a seed, which goes into
`reset(seed=...)`: the same seed and actions must give the same episode.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hiper_jax.act.envs.env import Info, Reset, Step
from hiper_jax.act.envs.world import World
from hiper_jax.act.envs.worlds.by_seed import (
    SPLITS,
    Chance,
    SeedSettings,
    seed_of,
    seeds,
)

ANY_TEXT = "<your action>"  # an admissible action that stands for any text


def gymnasium_world(
    make: Callable[[], Any],
    *,
    name: str,
    task: str,
    actions: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    won: Callable[[float, Mapping[str, Any]], bool] | None = None,
) -> World:
    """Wraps a Gymnasium environment of texts as a world.

    Args:
      make: makes one environment, say a class or
        `functools.partial(gymnasium.make, "MyEnv-v0")`; a module must define it, for
        worker processes import it.
      name: of the world; part of its tasks' ids.
      task: the task in words; `info["task"]` of a reset goes before it.
      actions: the names of a `Discrete` space's actions, or the texts that a `Text`
        space understands. Without them `get_action_meanings()` of the environment is
        asked; a `Text` space then takes any text. `info["admissible_actions"]`, where
        the environment gives it, says which of them there are now.
      options: given to every reset.
      won: (reward, info) of the step that terminates -> whether the game was won. By
        default `info["won"]` or, without it, whether that reward is above 0.

    Returns:
      The world. Its rewards are the environment's times `world.reward`.
    """

    def make_env(settings: SeedSettings) -> Callable[[], "GymnasiumText"]:
        return functools.partial(
            GymnasiumText,
            make,
            task=task,
            actions=actions,
            options=options,
            won=won,
            max_turns=settings.max_turns,
            reward=settings.reward,
        )

    def check(settings: SeedSettings) -> None:
        if importlib.util.find_spec("gymnasium") is None:
            raise ImportError(
                f"{name} needs gymnasium: pip install 'hiper-jax[gymnasium]'"
            )
        env = make_env(settings)()
        env.reset(seeds(settings, "train", name).ids[0])
        env.close()

    return World(
        name=name,
        tasks=lambda settings, split: seeds(settings, split, name),
        make_env=make_env,
        settings=SeedSettings,
        check=check,
        splits=SPLITS,
        packages=("gymnasium",),
    )


class GymnasiumText:
    """One Gymnasium environment behind the protocol of `hiper_jax.act.envs.env`.

    An action that a `Discrete` space has no name for changes nothing, is answered with
    "Nothing happens." and costs a turn.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        task: str,
        actions: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        won: Callable[[float, Mapping[str, Any]], bool] | None = None,
        max_turns: int = 30,
        reward: float = 1.0,
    ):
        """
        Args:
          make, task, actions, options, won: see `gymnasium_world`.
          max_turns: an episode that has not ended by then is truncated.
          reward: what the environment's rewards are multiplied by.

        Raises:
          ValueError: the environment's spaces are others, or its actions have no names.
        """
        self._env = make()
        self._names, self._first = _names(self._env, actions)
        self._task, self._won_by = task, won or _won
        self._options = None if options is None else dict(options)
        self._max_turns, self._reward = max_turns, reward
        self._about: dict[str, Any] = {}
        self._over = True

    def reset(self, task: str) -> Reset:
        """Starts the episode of the seed that `task` ends in."""
        seed = seed_of(task)
        self._chance = Chance(seed)
        with self._chance.lent():
            seen, info = self._env.reset(seed=seed, options=self._options)
        self._observation, self._turn, self._over = _text(seen), 0, False
        self._about = {
            "task": str(info.get("task", self._task)),
            "task_type": str(info.get("task_type", "")),
            "game": task,
        }
        return self._observation, self._info(info, False)

    def step(self, action: str) -> Step:
        """Plays one action; after the end nothing can be played any more."""
        if self._over:
            raise RuntimeError("The episode is over or not begun: call reset first.")
        self._turn += 1
        reward, terminated, truncated = 0.0, False, False
        played = self._played(action)
        if played is None:
            observation, info = f"Nothing happens. {self._observation}", self._last
        else:
            with self._chance.lent():
                seen, reward, terminated, truncated, info = self._env.step(played)
            observation = self._observation = _text(seen)
        won = bool(terminated) and self._won_by(float(reward), info)
        truncated = not terminated and (truncated or self._turn >= self._max_turns)
        self._over = bool(terminated or truncated)
        return (
            observation,
            float(reward) * self._reward,
            bool(terminated),
            bool(truncated),
            self._info(info, won),
        )

    def close(self) -> None:
        """Closes the environment."""
        self._over = True
        self._env.close()

    def _played(self, action: str) -> int | str | None:
        """What the environment is given: actions arrive in lower case."""
        if self._first is None:
            spelled = {name.lower(): name for name in (*self._names, *self._now)}
            return spelled.get(action.lower(), action)
        numbers = {name.lower(): i for i, name in enumerate(self._names, self._first)}
        return numbers.get(action.lower())

    def _info(self, info: Mapping[str, Any], won: bool) -> Info:
        self._last = info
        self._now = list(info.get("admissible_actions", self._names))
        listed = [name.lower() for name in self._now]
        return {**self._about, "admissible_actions": listed, "won": won}


def _won(reward: float, info: Mapping[str, Any]) -> bool:
    return bool(info.get("won", reward > 0))


def _text(seen: Any) -> str:
    if not isinstance(seen, str):
        raise ValueError(
            f"the environment shows {seen!r:.60} (a {type(seen).__name__}) and not a "
            "text: put a gymnasium.ObservationWrapper around it that writes one"
        )
    return seen


def _names(env: Any, actions: Sequence[str] | None) -> tuple[list[str], int | None]:
    """The actions in words, and the number of the first; None: it takes the words."""
    from gymnasium import spaces

    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    if actions is None and meanings is not None:
        actions = meanings()
    space = env.action_space
    if isinstance(space, spaces.Text):
        return list(actions or [ANY_TEXT]), None
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"actions are {space}: only Text, or Discrete with a name for each, can be "
            "said in words; put a gymnasium.ActionWrapper around the environment"
        )
    if actions is None or len(actions) != space.n:
        given = "none are given" if actions is None else f"{len(actions)} are given"
        raise ValueError(
            f"the {space.n} actions need a name each, and {given}: pass actions=[...]"
        )
    return list(actions), int(space.start)
