"""Games for one report at the end: known by their hash, in rooms of their own."""

import csv
import dataclasses
import pathlib
import shutil

import pytest

from hiper_jax.act.envs.worlds.alfworld import lesson
from hiper_jax.act.envs.worlds.alfworld.data import SPLITS, TEST, list_games
from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld
from hiper_jax.act.envs.worlds.alfworld.write import make_games
from hiper_jax.experiments import games, recipes

RESULTS = pathlib.Path(__file__).parents[1] / "experiments" / "results"
SMALL = {"receptacles": (6, 9), "objects": (6, 9), "seed": 4}


def listed(root, split):
    return list_games(str(root), split)


def layouts(root, split):
    return set(lesson.layouts(AlfWorld(), listed(root, split).games))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("games") / "all"
    make_games(str(folder), train=48, seen=6, unseen=24, test=24, **SMALL)
    return folder


def test_the_games_of_the_report_are_those_that_the_hash_names(tmp_path):
    """Those of the quickstart, however they are made."""
    world = recipes.recipe("quickstart").world
    world = dataclasses.replace(world, cache=str(tmp_path / "games"), workers=1)
    found = games.manifest(world, TEST)
    with open(RESULTS / "splits.csv", newline="") as file:
        (line,) = [r for r in csv.DictReader(file) if r["split"] == TEST]
    assert (str(len(found.ids)), found.hash) == (line["games"], line["hash"])
    # Nothing else was made for them.
    assert len(list((tmp_path / "games").iterdir())) == 1


def test_no_other_split_has_its_rooms(root):
    of_test = layouts(root, TEST)
    assert len(of_test) > 12
    for split in SPLITS:
        assert not of_test & layouts(root, split)


def test_the_other_splits_are_the_same_bytes_with_and_without_it(root, tmp_path):
    make_games(str(tmp_path / "some"), train=48, seen=6, unseen=24, **SMALL)
    make_games(str(tmp_path / "test"), train=0, seen=0, unseen=0, test=24, **SMALL)
    for split in SPLITS:
        assert listed(root, split).hash == listed(tmp_path / "some", split).hash
    assert listed(root, TEST).hash == listed(tmp_path / "test", TEST).hash


def test_no_run_looks_at_it():
    config = recipes.recipe("quickstart")
    assert TEST not in games.panels(config.world, 10**9, 10**9)


def test_rooms_that_allow_one_layout_only_are_refused(tmp_path):
    with pytest.raises(ValueError, match="allow a wider range"):
        make_games(
            str(tmp_path / "few"),
            train=0,
            seen=0,
            unseen=0,
            test=6,
            seed=0,
            receptacles=(30, 30),
        )


@pytest.mark.parametrize("above", ["immovable-disk", "UnSliced"])
def test_games_are_left_out_by_their_own_folders_name(root, tmp_path, above):
    """Wherever the data lie; the published set marks some tasks so."""
    data = tmp_path / above / "data"
    shutil.copytree(root, data)
    assert listed(data, "valid_unseen").hash == listed(root, "valid_unseen").hash
    (some,) = list((data / "json_2.1.1" / "valid_seen").iterdir())[:1]
    some.rename(some.with_name("movable-" + some.name))
    assert len(listed(data, "valid_seen").games) < 6
