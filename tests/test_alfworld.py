"""Made games are ALFWorld's: the stock tools play them, and ours is an `Env`."""

import importlib.util
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import Counter

import made_games
import pytest
from made_games import games_of, read

from hiper_jax.act.envs.env import Env
from hiper_jax.act.envs.pool import Pool
from hiper_jax.act.envs.worlds.alfworld import data
from hiper_jax.act.envs.worlds.alfworld import write as make
from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld

# TextWorld 1.7's grammar evaluates names through locals(), which 3.13 took away.
needs_stock_engine = pytest.mark.skipif(
    sys.version_info >= (3, 13) or not importlib.util.find_spec("alfworld"),
    reason="the extra `reference` is not installed, or TextWorld does not run on 3.13",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return made_games.make(tmp_path_factory.mktemp("alfworld"))


@pytest.fixture(scope="module")
def stock_root(tmp_path_factory):
    """The same with ALFWorld's domain and grammar in the files."""
    return made_games.make(tmp_path_factory.mktemp("stock"), stock=True)


@pytest.fixture(scope="module")
def env():
    return AlfWorld()


def _tree(root):
    """All files below a folder: from relative path to bytes."""
    found = {}
    for folder, _, files in os.walk(root):
        for name in files:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


def _scene(game):
    return read(os.path.join(os.path.dirname(game), "traj_data.json"))["scene"]


def _receptacles(env, game):
    """How many receptacles of each kind the player is told of."""
    _, info = env.reset(game)
    places = [a for a in info["admissible_actions"] if a.startswith("go to ")]
    return frozenset(Counter(place.split()[2] for place in places).items())


def test_every_task_type_and_every_kind_of_room_is_made(root):
    for split, count in zip(data.SPLITS, (24, 6, 12), strict=True):
        games = games_of(root, split)
        types = Counter(game.split(os.sep)[-3].split("-")[0] for game in games)
        assert types == {task: count // 6 for task in data.TASK_TYPES}
    numbers = {_scene(game)["scene_num"] for game in games_of(root, "train")}
    assert {number // 100 for number in numbers} == {0, 2, 3, 4}


def test_files_are_laid_out_as_alfworld_lays_them_out(root):
    for game in games_of(root, "train"):
        *_, split, task, trial, name = game.split(os.sep)
        assert split == "train" and trial.startswith("trial_T")
        content = read(game)
        with open(os.path.join(os.path.dirname(game), "initial_state.pddl")) as file:
            assert content["pddl_problem"] == file.read()
        traj = read(os.path.join(os.path.dirname(game), "traj_data.json"))
        params = traj["pddl_params"]
        goal = params["parent_target"] or params["toggle_target"]
        number = traj["scene"]["scene_num"]
        assert task == f"{traj['task_type']}-{params['object_target']}-None-{goal}-" + (
            str(number)
        )
        assert content["solvable"] and content["walkthrough"]


def test_unseen_rooms_and_layouts_are_never_in_training(root, env):
    known = {split: games_of(root, split) for split in data.SPLITS}
    numbers = {
        split: {_scene(game)["scene_num"] for game in games}
        for split, games in known.items()
    }
    assert not numbers["train"] & numbers["valid_unseen"]
    assert numbers["valid_seen"] <= numbers["train"]
    layouts = {
        split: {
            (_scene(game)["scene_num"] // 100, _receptacles(env, game))
            for game in games
        }
        for split, games in known.items()
    }
    assert not layouts["train"] & layouts["valid_unseen"]
    assert layouts["valid_seen"] <= layouts["train"]


def test_no_two_games_are_the_same(root):
    problems = [
        read(game)["pddl_problem"] for s in data.SPLITS for game in games_of(root, s)
    ]
    assert len(set(problems)) == len(problems) == 42


def test_the_walkthrough_of_the_stock_expert_wins(root, env):
    for split in data.SPLITS:
        for game in games_of(root, split):
            env.reset(game)
            moves = read(game)["walkthrough"]
            results = [env.step(move) for move in moves]
            assert [step[2] for step in results] == [False] * (len(moves) - 1) + [True]
            assert results[-1][1] == 10.0 and results[-1][4]["won"]


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    settings = dict(train=6, seen=2, unseen=2, receptacles=(6, 7), objects=(5, 6))
    ticks = []
    make.make_games(
        str(tmp_path / "a"), seed=5, **settings, progress=lambda *t: ticks.append(t)
    )
    assert ticks == [(i + 1, 10) for i in range(10)]
    # Other processes have other hash seeds, so this also finds sets that leak order.
    code = (
        "import sys; sys.path[:] = %r\n"
        "from hiper_jax.act.envs.worlds.alfworld.write import make_games\n"
        "if __name__ == '__main__':\n"
        "    make_games(%r, seed=5, workers=2, **%r)\n"
    )
    script = tmp_path / "again.py"
    script.write_text(code % (sys.path, str(tmp_path / "b"), settings))
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
    first, second = _tree(tmp_path / "a"), _tree(tmp_path / "b")
    assert first == second and len(first) == 3 * 10 + 1
    make.make_games(str(tmp_path / "c"), seed=6, **settings)
    assert _tree(tmp_path / "c") != first


def test_games_are_written_whole_or_not_at_all(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make.make_games(
            str(tmp_path / "x"), train=6, seen=0, unseen=0, seed=0, progress=stop
        )
    assert os.listdir(tmp_path) == []


def test_unusable_arguments_are_refused(tmp_path, root):
    ask = dict(train=6, seen=0, unseen=0, seed=0)
    with pytest.raises(FileExistsError, match="not empty: give another folder"):
        make.make_games(root, **ask)
    out = str(tmp_path / "x")
    with pytest.raises(ValueError, match="at least one game"):
        make.make_games(out, train=0, seen=0, unseen=0, seed=0)
    with pytest.raises(ValueError, match="ask for train > 0"):
        make.make_games(out, train=0, seen=1, unseen=0, seed=0)
    with pytest.raises(ValueError, match="receptacles must be a range"):
        make.make_games(out, **ask, receptacles=(8, 6))
    with pytest.raises(ValueError, match="objects must be a range"):
        make.make_games(out, **ask, objects=(1, 6))
    assert not os.path.exists(out)


def test_games_are_made_and_played_without_textworld_and_alfworld(tmp_path):
    code = (
        "import random, sys\n"
        "for name in ('textworld', 'alfworld', 'fast_downward', 'tatsu', 'jericho'):\n"
        "    sys.modules[name] = None\n"
        "from hiper_jax.act.envs.worlds.alfworld import data, expert, write\n"
        "from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld\n"
        "write.make_games('made', train=12, seen=0, unseen=6, seed=2)\n"
        "for split in ('train', 'valid_unseen'):\n"
        "    for game in data.list_games('made', split).games:\n"
        "        rng = random.Random(0)\n"
        "        assert expert.demonstrate(AlfWorld(), game, rng=rng).won\n"
        "try:\n"
        "    write.make_games('x', train=1, seen=0, unseen=0, seed=0, stock=True)\n"
        "except ImportError as error:\n"
        "    assert 'hiper-jax[reference]' in str(error)\n"
        "    print('played')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "played\n", done.stderr


@needs_stock_engine
def test_games_for_the_stock_tools_are_the_same_games(root, stock_root):
    ours, theirs = _tree(root), _tree(stock_root)
    shared = {"logic/alfred.pddl", "logic/alfred.twl2"}
    assert theirs.keys() - ours.keys() == shared and ours.keys() <= theirs.keys()
    for name in ours:
        if not name.endswith("game.tw-pddl"):
            assert ours[name] == theirs[name]
            continue
        plain, whole = json.loads(ours[name]), json.loads(theirs[name])
        for key in ("pddl_problem", "solvable", "walkthrough"):
            assert plain[key] == whole[key]
        assert f'"Your task is to: {plain["task"]}"' in whole["grammar"]
        texts = [plain.pop("pddl_domain"), plain.pop("grammar")]
        assert all(len(text) == 71 for text in texts)


@needs_stock_engine
def test_a_seed_makes_the_games_it_always_made(stock_root):
    """The hash of the games that TextWorld's engine and ALFWorld's expert proved."""
    known = {
        "train": "8c97a5a02e2b9dfbd4000d79d47b8744",
        "valid_seen": "9a7d9f9e86a3891482f8a065eee715e5",
        "valid_unseen": "77ba4130150fecc9671753bd6c4348f4",
    }
    made = {split: data.list_games(stock_root, split).hash for split in known}
    assert {split: digest[:32] for split, digest in made.items()} == known


def _stock_config(root):
    paths = {split: os.path.join(root, data.VERSION, split) for split in data.SPLITS}
    return {
        "env": {
            "goal_desc_human_anns_prob": 0,
            "task_types": [1, 2, 3, 4, 5, 6],
            "domain_randomization": False,
            "expert_type": "handcoded",
        },
        "dataset": {
            "data_path": paths["train"],
            "eval_id_data_path": paths["valid_seen"],
            "eval_ood_data_path": paths["valid_unseen"],
            "num_train_games": -1,
            "num_eval_games": -1,
        },
        "general": {"training_method": "dagger"},
        "dagger": {"training": {"max_nb_steps_per_episode": 50}},
    }


@needs_stock_engine
# The stock engine leaves the game files it reads open.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*:pytest.PytestWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_stock_environment_takes_and_plays_the_games(stock_root, monkeypatch):
    root = stock_root
    monkeypatch.setenv("ALFWORLD_DATA", root)
    from alfworld.agents.environment import get_environment

    stock = get_environment("AlfredTWEnv")
    names = ("train", "eval_in_distribution", "eval_out_of_distribution")
    for split, name in zip(data.SPLITS, names, strict=True):
        games = stock(_stock_config(root), train_eval=name)
        assert sorted(games.game_files) == list(games_of(root, split))
    batch = stock(_stock_config(root), train_eval="train").init_env(batch_size=1)
    _, infos = batch.reset()
    for _ in range(50):
        _, _, done, infos = batch.step([infos["extra.expert_plan"][0][0]])
        if done[0]:
            break
    batch.close()
    assert infos["won"] == [True]


@needs_stock_engine
def test_the_stock_player_plays_a_game(stock_root):
    root = stock_root
    tool = os.path.join(os.path.dirname(sys.executable), "alfworld-play-tw")
    if not os.path.exists(tool):
        tool = shutil.which("alfworld-play-tw")
    assert tool, "alfworld is installed without its command alfworld-play-tw"
    game = games_of(root, "valid_unseen")[0]
    played = subprocess.run(
        [sys.executable, tool, os.path.dirname(game)],
        input="\n".join(read(game)["walkthrough"]) + "\n",
        env=os.environ | {"ALFWORLD_DATA": root},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert played.stdout.rstrip().endswith("You won!"), played.stderr


def test_an_episode_ends_by_winning_or_by_the_limit_never_by_both(root):
    game = games_of(root, "train")[0]
    moves = read(game)["walkthrough"]
    exact, short = AlfWorld(max_turns=len(moves)), AlfWorld(max_turns=len(moves) - 1)
    assert isinstance(exact, Env)
    for env, last in ((exact, (10.0, True, False)), (short, (0.0, False, True))):
        observation, info = env.reset(game)
        assert "Welcome" not in observation
        assert observation.startswith("You are in the middle of a room.")
        assert observation.endswith("Your task is to: " + info["task"])
        assert info["task_type"] in data.TASK_TYPES
        assert info["game"] == "/".join(game.split(os.sep)[-4:-1])
        steps = [env.step(move) for move in moves if env._turn is not None]
        assert all(step[1:4] == (0.0, False, False) for step in steps[:-1])
        assert steps[-1][1:4] == last
        with pytest.raises(RuntimeError, match="call reset first"):
            env.step("look")


def test_an_unknown_action_costs_a_turn_and_changes_nothing(root):
    env = AlfWorld(max_turns=2, reward=1.0)
    _, info = env.reset(games_of(root, "train")[0])
    before = info["admissible_actions"]
    observation, reward, won, truncated, info = env.step("fly to the moon")
    assert (observation, reward, won, truncated) == ("Nothing happens.", 0.0, False, 0)
    assert info["admissible_actions"] == before == sorted(before)
    assert env.step("look")[3] is True


@needs_stock_engine
def test_the_stock_engine_plays_behind_the_same_environment(root, env):
    stock = AlfWorld(engine="textworld")
    argv, game = list(sys.argv), games_of(root, "train")[0]
    assert stock.reset(game) == env.reset(game)
    for move in [*read(game)["walkthrough"][:-1], "fly to the moon"]:
        assert stock.step(move) == env.step(move)
    with pytest.raises(RuntimeError, match="no states.*native"):
        stock.state()
    assert sys.argv == argv


def test_an_episode_goes_on_from_its_state_here_and_elsewhere(root):
    game, other = games_of(root, "train")[:2]
    moves = read(game)["walkthrough"]
    one, two = AlfWorld(max_turns=len(moves)), AlfWorld(max_turns=len(moves))
    with pytest.raises(RuntimeError, match="call reset first"):
        one.state()
    one.reset(game)
    for move in moves[:3]:
        one.step(move)
    state = one.state()
    rest = [one.step(move) for move in moves[3:]]
    assert rest[-1][1:4] == (10.0, True, False)
    over = one.state()
    two.reset(other)
    for env in (one, two):
        env.restore(state)
        assert env.state() == state
        assert [env.step(move) for move in moves[3:]] == rest
        env.restore(over)
        with pytest.raises(RuntimeError, match="call reset first"):
            env.step("look")
    assert pickle.loads(pickle.dumps(state)) == state


def test_a_killed_worker_goes_on_with_its_games(root):
    games = games_of(root, "valid_seen")[:2]
    plans = [read(game)["walkthrough"] for game in games]
    with Pool(AlfWorld, 2, workers=1) as pool:
        pool.reset([0, 1], games)
        for turn in range(max(map(len, plans))):
            live = [slot for slot in (0, 1) if turn < len(plans[slot])]
            if turn == 2:
                os.kill(pool.pids()[0], signal.SIGKILL)
            steps = pool.step(live, [plans[slot][turn] for slot in live])
            ends = [turn == len(plans[slot]) - 1 for slot in live]
            assert [step[2] for step in steps] == ends
        assert pool.restarts == 1
