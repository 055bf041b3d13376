"""Holds the native engine against TextWorld's: the same walks, string for string."""

import os
import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hiper_jax.act.envs.worlds.alfworld import native
from hiper_jax.act.envs.worlds.alfworld.data import SPLITS, VERSION, list_games
from hiper_jax.act.envs.worlds.alfworld.game import read_file
from hiper_jax.act.envs.worlds.alfworld.native import Seen

WALK = 100  # steps; then the next game begins
_NAME = re.compile(r"\b[a-z]+ \d+\b")
_COMMANDS = (
    "go to {1}",
    "open {1}",
    "close {1}",
    "take {0} from {1}",
    "move {0} to {1}",
    "put {0} in/on {1}",
    "use {0}",
    "examine {0}",
    "clean {0} with {1}",
    "heat {0} with {1}",
    "cool {0} with {1}",
    "slice {0} with {1}",
)
_NONSENSE = (
    "",
    "fly to the moon",
    "look\ninventory",
    "go to",
    "a" * 20_000,
    "{a.name} [x] #intro#",
    "examine agent1",
    "ｌｏｏｋ",
    "look;help",
)
_DRESSED = ("{}", " {}", "{}\n", "\t{} ", "{}.", "{}\x00", "\u2003{}")


class Comparison(NamedTuple):
    """How two engines compared."""

    games: int
    steps: int
    difference: str  # where they first differed, in words; "" if nowhere


def find_games(root: str) -> list[str]:
    """The games of all splits below a folder, split by split.

    Raises:
      FileNotFoundError: there are none.
    """
    games: list[str] = []
    for split in SPLITS:
        if os.path.isdir(os.path.join(root, VERSION, split)):
            games += list_games(root, split).games
    if not games:
        raise FileNotFoundError(f"{root} holds no games in ALFWorld's layout.")
    return games


def compare(
    games: Sequence[str],
    *,
    steps: int,
    seed: int = 0,
    engines: tuple | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Walks through games in both engines at once, until they differ.

    The walks take turns: commands that can be given, at random; the file's own
    walkthrough with detours; and anything that a player could type, of all verbs and
    all names, in any letter case, with line breaks and nonsense.

    Args:
      games: paths of game files.
      steps: how many steps to walk, resets not counted.
      seed: of the walks.
      engines: ours and the trusted one; None makes the native one and TextWorld's.
      progress: called with (steps done, steps in all) after each game.

    Returns:
      What was found.

    Raises:
      ImportError: TextWorld is not installed.
      ValueError: there are no games.
    """
    if not games:
        raise ValueError("There are no games to walk through.")
    if engines is None:
        from hiper_jax.act.envs.worlds.alfworld.reference import Engine

        engines = native.Engine(), Engine()
    done = played = 0
    while done < steps:
        game = games[played % len(games)]
        rng = random.Random(f"walk {seed} {played}")
        kind = played % 3
        walkthrough = list(read_file(game).get("walkthrough") or ())
        played += 1
        for engine in engines:
            engine.load(game)
        seen, walk = [engine.reset() for engine in engines], []
        names: set[str] = set()
        while seen[0] == seen[1] and done < steps and len(walk) < WALK:
            command = _next(kind, rng, seen[0], names, walkthrough)
            walk.append(command)
            seen = [engine.step(command) for engine in engines]
            done += 1
        if seen[0] != seen[1]:
            return Comparison(played, done, _describe(game, walk, *seen))
        if progress is not None:
            progress(done, steps)
    return Comparison(played, done, "")


def _next(kind, rng: random.Random, seen: Seen, names: set, walkthrough: list) -> str:
    """The next command of a walk of one of three kinds."""
    if kind == 1 and walkthrough and rng.random() < 0.7:
        return walkthrough.pop(0)
    if kind != 2 or rng.random() < 0.4:
        return rng.choice(seen.commands or ["look"])
    names.update(_NAME.findall("\n".join((seen.text, *seen.commands))))
    if rng.random() < 0.1:
        return rng.choice(_NONSENSE)
    about = [rng.choice(sorted(names)) for _ in range(2)] if names else ["x 1", "y 1"]
    command = rng.choice((*_COMMANDS, *seen.commands)).format(*about)
    command = rng.choice((str, str, str, str.upper, str.title))(command)
    return rng.choice(_DRESSED[:1] * 5 + _DRESSED).format(command)


def _describe(game: str, walk: Sequence[str], ours: Seen, theirs: Seen) -> str:
    lines = [f"{game} after {len(walk)} steps:", *map(repr, walk[-5:])]
    for name, one, other in zip(Seen._fields, ours, theirs, strict=True):
        if one != other:
            lines += [f"{name}: native {one!r}", f"{name}: stock  {other!r}"]
    return "\n  ".join(lines)
