"""A small data set of made ALFWorld games."""

import json
import pathlib

from hiper_jax.act.envs.worlds.alfworld import data, write

SMALL = dict(receptacles=(6, 8), objects=(5, 8))


def make(above: pathlib.Path, **options) -> str:
    """Each task type in each split, each kind of room in training."""
    out = str(above / "data")
    write.make_games(out, train=24, seen=6, unseen=12, seed=3, **options, **SMALL)
    return out


def games_of(root, split):
    return data.list_games(root, split).games


def read(path):
    with open(path) as file:
        return json.load(file)
