"""Episodes that others played -> demonstrations to imitate.

a run's folder, or a data set    its won episodes
what else a path holds           what was published for the world, see `World.recorded`
"""

import pathlib
from collections.abc import Callable
from typing import Any

from hiper_jax import workdir
from hiper_jax.act.envs.demo import Demo, DemoStep
from hiper_jax.act.envs.world import WorldSettings, world_of
from hiper_jax.act.episode import Episode
from hiper_jax.experiments import games


def read(path, world: WorldSettings, say: Callable[[str], Any]) -> list[Demo]:
    """The demonstrations that lie in a folder or a file.

    Args:
      path: see the module's text.
      world: whose games they are of.
      say: is told how many there are.

    Raises:
      FileNotFoundError, ValueError: there are none, or they are damaged.
    """
    path = pathlib.Path(path)
    published = world_of(world).recorded
    if path.is_dir() and workdir.is_stored(path):
        stored = [entry.episode for entry in workdir.stored(path)]
        demos = [of_episode(episode) for episode in stored if episode.won]
        what = f"won episodes of {len(stored)}"
    elif published is None:
        raise FileNotFoundError(
            f"{path} holds no episodes: name a run's folder or a data set"
        )
    else:
        demos = list(published(path, games.make_env(world)))
        what = "published trajectories"
    if not demos:
        raise ValueError(f"{path} has nothing to imitate: no episode in it was won")
    say(f"{len(demos)} {what} in {path}")
    return demos


def of_episode(episode: Episode) -> Demo:
    """A demonstration of an episode; what was refused or ill-formed is not taught."""
    last = len(episode.turns) - 1
    steps = tuple(
        DemoStep(
            observation=turn.observation,
            admissible_actions=turn.admissible,
            subgoal=turn.subgoal,
            switch=turn.switch,
            expert_action=turn.action
            if turn.format_valid and turn.action_valid
            else "",
            action=turn.action,
            reward=turn.reward,
            terminated=t == last and episode.terminated,
            truncated=t == last and episode.truncated,
            task=turn.task,
        )
        for t, turn in enumerate(episode.turns)
    )
    info = {"task": episode.task, "game": episode.game, "task_type": episode.task_type}
    first = episode.turns[0].admissible
    return Demo(episode.game, {**info, "admissible_actions": first}, steps, "")
