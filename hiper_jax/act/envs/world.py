"""A world as one record: all that is particular to one kind of game.

Whatever reads prompts, plays, lists games or warms up an agent asks the record and
knows no world by name. A world is a folder in `worlds/` and a line in `WORLDS`, or a
module of yours that makes a `World`, which is then named `my_module:WORLD`:

    def tasks(settings, split): return named_tasks(f"{split}-{i}" for i in range(100))
    def make_env(settings): return functools.partial(Guess, settings.max_turns)
    WORLD = World("guess", tasks, make_env)

Records are light: what is heavy is imported when a field is called.
"""

import dataclasses
import functools
import hashlib
import importlib
import os
import pathlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from hiper_jax.accept import Count, Name, Positive, Seed, check_fields
from hiper_jax.act.envs.demo import Demo, DemoStep
from hiper_jax.act.envs.env import Env, MakeEnv
from hiper_jax.act.envs.templates import Template, full, terse
from hiper_jax.act.envs.wordings import FULL, TAUGHT, TERSE, Wording

WORLDS = {
    "alfworld": "hiper_jax.act.envs.worlds.alfworld:WORLD",
    "sokoban": "hiper_jax.act.envs.worlds.sokoban:WORLD",
    "webshop": "hiper_jax.act.envs.worlds.webshop:WORLD",
}
DEFAULT = "alfworld"

Say = Callable[[str], Any]  # shows a line to whoever waits


@dataclasses.dataclass(frozen=True)
class WorldSettings:
    """What every world has; a world's own settings are a subclass with more fields."""

    environment: str = ""
    """Which world: one that comes with us, or yours as `my_module:WORLD`."""
    data: str = ""
    """Folder with games in the world's own layout; empty: where the world's own
    variable points if `generate` is off, else games made for this run's settings and
    kept in `cache`."""
    generate: bool = True
    """Make games rather than read those that the world was published with."""
    cache: Name = "games"
    """Where made games are kept, so that the next run finds them."""
    seed: Seed = 0
    """Of all that is made."""
    max_turns: Count = 30
    """Turns until an episode is cut."""
    reward: Positive = 1.0
    """Reward for winning; the paper's is 10."""
    max_reward: Positive = 1e6
    """Largest size of a reward; an episode with a larger one, or with one that is no
    number, is dropped."""
    workers: Count = 2
    """Processes that run games."""
    in_process: bool = False
    """Run games in the process that trains, without workers: for environments that a
    notebook defines."""

    def __post_init__(self):
        check_fields(self)

    @property
    def turns(self) -> int:
        """Turns of an episode at most; a world may allow more than `max_turns`."""
        return self.max_turns


class Tasks(NamedTuple):
    """The tasks of a split, in a fixed order."""

    ids: tuple[str, ...]  # what `Env.reset` takes; no id is also in another split
    hash: str  # of what the tasks are; equal tasks, equal hash, on any machine


def named_tasks(ids: Iterable[str]) -> Tasks:
    """Tasks of which the ids say all: the hash is that of the ids."""
    ids = tuple(ids)
    return Tasks(ids, hashlib.sha256("\n".join(ids).encode()).hexdigest())


class Splits(NamedTuple):
    """The names of a world's splits."""

    train: str = "train"
    # Split -> which setting of a run says how many of its tasks are played.
    panels: Mapping[str, Literal["eval_episodes", "eval_seen_episodes"]] = {
        "valid_unseen": "eval_episodes"
    }
    kept: Sequence[str] = ()  # for one report at the end: no run looks at them


class Published(NamedTuple):
    """What the published reader leaves behind in this world where a block is missing.

    For `mode="paper"` alone; see `hiper_jax.act.format`.
    """

    # The subgoal without a switch block; None: the last 30 characters of the action.
    subgoal: str | None = None
    switch: Literal["", "KEEP"] = ""  # what a switch of another word reads as


class Expert(Protocol):
    """A scripted player; defined in a module, for it is sent to worker processes."""

    def __call__(
        self, env: Env, task: str, *, noise: float, rng: random.Random
    ) -> Demo:
        """Plays `task`; a share `noise` of the turns is played at random."""
        ...


class Practice(NamedTuple):
    """What a scripted player plays for a warm start."""

    tasks: Sequence[str]  # ids, repeated if they are to be played more than once
    keep: Callable[[Demo], bool] = lambda demo: True  # False leaves the episode out


class Lesson(NamedTuple):
    """How the world's warm start is taught, where the expert alone does not say."""

    # Texts that recur: each may become one token.
    phrases: Sequence[str] = ("task:", "was:", "did:", "now:", "subgoal:", "can:")
    # settings -> names that are one token each, whatever they are made of.
    names: Callable[[Any], Sequence[str]] = lambda settings: ()
    # (settings, rounds, say) -> what is played; None: the training tasks, each round.
    practice: Callable[[Any, int, Say], Practice] | None = None
    # The subgoal and action of a player in haste, or None where nothing is to be
    # rushed: what a warm start teaches now and then, so that there is something to
    # unlearn.
    haste: Callable[[Demo, DemoStep], tuple[str, str] | None] = lambda demo, step: None
    # The strategy that a demonstration followed, as its player might have put it.
    strategy: Callable[[Demo], str] = lambda demo: demo.steps[0].subgoal
    recipe: str = "quickstart"  # whose world, reading and learning settings it takes
    changes: Mapping[str, Any] = {}  # other settings of a warm start, by name


class Command(NamedTuple):
    """Something that the command line offers for a world."""

    settings: type  # a dataclass of flags; its text is the command's help
    run: Callable[[Any, Say], Any]  # (settings, say): does it


def _accept(settings: WorldSettings) -> None:
    del settings


def _in_no_folder(settings: WorldSettings, say: Say) -> None:
    del settings, say


def _not_mine(word: str, more: Sequence[str]) -> None:
    del word, more


class World(NamedTuple):
    """All that is particular to one world. S is its class of settings.

    Wherever a field takes settings they are an S, with every field filled in.
    """

    # How it is called where a short name serves.
    name: str
    # (S, split) -> the tasks of the split. ValueError: no such split.
    tasks: Callable[[Any, str], Tasks]
    # S -> what makes one `Env`; picklable, for worker processes call it.
    make_env: Callable[[Any], MakeEnv]
    # S; every field has a default.
    settings: type[WorldSettings] = WorldSettings
    # Raises ValueError, FileNotFoundError or ImportError, in one line that says what
    # to do, if the settings cannot work; called before anything expensive.
    check: Callable[[Any], Any] = _accept
    # (S, say) -> the folder of the tasks, which are made there if need be, or None
    # where they lie in no folder of the run's.
    prepare: Callable[[Any, Say], pathlib.Path | None] = _in_no_folder
    # The training split, and the splits that a run is examined on.
    splits: Splits = Splits()
    # The name of a wording -> what writes a prompt so.
    templates: Mapping[str, Template] = {"full": full, "terse": terse}
    # How many of the last characters of an unreadable response are sent as the action.
    tail: int = 30
    # What else the published reader does with broken responses here.
    published: Published = Published()
    # The scripted player; None: there is none, and no warm start can be made.
    expert: Expert | None = None
    # How a warm start is taught.
    lesson: Lesson = Lesson()
    # The folder of its warm start among the assets; "" starts from the default
    # world's, whose vocabulary is of bytes and reads any text.
    start: str = ""
    # "verb" or "noun verb" -> a command of `hiper`.
    commands: Mapping[str, Command] = {}
    # (a word, more words) -> the environment and the task they mean, for `hiper play`;
    # None: the words mean nothing here.
    player: Callable[[str, Sequence[str]], tuple[Env, str] | None] = _not_mine
    # (S, task) -> what solves the task, in words, for a teacher's eyes and no player's.
    # None: nobody knows.
    solution: Callable[[Any, str], str] | None = None
    # (a path, what makes an `Env`) -> demonstrations by players whose records were
    # published for this world. FileNotFoundError, ValueError: there are none, or they
    # are damaged. None: nothing was published.
    recorded: Callable[[pathlib.Path, MakeEnv], Iterator[Demo]] | None = None
    # Distributions whose versions belong into a run's record.
    packages: Sequence[str] = ()
    # As `templates`, for the format without a plan.
    flat: Mapping[str, Template] = {
        "full": functools.partial(full, plan=False),
        "terse": functools.partial(terse, plan=False),
    }
    # As `start`, of the warm start that answers without a plan.
    flat_start: str = ""
    # The name of a wording -> how strategies are spoken of in it; of the names of
    # `templates` each is for prompts of that style.
    strategies: Mapping[str, Wording] = {
        "full": FULL,
        "terse": TERSE,
        "taught": TAUGHT,
    }


def load_world(reference: str) -> World:
    """Finds a world by its name or as `my_module:WORLD`.

    A module of yours is found where Python finds modules, and in the current folder.

    Raises:
      ValueError: there is no such world, or what is there is no good `World`; one line
        says what to do.
      ImportError: the module is missing or cannot be imported.
    """
    return _load(reference, os.getcwd())


@functools.lru_cache(maxsize=64)
def _load(reference: str, folder: str) -> World:
    place = WORLDS.get(reference, reference)
    module_name, colon, attribute = place.partition(":")
    if not (colon and module_name and attribute):
        raise ValueError(
            f"there is no world {reference!r}; choose one of {', '.join(WORLDS)}, or "
            "name your own as my_module:WORLD"
        )
    module = _import(module_name, reference, folder)
    if not hasattr(module, attribute):
        raise ValueError(
            f"world {reference}: {getattr(module, '__file__', module_name)} has no "
            f"{attribute}: assign a hiper_jax.act.envs.world.World to that name"
        )
    world = getattr(module, attribute)
    if not isinstance(world, World):
        raise ValueError(
            f"world {reference}: {attribute} is {_what(world)}, not a World: make it "
            "with hiper_jax.act.envs.world.World(name, tasks, make_env, ...)"
        )
    _check_fields(world, reference)
    return world


def _import(name: str, reference: str, folder: str):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not _is_missing(name, error):
            raise _failed(reference, name, error) from error
    except Exception as error:
        raise _failed(reference, name, error) from error
    if folder not in sys.path:
        # Worker processes are given this list, so they find the module, too.
        sys.path.append(folder)
        return _import(name, reference, folder)
    raise ModuleNotFoundError(
        f"world {reference}: there is no module {name}: go to the folder that holds "
        f"{name.partition('.')[0]}.py, or install it"
    )


def _is_missing(name: str, error: ModuleNotFoundError) -> bool:
    """Whether the module itself is missing, rather than one that it imports."""
    return error.name is not None and (name + ".").startswith(error.name + ".")


def _failed(reference: str, name: str, error: Exception) -> ImportError:
    return ImportError(
        f"world {reference}: {name} cannot be imported: {type(error).__name__}: {error}"
    )


def _check_fields(world: World, reference: str) -> None:
    wanted = {
        "name": (str, "a text"),
        "splits": (Splits, "a Splits"),
        "published": (Published, "a Published"),
        "lesson": (Lesson, "a Lesson"),
        "templates": (Mapping, "a mapping from a style's name to a template"),
        "flat": (Mapping, "a mapping from a style's name to a template"),
        "strategies": (Mapping, "a mapping from a style's name to a Wording"),
        "commands": (Mapping, "a mapping from a command's name to a Command"),
        "start": (str, "a text"),
        "flat_start": (str, "a text"),
    }
    for field, (kind, words) in wanted.items():
        if not isinstance(getattr(world, field), kind):
            raise _bad_field(world, reference, field, words)
    if not isinstance(world.tail, int) or world.tail < 0:
        raise _bad_field(world, reference, "tail", "a number of characters")
    for field in ("tasks", "make_env", "check", "prepare", "player"):
        if not callable(getattr(world, field)):
            raise _bad_field(world, reference, field, "a function")
    for field in ("expert", "solution", "recorded"):
        value = getattr(world, field)
        if value is not None and not callable(value):
            raise _bad_field(world, reference, field, "a function or None")
    for field in ("templates", "flat"):
        wordings = getattr(world, field)
        if not wordings or not all(map(callable, wordings.values())):
            raise _bad_field(world, reference, field, "functions by their style")
    settings = world.settings
    if not (isinstance(settings, type) and issubclass(settings, WorldSettings)):
        raise _bad_field(world, reference, "settings", "a subclass of WorldSettings")
    for field in dataclasses.fields(settings):
        missing = dataclasses.MISSING
        if field.default is missing and field.default_factory is missing:
            raise ValueError(
                f"world {reference}: the setting {field.name} of {settings.__name__} "
                "has no default: give it one"
            )


def _bad_field(world, reference: str, field: str, words: str) -> ValueError:
    value = getattr(world, field)
    return ValueError(
        f"world {reference}: its field {field} must be {words}, not {_what(value)}"
    )


def _what(value: Any) -> str:
    return f"{value!r:.60} (a {type(value).__name__})"


def settings_for(
    reference: str, like: WorldSettings | None = None, **values: Any
) -> WorldSettings:
    """The settings of a world.

    Args:
      reference: which world, as `load_world` takes it.
      like: settings of another world: where they differ from their own defaults in
        what every world has, they are taken over.
      **values: fields that differ from the defaults.
    """
    taken = {}
    if like is not None:
        for field in dataclasses.fields(WorldSettings):
            value = getattr(like, field.name)
            if value != getattr(type(like)(), field.name):
                taken[field.name] = value
    taken |= {**values, "environment": reference}
    return load_world(reference).settings(**taken)


def world_of(settings: WorldSettings) -> World:
    """The world that some settings are for.

    Raises:
      ValueError: they are of another world's class.
    """
    world = load_world(settings.environment)
    if not isinstance(settings, world.settings):
        raise ValueError(
            f"the settings of {settings.environment} are a {world.settings.__name__}, "
            f"not a {type(settings).__name__}: make them with settings_for("
            f"{settings.environment!r})"
        )
    return world
