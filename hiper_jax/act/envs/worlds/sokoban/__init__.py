"""Sokoban as text: boxes to push onto goals, in levels drawn so that they can be.

The record below is all that the rest of the project sees of it.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated

from hiper_jax._disk import made
from hiper_jax.accept import Range, Several, Span
from hiper_jax.act.envs import templates
from hiper_jax.act.envs.env import Env, MakeEnv
from hiper_jax.act.envs.world import (
    Say,
    Splits,
    Tasks,
    World,
    WorldSettings,
    named_tasks,
)
from hiper_jax.act.envs.worlds.sokoban import player, prompt
from hiper_jax.act.envs.worlds.sokoban.board import SEPARATOR, read
from hiper_jax.act.envs.worlds.sokoban.world import Sokoban

Side = Annotated[int, Range(4, 20)]
_SPLITS = ("valid_unseen", "train")  # in the order in which they are drawn
_RECIPE = ("levels", "unseen", "width", "height", "boxes", "seed")


@dataclasses.dataclass(frozen=True)
class SokobanSettings(WorldSettings):
    """Which levels are played."""

    environment: str = "sokoban"
    """Which world: one that comes with us, or yours as `my_module:WORLD`."""
    data: str = ""
    """Folder with train.txt and valid_unseen.txt, a level a line, rows joined by `|`;
    empty: levels drawn for this run's settings and kept in `cache`."""
    in_process: bool = True
    """Run games in the process that trains, without workers, which cost more than they
    save."""
    levels: Several = 400
    """Drawn levels to train on."""
    unseen: Several = 100
    """Drawn levels that training has none of, also not turned or mirrored."""
    width: Side = 6
    """Columns of a drawn level, the walls around it included."""
    height: Side = 6
    """Rows of a drawn level, the walls around it included."""
    boxes: Span = (1, 2)
    """Fewest and most boxes of a drawn level."""


def _prepare(settings: SokobanSettings, say: Say) -> pathlib.Path:
    """The folder of the levels, which are drawn there on first use."""
    if settings.data:
        return pathlib.Path(settings.data)
    recipe = {name: getattr(settings, name) for name in _RECIPE}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    folder = pathlib.Path(settings.cache) / f"sokoban-{digest[:12]}"
    number = settings.levels + settings.unseen

    def draw(place: pathlib.Path) -> None:
        say(f"drawing {number} levels in {folder}")
        _draw(place, settings)

    return made(folder, draw)


def _draw(folder: pathlib.Path, settings: SokobanSettings) -> None:
    """Writes the levels of both splits into a new folder."""
    from hiper_jax.act.envs.worlds.sokoban.rooms import make_levels

    levels = make_levels(
        number=settings.unseen + settings.levels,
        width=settings.width,
        height=settings.height,
        boxes=settings.boxes,
        seed=settings.seed,
    )
    parts = levels[: settings.unseen], levels[settings.unseen :]
    folder.mkdir()
    for split, part in zip(_SPLITS, parts, strict=True):
        (folder / f"{split}.txt").write_text("\n".join(part) + "\n")


def _tasks(settings: SokobanSettings, split: str) -> Tasks:
    if split not in _SPLITS:
        raise ValueError(
            f"Unknown split {split!r}: give one of {', '.join(sorted(_SPLITS))}."
        )
    file = _prepare(settings, lambda line: None) / f"{split}.txt"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: write one level a line into it.")
    levels = [line for line in file.read_text().splitlines() if line.strip()]
    for level in levels:
        read(level)
    if not levels:
        raise ValueError(f"{file} holds no level: write one a line into it.")
    return named_tasks(levels)


def _make_env(settings: SokobanSettings) -> MakeEnv:
    return functools.partial(
        Sokoban, max_turns=settings.max_turns, reward=settings.reward
    )


def _check(settings: SokobanSettings) -> None:
    if settings.data:
        _tasks(settings, "train")
    elif not settings.generate:
        raise FileNotFoundError(
            "Sokoban has no levels of its own to read: name a folder of levels with "
            "--world.data, or let some be drawn with --world.generate"
        )


def _solution(settings: SokobanSettings, task: str) -> str:
    """The steps of the solver."""
    del settings
    return "; ".join(action for action, _ in player.moves(read(task)) or ())


def _player(word: str, more: Sequence[str]) -> tuple[Env, str] | None:
    """A level in signs, its rows joined by `|`."""
    del more
    if SEPARATOR not in word:
        return None
    read(word)
    return Sokoban(max_turns=100), word


WORLD = World(
    name="sokoban",
    settings=SokobanSettings,
    tasks=_tasks,
    make_env=_make_env,
    check=_check,
    prepare=_prepare,
    splits=Splits(panels={"valid_unseen": "eval_episodes"}),
    templates={"full": templates.full, "terse": prompt.terse},
    flat={
        "full": functools.partial(templates.full, plan=False),
        "terse": functools.partial(prompt.terse, plan=False),
    },
    expert=player.demonstrate,
    solution=_solution,
    player=_player,
)
