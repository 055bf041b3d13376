"""The settings of a world -> lists of games, made if need be, and a pool that plays."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hiper_jax import _store
from hiper_jax.act.envs.answers import Limits
from hiper_jax.act.envs.env import MakeEnv
from hiper_jax.act.envs.pool import Pool
from hiper_jax.act.envs.world import Tasks, WorldSettings, load_world, world_of


def check_data(world: WorldSettings) -> None:
    """Refuses a world whose games cannot be found, before anything is compiled.

    Raises:
      ValueError, FileNotFoundError, ImportError: one line that says what to do.
    """
    world_of(world).check(_here(world))


def games_folder(
    world: WorldSettings, say: Callable[[str], Any] = print
) -> pathlib.Path | None:
    """Where the games of a world lie; made games are made on first use.

    Returns:
      The folder, or None where the games lie in no folder of the run's.
    """
    return world_of(world).prepare(_here(world), say)


def manifest(world: WorldSettings, split: str) -> Tasks:
    """The games of a split, in a fixed order, with their hash.

    Raises:
      ValueError: the world has no such split.
    """
    splits = world_of(world).splits
    known = (splits.train, *splits.panels, *splits.kept)
    if split not in known:
        raise ValueError(f"Unknown split {split!r}: give one of {', '.join(known)}.")
    return world_of(world).tasks(_here(world), split)


def training_manifest(world: WorldSettings) -> Tasks:
    """The games that are trained on."""
    return manifest(world, world_of(world).splits.train)


def panels(world: WorldSettings, episodes: int, seen_episodes: int) -> dict[str, int]:
    """The splits that a run is examined on, and how many games of each."""
    numbers = {"eval_episodes": episodes, "eval_seen_episodes": seen_episodes}
    wanted = world_of(world).splits.panels.items()
    return {split: numbers[which] for split, which in wanted if numbers[which]}


def evenly_spaced(games: Sequence[str], number: int) -> list[str]:
    """`number` games, evenly spaced through a sorted list; all if it is shorter."""
    if number >= len(games):
        return list(games)
    places = np.linspace(0, len(games) - 1, number).astype(int)
    return [games[int(place)] for place in places]


def training_games(
    games: Sequence[str], step: int, number: int, seed: int, samples: int = 1
) -> list[str]:
    """The games of one iteration: each once an epoch, in an order drawn per epoch.

    A function of (step, seed) alone, so that a resumed run goes on where it was.

    Args:
      games: all there are.
      step: iterations before this one.
      number: of trajectories, a multiple of `samples`.
      seed: of the order.
      samples: trajectories of each game, which stand side by side.
    """
    number //= samples
    chosen = []
    first, end = step * number, (step + 1) * number
    for epoch in range(first // len(games), (end - 1) // len(games) + 1):
        order = np.random.default_rng((seed, epoch)).permutation(len(games))
        begin = epoch * len(games)
        places = order[max(first - begin, 0) : end - begin]
        chosen += [games[int(place)] for place in places for _ in range(samples)]
    return chosen


def open_pool(world: WorldSettings, slots: int) -> Pool:
    """Starts the processes that run the games, or plays them in this one."""
    workers = 0 if world.in_process else world.workers
    limits = Limits(reward=world.max_reward)
    return Pool(make_env(world), slots, workers=workers, limits=limits)


def make_env(world: WorldSettings) -> MakeEnv:
    """What makes one environment, in whichever process."""
    return world_of(world).make_env(_here(world))


def _here(world: WorldSettings) -> WorldSettings:
    """A world whose games are on this disk: of those in a store a copy."""
    if not _store.is_remote(world.data):
        return world
    return dataclasses.replace(world, data=str(_copied(world.data)))


@functools.cache
def _copied(url: str) -> pathlib.Path:
    """The games as they are in a store when a process first asks for them."""
    return _store.fetched(url)


def packages(world: WorldSettings) -> Sequence[str]:
    """The distributions whose versions belong into a run's record."""
    return world_of(world).packages


def recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record of its world, as that world's settings take it.

    Older runs wrote down the settings of every world; those of others are left out.
    """
    kind = load_world(values["environment"]).settings
    known = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in known}


def lists_of(
    world: WorldSettings,
    episodes: int,
    seen_episodes: int,
    say: Callable[[str], Any] = print,
) -> tuple[tuple[str, ...], dict[str, tuple[list[str], str]]]:
    """The games to train on, and of each split to examine: games and its hash."""
    train_games = training_manifest(world).ids
    chosen_of = {}
    for split, number in panels(world, episodes, seen_episodes).items():
        listed = manifest(world, split)
        chosen = evenly_spaced(listed.ids, number)
        chosen_of[split] = chosen, listed.hash
        if leaked := len(set(chosen) & set(train_games)):
            say(f"note: {leaked} of {len(chosen)} {split} games are trained on too")
    return train_games, chosen_of
