"""ALFWorld: household tasks in text; games are made, or the published ones read.

The record below is all that the rest of the project sees of it.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from hiper_jax._disk import made
from hiper_jax.accept import (
    Count,
    Name,
    Range,
    Seed,
    SettingError,
    Several,
    SeveralOrNone,
    Span,
    check_fields,
)
from hiper_jax.act.envs.env import Env, MakeEnv
from hiper_jax.act.envs.world import (
    Command,
    Lesson,
    Practice,
    Say,
    Splits,
    Tasks,
    World,
    WorldSettings,
)
from hiper_jax.act.envs.worlds.alfworld import expert, lesson, prompt, recorded

_REFERENCE = ("textworld", "alfworld")  # what the engine "textworld" needs
Goals = Annotated[int, Range(1, 3)]
_COUNTS = ("train", "seen", "unseen", "test")
_RECIPE = ("train", "seen", "unseen", "receptacles", "objects", "seed")


@dataclasses.dataclass(frozen=True)
class AlfWorldSettings(WorldSettings):
    """Which games are played."""

    environment: str = "alfworld"
    """Which world: one that comes with us, or yours as `my_module:WORLD`."""
    data: str = ""
    """Folder with games in ALFWorld's layout; empty: $ALFWORLD_DATA if `generate` is
    off, else games made for this run's settings and kept in `cache`."""
    generate: bool = True
    """Make games rather than read ALFWorld's own."""
    train: Several = 400
    """Made games to train on."""
    seen: SeveralOrNone = 60
    """Made games in rooms that training has seen."""
    unseen: SeveralOrNone = 200
    """Made games in rooms that training has not seen."""
    test: Several = 500
    """Made games of the split test_unseen, in rooms that no other split has; made when
    it is first played. No run looks at it: it is for one report at the end."""
    receptacles: Span = (6, 9)
    """Fewest and most receptacles in a made room."""
    objects: Span = (6, 9)
    """Fewest and most objects in a made room."""
    goals: Goals = 1
    """Goals of a made game, each due once the one before it is reached, with
    `max_turns` turns for each; only the last is rewarded."""
    in_process: bool = True
    """Run games in the process that trains, without workers, which cost more than they
    save; `engine="textworld"` is better off with `--world.no-in-process`."""
    engine: Literal["native", "textworld"] = "native"
    """What plays: our own engine, or TextWorld's, which says the same and is slower by
    far (extra `reference`)."""

    def __post_init__(self):
        super().__post_init__()
        own = not (self.generate or self.data)
        if self.goals > 1 and (own or self.engine == "textworld"):
            raise SettingError(
                type(self),
                "goals",
                f"must be 1 unless games are made and our own engine plays them, got "
                f"{self.goals}: leave generate and engine as they are",
            )

    @property
    def turns(self) -> int:
        """Turns of an episode at most."""
        return self.max_turns * self.goals


@dataclasses.dataclass(frozen=True)
class MakeGames:
    """Makes games in ALFWorld's own on-disk format."""

    out: Name
    """Folder to make; usable as ALFWORLD_DATA."""
    train: SeveralOrNone = 100
    """Games to train on."""
    seen: SeveralOrNone = 20
    """Games in rooms that training has seen."""
    unseen: SeveralOrNone = 50
    """Games in rooms that training has not seen."""
    test: SeveralOrNone = 0
    """Games in rooms that no other split has, for one report (test_unseen)."""
    seed: Seed = 0
    """Of everything random."""
    receptacles: Span = (6, 12)
    """Fewest and most receptacles in a room."""
    objects: Span = (6, 12)
    """Fewest and most objects in a room."""
    goals: Goals = 1
    """Goals of a game, each due once the one before it is reached."""
    stock: bool = False
    """Write ALFWorld's domain and grammar into the games, so that its own tools play
    them, too (extra `reference`)."""
    workers: Count = 2
    """Processes that prove games solvable."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class DiffGames:
    """Plays games in our engine and TextWorld's at once, until they differ."""

    games: Name
    """Folder with games in ALFWorld's layout."""
    steps: Count = 10_000
    """Steps to walk."""
    seed: Seed = 0
    """Of the walks."""

    def __post_init__(self):
        check_fields(self)


def make(
    folder: str | os.PathLike,
    *,
    say: Callable[[str], Any],
    workers: int = 2,
    **recipe: Any,
) -> dict[str, int]:
    """Makes games, and says how far it is.

    Args:
      folder: where; see `write.make_games` for this and the recipe.
      say: shows a line.
      workers: processes that solve games.
      **recipe: what decides the games.

    Returns:
      The number of games by split.
    """
    from hiper_jax.act.envs.worlds.alfworld.write import make_games

    progress = _shower(say, "games")
    return make_games(os.fspath(folder), workers=workers, progress=progress, **recipe)


def _shower(say: Say, what: str) -> Callable[[int, int], None]:
    """Says now and then how many of all are done."""
    began, shown = time.monotonic(), [0.0]

    def progress(done: int, total: int):
        now = time.monotonic()
        if now - shown[0] > 2 or done == total:
            shown[0] = now
            left = (now - began) / max(done, 1) * (total - done)
            say(f"  {done}/{total} {what}, {left:.0f} s left")

    return progress


def _make_command(command: MakeGames, say: Say) -> None:
    recipe = dataclasses.asdict(command)
    for split, number in make(recipe.pop("out"), say=say, **recipe).items():
        say(f"{split}: {number} games")


def _diff_command(command: DiffGames, say: Say) -> None:
    from hiper_jax.act.envs.worlds.alfworld import versus

    games = versus.find_games(command.games)
    found = versus.compare(
        games, steps=command.steps, seed=command.seed, progress=_shower(say, "steps")
    )
    if found.difference:
        raise ValueError(found.difference)
    say(f"{found.steps} steps in {found.games} walks: no difference")


def _prepare(settings: AlfWorldSettings, say: Say) -> pathlib.Path | None:
    """The folder of the games; None for `$ALFWORLD_DATA`."""
    if settings.data:
        return pathlib.Path(settings.data)
    if not settings.generate:
        return None
    return _made(_recipe(settings), settings, say)


def _recipe(settings: AlfWorldSettings) -> dict[str, Any]:
    """What decides the made games; that they have one goal goes without saying."""
    goals = {"goals": settings.goals} if settings.goals > 1 else {}
    return {name: getattr(settings, name) for name in _RECIPE} | goals


def _made(recipe: dict[str, Any], settings: AlfWorldSettings, say: Say) -> pathlib.Path:
    """The folder of the games of a recipe, made if they are not there."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    folder = pathlib.Path(settings.cache) / digest[:12]

    def make_at(place: pathlib.Path) -> None:
        number = sum(recipe[name] for name in _COUNTS if name in recipe)
        say(f"making {number} games in {folder}")
        make(place, workers=settings.workers, say=say, **recipe)

    return made(folder, make_at, mark="made.json")


def _tasks(settings: AlfWorldSettings, split: str) -> Tasks:
    from hiper_jax.act.envs.worlds.alfworld.data import TEST, list_games

    if split == TEST and settings.generate and not settings.data:
        alone = {"train": 0, "seen": 0, "unseen": 0, "test": settings.test}
        rest = {k: v for k, v in _recipe(settings).items() if k not in alone}
        folder = _made(alone | rest, settings, lambda line: None)
    else:
        folder = _prepare(settings, lambda line: None)
    listed = list_games(None if folder is None else str(folder), split)
    return Tasks(listed.games, listed.hash)


def _make_env(settings: AlfWorldSettings) -> MakeEnv:
    from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld

    return functools.partial(
        AlfWorld,
        max_turns=settings.max_turns,
        reward=settings.reward,
        engine=settings.engine,
    )


def _check(settings: AlfWorldSettings) -> None:
    for package in _REFERENCE if settings.engine == "textworld" else ():
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f'engine="textworld" needs {package}: pip install '
                "'hiper-jax[reference]'"
            )
    made = settings.generate or settings.data
    if not made and not os.environ.get("ALFWORLD_DATA"):
        raise FileNotFoundError(
            "ALFWORLD_DATA is not set: point it at ALFWorld's data, or let games be "
            "made with --world.generate"
        )


def _practice(settings: AlfWorldSettings, rounds: int, say: Say) -> Practice:
    """Games of other seeds, in rooms unlike those of the unseen split."""
    unseen = _tasks(settings, "valid_unseen").ids
    held_out = set(lesson.layouts(_make_env(settings)(), unseen))
    games: list[str] = []
    for i in range(rounds):
        other = dataclasses.replace(
            settings, seed=settings.seed + 100 + i, seen=0, unseen=0
        )
        _prepare(other, say)
        games += _tasks(other, "train").ids
    return Practice(
        games,
        lambda demo: lesson.layout(demo.steps[0].admissible_actions) not in held_out,
    )


def _solution(settings: AlfWorldSettings, task: str) -> str:
    """The walkthrough that stands in the game's file."""
    from hiper_jax.act.envs.worlds.alfworld.game import read_file

    steps = read_file(task).get("walkthrough")
    if not isinstance(steps, list) or not steps:
        raise ValueError(
            f"{task} holds no walkthrough to show a teacher: choose another estimator"
        )
    return "; ".join(map(str, steps))


def _player(word: str, more: Sequence[str]) -> tuple[Env, str] | None:
    """A game.tw-pddl file, or the first one below a folder."""
    path = pathlib.Path(word)
    if path.is_dir():
        path = min(path.glob("**/game.tw-pddl"), default=path)
    if not path.is_file():
        return None
    from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld

    return AlfWorld(max_turns=50), str(path)


WORLD = World(
    name="alfworld",
    settings=AlfWorldSettings,
    tasks=_tasks,
    make_env=_make_env,
    check=_check,
    prepare=_prepare,
    splits=Splits(
        panels={"valid_unseen": "eval_episodes", "valid_seen": "eval_seen_episodes"},
        kept=("test_unseen",),
    ),
    templates={"full": prompt.full, "terse": prompt.terse},
    flat={
        "full": functools.partial(prompt.full, plan=False),
        "terse": functools.partial(prompt.terse, plan=False),
    },
    strategies=prompt.STRATEGIES,
    expert=expert.demonstrate,
    solution=_solution,
    recorded=recorded.recorded,
    lesson=Lesson(
        phrases=lesson.PHRASES,
        practice=_practice,
        haste=lesson.passing_by,
        strategy=lesson.in_short,
    ),
    start="warmstart",
    flat_start="warmstart-flat",
    commands={
        "games make": Command(MakeGames, _make_command),
        "games diff": Command(DiffGames, _diff_command),
    },
    player=_player,
    packages=_REFERENCE,
)
