"""The settings of a world -> lists of games, made if need be, and a pool that plays."""

import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from hiper_jax.act.envs.env import MakeEnv
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
    if world.environment == "webshop":
        return _shop_folder(world, say)
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


def _shop_folder(world: World, say) -> pathlib.Path:
    from hiper_jax.act.envs.worlds.webshop.make import make_shop

    if not world.generate:
        return pathlib.Path(_webshop_data())
    folder = pathlib.Path(world.cache) / f"shop-{world.shop.products}-{world.seed}"
    if not folder.is_dir():
        say(f"making a shop of {world.shop.products} products in {folder}")
        make_shop(folder, products=world.shop.products, seed=world.seed)
    return folder


def make(folder, *, say: Callable[[str], None] = print, workers: int = 2, **recipe):
    """Makes games and leaves the recipe beside them."""
    from hiper_jax.act.envs.worlds.alfworld.write import make_games

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
    """The games of a split, in a fixed order, with their hash."""
    if world.environment == "webshop":
        from hiper_jax.act.envs.worlds.webshop.shop import shared
        from hiper_jax.act.envs.worlds.webshop.splits import list_goals

        return list_goals(
            shared(*_shop_arguments(world, folder)),
            split,
            protocol=world.shop.protocol,
            seed=world.seed,
        )
    from hiper_jax.act.envs.worlds.alfworld.data import list_games

    return list_games(folder, split)


def _shop_arguments(world: World, folder) -> tuple:
    """What the processes of a run open the same shop with."""
    return str(folder), world.shop.human_goals, world.seed, world.shop.items or None


def panels(world: World, episodes: int, seen_episodes: int) -> dict[str, int]:
    """The splits that a run is examined on, and how many games of each."""
    if world.environment == "webshop":
        return {"valid": episodes}
    numbers = {"valid_unseen": episodes, "valid_seen": seen_episodes}
    return {split: number for split, number in numbers.items() if number}


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
    return Pool(make_env(world), slots, workers=world.workers)


def make_env(world: World) -> MakeEnv:
    """What makes one environment, in whichever process."""
    limits = {"max_turns": world.max_turns, "reward": world.reward}
    if world.environment == "webshop":
        from hiper_jax.act.envs.worlds import webshop

        folder, human_goals, seed, items = _shop_arguments(world, games_folder(world))
        return functools.partial(
            webshop.make_env,
            folder,
            human_goals=human_goals,
            seed=seed,
            items=items,
            partial=world.shop.partial_reward,
            **limits,
        )
    from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld

    return functools.partial(AlfWorld, **limits)


def expert(world: World) -> Callable:
    """The scripted player: (env, task, noise=, rng=) -> a demonstration."""
    if world.environment == "webshop":
        from hiper_jax.act.envs.worlds.webshop import shopper

        return shopper.demonstrate
    from hiper_jax.act.envs.worlds.alfworld import expert as planner

    return planner.demonstrate


def product_codes(world: World) -> list[str]:
    """The names of a shop's products, as actions say them."""
    from hiper_jax.act.envs.worlds.webshop.shop import shared

    shop = shared(*_shop_arguments(world, games_folder(world)))
    return [asin.decode().lower() for asin in shop.store.asins]


def check_data(world: World) -> None:
    """Refuses a world whose games cannot be found, before anything is compiled."""
    if world.environment == "webshop":
        _check_shop(world)
        return
    if not world.generate and not world.data and not os.environ.get("ALFWORLD_DATA"):
        raise FileNotFoundError(
            "ALFWORLD_DATA is not set: point it at ALFWorld's data, or let games be "
            "made with --world.generate"
        )


def _check_shop(world: World) -> None:
    from hiper_jax.act.envs.worlds.webshop.files import find_files

    for package in ("bm25s", "rapidfuzz"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"WebShop needs {package}: pip install 'hiper-jax[webshop]'"
            )
    if world.data or not world.generate:
        folder = world.data or _webshop_data()
        found = find_files(folder, world.shop.items or None)
        if world.shop.human_goals and found.human is None:
            raise FileNotFoundError(
                f"{folder} holds no items_human_ins.json, which human goals are made "
                "from: add the file, or leave world.shop.human_goals off"
            )


def _webshop_data() -> str:
    folder = os.environ.get("WEBSHOP_DATA")
    if not folder:
        raise FileNotFoundError(
            "WEBSHOP_DATA is not set: point it (or --world.data) at the folder with "
            "WebShop's items_shuffle*.json, items_ins_v2*.json and, for human goals, "
            "items_human_ins.json, or let a shop be made with --world.generate"
        )
    return folder
