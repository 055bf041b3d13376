"""Lists of games, and what is said of games that are missing or broken."""

import json
import os
import shutil

import made_games
import pytest
from made_games import games_of, read

from hiper_jax.act.envs.worlds.alfworld import data
from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return made_games.make(tmp_path_factory.mktemp("alfworld"))


@pytest.fixture(scope="module")
def env():
    return AlfWorld()


def test_listing_is_sorted_and_its_hash_follows_the_content(root, tmp_path):
    manifest = data.list_games(root, "valid_seen")
    assert list(manifest.games) == sorted(manifest.games)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    same = data.list_games(str(copy / data.VERSION), "valid_seen")
    assert same.hash == manifest.hash
    content = read(same.games[0])
    content["solvable"] = False
    with open(same.games[0], "w") as file:
        json.dump(content, file)
    fewer = data.list_games(str(copy), "valid_seen")
    assert len(fewer.games) == 5 and fewer.hash != manifest.hash
    drawn = data.list_games(root, "valid_seen", protocol="paper", episodes=20, seed=1)
    assert len(drawn.games) == 20 and set(drawn.games) <= set(manifest.games)
    assert drawn == data.list_games(
        root, "valid_seen", protocol="paper", episodes=20, seed=1
    )


def test_missing_data_is_explained(root, tmp_path, monkeypatch):
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="set ALFWORLD_DATA"):
        data.list_games(None, "train")
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="ALFWORLD_DATA points to.*download"):
        data.list_games(None, "train")
    monkeypatch.setenv("ALFWORLD_DATA", root)
    assert data.list_games(None, "train") == data.list_games(root, "train")
    os.makedirs(tmp_path / data.VERSION / "train")
    with pytest.raises(FileNotFoundError, match="no split valid_seen"):
        data.list_games(str(tmp_path), "valid_seen")
    with pytest.raises(FileNotFoundError, match="holds no playable game"):
        data.list_games(str(tmp_path), "train")
    with pytest.raises(ValueError, match="Unknown split"):
        data.list_games(root, "test")
    with pytest.raises(ValueError, match="Unknown protocol"):
        data.list_games(root, "train", protocol="best")


def test_a_broken_game_is_named(root, tmp_path, env):
    copy = str(tmp_path / "copy")
    shutil.copytree(root, copy)
    game = games_of(copy, "train")[0]
    content = read(game)

    def write(text):
        with open(game, "w") as file:
            file.write(text)

    write(json.dumps(content)[:1000])
    with pytest.raises(ValueError, match="damaged.*make it again"):
        data.list_games(copy, "train")
    with pytest.raises(ValueError, match="not readable as JSON"):
        env.reset(game)
    write(json.dumps({"solvable": True}))
    with pytest.raises(ValueError, match="has no pddl_domain, grammar, pddl_problem"):
        env.reset(game)
    write(json.dumps(content | {"pddl_problem": content["pddl_problem"][:500]}))
    with pytest.raises(ValueError, match="cannot be read"):
        env.reset(game)
    write(json.dumps(content | {"grammar": "grammar :: nonsense"}))
    with pytest.raises(ValueError, match="grammar"):
        env.reset(game)
    write(json.dumps(content))
    os.remove(os.path.join(os.path.dirname(game), "traj_data.json"))
    with pytest.raises(FileNotFoundError, match="traj_data.json"):
        env.reset(game)
    with pytest.raises(FileNotFoundError, match="There is no game file"):
        env.reset(os.path.join(copy, "none.tw-pddl"))
    assert env.reset(games_of(root, "train")[0])[1]["won"] is False
