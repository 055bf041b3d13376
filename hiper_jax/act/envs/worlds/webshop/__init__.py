"""WebShop: a shop to search and buy in, native and without a JVM.

    shop = load(directory)             products, prices, goals, search: shared
    env = WebShop(shop, goal)          one customer

The generator (`make`), the scripted expert (`shopper`) and the task lists (`splits`)
are modules of their own. The record below is all that the rest of the project sees.
"""

import dataclasses
import functools
import importlib
import importlib.util
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from hiper_jax.accept import Name, Positive, Seed, Several, check_fields
from hiper_jax.act.envs import templates
from hiper_jax.act.envs.env import Env, MakeEnv
from hiper_jax.act.envs.world import (
    Command,
    Lesson,
    Published,
    Say,
    Splits,
    Tasks,
    World,
    WorldSettings,
)
from hiper_jax.act.envs.worlds.webshop import prompt, recorded, shopper

if TYPE_CHECKING:
    from hiper_jax.act.envs.worlds.webshop.shop import Shop, load
    from hiper_jax.act.envs.worlds.webshop.world import WebShop, make_env

__all__ = ["WORLD", "Shop", "WebShop", "load", "make_env"]

_NEEDED = ("bm25s", "rapidfuzz")
_EXPORTS = {"Shop": "shop", "load": "shop", "WebShop": "world", "make_env": "world"}


def __getattr__(name: str) -> Any:
    """The engine's names, imported when they are asked for: they cost numpy."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


@dataclasses.dataclass(frozen=True)
class ShopSettings:
    """Which shop, and which of its goals."""

    products: Several = 300
    """Products of a made shop."""
    items: str = ""
    """The product file's name, where the folder holds several."""
    human_goals: bool = False
    """Goals that people wrote, rather than those made from attributes and options."""
    partial_reward: bool = False
    """A purchase that scores s earns s times the reward; published: only s = 1 does."""
    protocol: Literal["canonical", "paper"] = "canonical"
    """`canonical`: no goal is both for training and for validation. `paper`: the lists
    of the published code's first workers, one shuffle for training and another for
    validation, so that most validation goals are trained on."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class WebShopSettings(WorldSettings):
    """Which goals are played."""

    environment: str = "webshop"
    """Which world: one that comes with us, or yours as `my_module:WORLD`."""
    data: str = ""
    """Folder with WebShop's data files; empty: $WEBSHOP_DATA if `generate` is off,
    else a shop made for this run's settings and kept in `cache`."""
    generate: bool = True
    """Make a shop rather than read WebShop's own."""
    seed: Seed = 0
    """Of the made shop, and of every shop's prices and bounds."""
    reward: Positive = 1.0
    """Reward for a score of exactly 1; the paper's is 10."""
    shop: ShopSettings = ShopSettings()
    """Which shop, and which of its goals."""


@dataclasses.dataclass(frozen=True)
class MakeShop:
    """Makes a shop in WebShop's own file formats."""

    out: Name
    """Folder to make."""
    products: Several = 1000
    """Products on sale."""
    seed: Seed = 0
    """Of everything random."""

    def __post_init__(self):
        check_fields(self)


def _make_command(command: MakeShop, say: Say) -> None:
    from hiper_jax.act.envs.worlds.webshop.make import make_shop

    say(str(make_shop(command.out, products=command.products, seed=command.seed)))


def _prepare(settings: WebShopSettings, say: Say) -> pathlib.Path:
    if settings.data:
        return pathlib.Path(settings.data)
    if not settings.generate:
        return pathlib.Path(_published_data())
    products, seed = settings.shop.products, settings.seed
    folder = pathlib.Path(settings.cache) / f"shop-{products}-{seed}"
    if not folder.is_dir():
        from hiper_jax.act.envs.worlds.webshop.make import make_shop

        say(f"making a shop of {products} products in {folder}")
        make_shop(folder, products=products, seed=seed)
    return folder


def _opened(settings: WebShopSettings) -> tuple[str, bool, int, str | None]:
    """What the processes of a run open the same shop with."""
    shop = settings.shop
    folder = _prepare(settings, lambda line: None)
    return str(folder), shop.human_goals, settings.seed, shop.items or None


def _tasks(settings: WebShopSettings, split: str) -> Tasks:
    from hiper_jax.act.envs.worlds.webshop.shop import shared
    from hiper_jax.act.envs.worlds.webshop.splits import list_goals

    listed = list_goals(
        shared(*_opened(settings)),
        split,
        protocol=settings.shop.protocol,
        seed=settings.seed,
    )
    return Tasks(listed.games, listed.hash)


def _make_env(settings: WebShopSettings) -> MakeEnv:
    from hiper_jax.act.envs.worlds.webshop.world import make_env

    folder, human_goals, seed, items = _opened(settings)
    return functools.partial(
        make_env,
        folder,
        human_goals=human_goals,
        seed=seed,
        items=items,
        partial=settings.shop.partial_reward,
        max_turns=settings.max_turns,
        reward=settings.reward,
    )


def _check(settings: WebShopSettings) -> None:
    from hiper_jax.act.envs.worlds.webshop.files import find_files

    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"WebShop needs {package}: pip install 'hiper-jax[webshop]'"
            )
    if settings.data or not settings.generate:
        folder = settings.data or _published_data()
        found = find_files(folder, settings.shop.items or None)
        if settings.shop.human_goals and found.human is None:
            raise FileNotFoundError(
                f"{folder} holds no items_human_ins.json, which human goals are made "
                "from: add the file, or leave world.shop.human_goals off"
            )


def _published_data() -> str:
    folder = os.environ.get("WEBSHOP_DATA")
    if not folder:
        raise FileNotFoundError(
            "WEBSHOP_DATA is not set: point it (or --world.data) at the folder with "
            "WebShop's items_shuffle*.json, items_ins_v2*.json and, for human goals, "
            "items_human_ins.json, or let a shop be made with --world.generate"
        )
    return folder


def _codes(settings: WebShopSettings) -> list[str]:
    """The products' codes, as actions say them: in pieces they would say nothing."""
    from hiper_jax.act.envs.worlds.webshop.shop import shared

    shop = shared(*_opened(settings))
    return [asin.decode().lower() for asin in shop.store.asins]


def _solution(settings: WebShopSettings, task: str) -> str:
    """The product's code, the attributes asked for and the options to choose."""
    from hiper_jax.act.envs.worlds.webshop.shop import shared

    goal = shared(*_opened(settings)).goal(task)
    options = goal["goal_options"] or []
    if isinstance(options, dict):
        options = [f"{name}: {value}" for name, value in options.items()]
    return "; ".join([goal["asin"].lower(), *goal["attributes"], *options])


def _player(word: str, more: Sequence[str]) -> tuple[Env, str] | None:
    """A shop's folder and, optionally, one of its goals."""
    if not any(pathlib.Path(word).glob("items_shuffle*.json")):
        return None
    from hiper_jax.act.envs.worlds.webshop.shop import load
    from hiper_jax.act.envs.worlds.webshop.splits import list_goals
    from hiper_jax.act.envs.worlds.webshop.world import WebShop

    shop = load(word)
    return WebShop(shop), more[0] if more else list_goals(shop, "valid").games[0]


WORLD = World(
    name="webshop",
    settings=WebShopSettings,
    tasks=_tasks,
    make_env=_make_env,
    check=_check,
    prepare=_prepare,
    splits=Splits(panels={"valid": "eval_episodes"}),
    templates={"full": templates.full, "terse": prompt.terse},
    flat={
        "full": functools.partial(templates.full, plan=False),
        "terse": functools.partial(prompt.terse, plan=False),
    },
    tail=20,
    published=Published(subgoal="None", switch="KEEP"),
    expert=shopper.demonstrate,
    solution=_solution,
    recorded=recorded.recorded,
    lesson=Lesson(
        phrases=prompt.PHRASES,
        names=_codes,
        haste=shopper.hasty,
        recipe="webshop-quickstart",
        changes={
            "out": "runs/warmstart-webshop",
            "practice_worlds": 3,
            "vocab_size": 1536,
            # Imitation alone would leave little to learn: with these steps and no
            # haste, 85 % of goals are won.
            "haste": 0.4,
            "steps": 1800,
        },
    ),
    start="warmstart-webshop",
    commands={"shop make": Command(MakeShop, _make_command)},
    player=_player,
    packages=_NEEDED,
)
