"""The settings of a world -> lists of games, made if need be, and a pool that plays."""

import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from hiper_jax.act.envs.pool import Pool
from hiper_jax.experiments.config import World


def games_folder(
    world: World, say: Callable[[str], None] = print
) -> pathlib.Path | None:
    """Where the games of a world lie; made games are made on first use.

    Returns:
      The folder, or None for `$ALFWORLD_DATA`.
    """
    if world.data:
        return pathlib.Path(world.data)
    if not world.generate:
        return None
    recipe = {
        name: getattr(world, name)
        for name in ("train", "seen", "unseen", "receptacles", "objects", "seed")
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    folder = pathlib.Path(world.cache) / digest[:12]
    if not (folder / "recipe.json").is_file():
        number = world.train + world.seen + world.unseen
        say(f"making {number} games in {folder}")
        make(folder, workers=world.workers, say=say, **recipe)
    return folder


def make(folder, *, say: Callable[[str], None] = print, workers: int = 2, **recipe):
    """Makes games and leaves the recipe beside them."""
    from hiper_jax.act.envs.alfworld.make import make_games

    began, shown = time.monotonic(), [0.0]

    def progress(done: int, total: int):
        now = time.monotonic()
        if now - shown[0] > 2 or done == total:
            shown[0] = now
            left = (now - began) / max(done, 1) * (total - done)
            say(f"  {done}/{total} games, {left:.0f} s left")

    counts = make_games(folder, workers=workers, progress=progress, **recipe)
    (pathlib.Path(folder) / "recipe.json").write_text(json.dumps(recipe) + "\n")
    return counts


def manifest(world: World, folder, split: str):
    """The games of a split, sorted, with their hash."""
    from hiper_jax.act.envs.alfworld.data import list_games

    return list_games(folder, split)


def spread(games: Sequence[str], number: int) -> list[str]:
    """`number` games, evenly spaced through a sorted list; all if it is shorter."""
    if number >= len(games):
        return list(games)
    return [games[i] for i in np.linspace(0, len(games) - 1, number).astype(int)]


def training_games(
    games: Sequence[str], step: int, number: int, seed: int
) -> list[str]:
    """The games of one iteration: each once an epoch, in an order drawn per epoch.

    A function of (step, seed) alone, so that a resumed run goes on where it was.
    """
    chosen = []
    first, end = step * number, (step + 1) * number
    for epoch in range(first // len(games), (end - 1) // len(games) + 1):
        order = np.random.default_rng((seed, epoch)).permutation(len(games))
        begin = epoch * len(games)
        places = order[max(first - begin, 0) : end - begin]
        chosen += [games[place] for place in places]
    return chosen


def open_pool(world: World, slots: int) -> Pool:
    """Starts the processes that run the games."""
    from hiper_jax.act.envs.alfworld.world import AlfWorld

    make_env = functools.partial(
        AlfWorld, max_turns=world.max_turns, reward=world.reward
    )
    return Pool(make_env, slots, workers=world.workers)


def check_data(world: World) -> None:
    """Refuses a world whose games cannot be found, before anything is compiled."""
    if not world.generate and not world.data and not os.environ.get("ALFWORLD_DATA"):
        raise FileNotFoundError(
            "ALFWORLD_DATA is not set: point it at ALFWorld's data, or let games be "
            "made with --world.generate"
        )
