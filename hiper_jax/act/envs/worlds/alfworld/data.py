"""Finds ALFWorld's games on disk: the official data set's or `make_games`'s."""

import hashlib
import json
import os
import random
from typing import NamedTuple

SPLITS = ("train", "valid_seen", "valid_unseen")
TEST = "test_unseen"  # of made games alone: kept for one report
VERSION = "json_2.1.1"
MAX_BYTES = 4_000_000  # of a game's file; ALFWorld's largest has some 130,000
DEFAULT = "~/.cache/alfworld"  # where `alfworld-download` puts the data
TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)


class Manifest(NamedTuple):
    """The games of a split, in a fixed order."""

    split: str
    games: tuple[str, ...]  # paths of game.tw-pddl files
    hash: str  # of the games' places and contents; equal data, equal hash


def list_games(
    root: str | None,
    split: str,
    *,
    protocol: str = "canonical",
    episodes: int = 128,
    seed: int = 0,
) -> Manifest:
    """Lists the playable games of a split.

    Playable is what the stock environment plays: the six task types, no movable or
    sliced objects, a game file that is marked solvable.

    Args:
      root: the folder that holds `json_2.1.1`; None for $ALFWORLD_DATA or,
        without that, where `alfworld-download` puts the data.
      split: "train", "valid_seen" or "valid_unseen"; of made games "test_unseen".
      protocol: "canonical" lists every game once, sorted; "paper" draws `episodes`
        games with replacement, as the published evaluation does.
      episodes: how many games "paper" draws.
      seed: of that draw.

    Returns:
      The manifest.

    Raises:
      FileNotFoundError: the data or the split is not there.
      ValueError: an argument is unknown, or a game file is damaged.
    """
    if split not in (*SPLITS, TEST):
        known = ", ".join((*SPLITS, TEST))
        raise ValueError(f"Unknown split {split!r}: give one of {known}.")
    if protocol not in ("canonical", "paper"):
        raise ValueError(f"Unknown protocol {protocol!r}: give canonical or paper.")
    folder = _find(root, split)
    games, digest = [], hashlib.sha256()
    for path in sorted(_candidates(folder)):
        content = _playable(path)
        if content is not None:
            games.append(path)
            name = os.path.relpath(path, folder).replace(os.sep, "/")
            digest.update(f"{name}\n{hashlib.sha256(content).hexdigest()}\n".encode())
    if not games:
        raise FileNotFoundError(
            f"{folder} holds no playable game: download the data again with "
            "`alfworld-download`, or make games."
        )
    if protocol == "paper":
        games = random.Random(seed).choices(games, k=episodes)
    return Manifest(split, tuple(games), digest.hexdigest())


def _find(root, split) -> str:
    source = "The folder"
    if root is None:
        source = "ALFWORLD_DATA points to"
        root = os.environ.get("ALFWORLD_DATA") or DEFAULT
    root = os.path.abspath(os.path.expanduser(root))
    if os.path.basename(root) == VERSION:
        root = os.path.dirname(root)
    if not os.path.isdir(os.path.join(root, VERSION)):
        raise FileNotFoundError(
            f"{source} {root}, which holds no {VERSION}: run `alfworld-download` or "
            "make games, and set ALFWORLD_DATA to the folder that then holds it."
        )
    folder = os.path.join(root, VERSION, split)
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"{folder} is missing: the data set has no split {split}; download or make "
            "it again."
        )
    return folder


def _candidates(folder) -> list[str]:
    """Games, but for those that their own folder marks as left out."""
    found = []
    for path, _, files in os.walk(folder):
        own = os.path.relpath(path, folder)
        if "game.tw-pddl" in files and "movable" not in own and "Sliced" not in own:
            found.append(os.path.join(path, "game.tw-pddl"))
    return found


def _playable(path) -> bytes | None:
    """The game file's content, or None if the stock environment would skip it."""
    try:
        traj_data = os.path.join(os.path.dirname(path), "traj_data.json")
        if json.loads(_read(traj_data))["task_type"] not in TASK_TYPES:
            return None
        content = _read(path)
        solvable = json.loads(content).get("solvable")
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"The game {os.path.dirname(path)} is damaged ({error!r}): download or "
            "make it again, or remove its folder."
        ) from error
    return content if solvable else None


def _read(path) -> bytes:
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES:,} bytes")
    return content
