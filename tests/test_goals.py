"""Games of several goals: each due after the one before, and the last one wins."""

import dataclasses
import json
import os
import random

import numpy as np
import pytest
import small
from test_alfworld_hostile import _content, refused  # noqa: F401
from test_rollout import READER, Counting, sampler

from hiper_jax.accept import SettingError
from hiper_jax.act import teach
from hiper_jax.act.envs.world import settings_for, world_of
from hiper_jax.act.envs.worlds.alfworld import data, expert, sequel, write
from hiper_jax.act.envs.worlds.alfworld import game as games
from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld
from hiper_jax.act.episode import from_json, to_json
from hiper_jax.act.rollout import rollout
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import setup
from hiper_jax.experiments.warmstart import demonstrations

SMALL = dict(receptacles=(6, 8), objects=(5, 8))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Games of two and of three goals, from several seeds."""
    made = {}
    for goals, seed in [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]:
        out = str(tmp_path_factory.mktemp("goals") / "data")
        counts = {"train": 18, "seen": 6, "unseen": 12, "test": 6}
        write.make_games(out, **counts, seed=seed, goals=goals, **SMALL)
        made[goals, seed] = out
    return made


def listed(root):
    return [g for split in (*data.SPLITS, data.TEST) for g in _games(root, split)]


def _games(root, split):
    return data.list_games(root, split).games


def read(path):
    with open(path) as file:
        return json.load(file)


def sentences(content):
    return [content["task"], *(later["task"] for later in content.get("then", []))]


def test_every_game_is_won_by_its_walkthrough_goal_by_goal_and_paid_at_the_end(roots):
    env = AlfWorld(max_turns=50, reward=10.0)
    for (goals, _), root in roots.items():
        for path in listed(root):
            content = read(path)
            said = sentences(content)
            assert len(said) == goals == len(set(said))
            observation, info = env.reset(path)
            assert observation.endswith(said[0]) and info["task"] == said[0]
            moves, due = content["walkthrough"], [said[0]]
            for number, move in enumerate(moves, 1):
                observation, reward, won, truncated, info = env.step(move)
                if info["task"] != due[-1]:
                    due.append(info["task"])
                    assert observation.endswith(f"\n\nYour task is to: {due[-1]}")
                assert won == (number == len(moves)) and not truncated
                assert reward == (10.0 if won else 0.0)
            assert due == said and info["won"]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_expert_wins_every_game_whatever_chance_does(roots, noise):
    env = AlfWorld(max_turns=50)
    for (goals, _), root in roots.items():
        for number, path in enumerate(listed(root)):
            rng = random.Random(number)
            demo = expert.demonstrate(env, path, noise=noise, rng=rng)
            assert demo.won, path
            told = list(dict.fromkeys(step.task for step in demo.steps))
            assert told == sentences(read(path))[: len(told)]
            assert len(told) == goals or noise  # chance may reach two at once


def test_its_plan_follows_from_the_last_turns_and_the_subgoal(roots):
    env, known = AlfWorld(max_turns=50), {}
    for path in listed(roots[3, 0]):
        task, last, history = "", "", []
        for step in expert.demonstrate(env, path, rng=random.Random(0)).steps:
            task, last = step.task, (last if step.task == task else "")
            assert step.switch == (step.subgoal != last)
            view = step.task, last, tuple(history[-2:]), step.observation
            plan = step.subgoal, step.expert_action
            assert known.setdefault((*view, step.admissible_actions), plan) == plan
            history.append((step.observation, step.action))
            last = step.subgoal


def test_a_later_goal_does_not_count_before_it_is_due(roots):
    tried = 0
    for path in _games(roots[2, 0], "train"):
        content = read(path)
        (later,) = content["then"]
        head, _, _ = content["pddl_problem"].partition("(:goal")
        alone = {**content, "task": later["task"], "then": []}
        alone["pddl_problem"] = head + later["pddl_goal"] + ")"
        limit = {"limit": 60}
        moves = sequel.prove(games.read_game(alone), later["task_type"], **limit)
        env = AlfWorld(max_turns=50)
        _, info = env.reset(path)
        first = info["task"]
        for move in moves or ():
            _, _, won, _, info = env.step(move)
            if won or info["task"] != first:
                break
        else:
            tried += bool(moves)
    assert tried > 10  # the others reach the first goal on the way


def test_a_goal_that_holds_when_it_is_due_is_done_at_once(roots, tmp_path):
    path = _games(roots[2, 0], "train")[0]
    content = read(path)
    folder = tmp_path / "game"
    folder.mkdir()
    goal = "(:goal" + content["pddl_problem"].partition("(:goal")[2].rstrip()[:-1]
    kind = content["then"][0]["task_type"]
    same = {"task": "once more.", "task_type": kind, "pddl_goal": goal}
    (folder / "game.tw-pddl").write_text(json.dumps({**content, "then": [same]}))
    traj = os.path.join(os.path.dirname(path), "traj_data.json")
    (folder / "traj_data.json").write_text(json.dumps(read(traj)))
    env = AlfWorld(max_turns=50)
    env.reset(str(folder / "game.tw-pddl"))
    told = []
    for move in content["walkthrough"]:
        _, _, won, _, info = env.step(move)
        told.append(info["task"])
        if won:
            break
    assert (
        won
        and told[-1] == "once more."
        and told[:-1] == [content["task"]] * (len(told) - 1)
    )


def test_an_episode_has_turns_for_each_goal_and_goes_on_from_its_state(roots):
    env, other = AlfWorld(max_turns=20), AlfWorld(max_turns=20)
    path = max(listed(roots[3, 1]), key=lambda p: len(read(p)["walkthrough"]))
    moves = read(path)["walkthrough"]
    assert 20 < len(moves) <= 60
    env.reset(path)
    kept = []
    for move in moves:
        kept.append(env.state())
        last = env.step(move)
    assert last[2]
    for start in range(0, len(moves), 3):
        other.restore(kept[start])
        again = [other.step(move) for move in moves[start:]][-1]
        assert again[:4] == last[:4] and again[4] == last[4]
    env.reset(path)
    ends = [env.step("look")[3] for _ in range(60)]
    assert ends == [False] * 59 + [True]


def test_games_of_one_goal_are_the_games_they_were(tmp_path, roots):
    counts = {"train": 6, "seen": 0, "unseen": 0, "seed": 0}
    write.make_games(str(tmp_path / "one"), **counts, **SMALL)
    for path in _games(str(tmp_path / "one"), "train"):
        assert "then" not in read(path)
    hashes = {data.list_games(root, "train").hash for root in roots.values()}
    assert len(hashes) == len(roots)
    made = read(tmp_path / "one" / "made.json")
    assert "goals" not in made and read(roots[3, 0] + "/made.json")["goals"] == 3


def test_the_settings_scale_turns_and_refuse_what_cannot_be(tmp_path):
    plain, three = settings_for("alfworld"), settings_for("alfworld", goals=3)
    assert plain.turns == plain.max_turns == 30 and three.turns == 90
    base = configs.Train(world=three, episodes=8)
    assert setup.run_shapes(base).rows == (768,)  # 8 x 91, up to a multiple of 64
    for bad in ({"goals": 0}, {"goals": 4}, {"engine": "textworld"}):
        with pytest.raises(SettingError, match="goals must be"):
            dataclasses.replace(three, **bad)
    with pytest.raises(SettingError, match="goals must be 1 unless games are made"):
        dataclasses.replace(three, generate=False)
    for bad, said in [({"goals": 4}, "from 1 to 3"), ({"stock": True}, "one goal")]:
        with pytest.raises(ValueError, match=said):
            asked = {"train": 6, "seen": 0, "unseen": 0, "seed": 0, "goals": 2} | bad
            write.make_games(str(tmp_path / "no"), **asked)
    assert not (tmp_path / "no").exists()


def test_a_world_of_several_goals_lists_practises_and_solves(tmp_path):
    counts = {"train": 6, "seen": 0, "unseen": 6}
    settings = settings_for("alfworld", goals=2, cache=str(tmp_path), **counts)
    world = world_of(settings)
    tasks = world.tasks(settings, "train").ids
    one = dataclasses.replace(settings, goals=1)
    assert world.tasks(one, "train").hash != world.tasks(settings, "train").hash
    assert "; " in world.solution(settings, tasks[0])
    demos = list(demonstrations.play(tasks, settings, noise=0.0, seed=0, workers=1))
    assert all(demo.won for demo in demos)
    options = {"style": "terse", "mistakes": 0.0, "haste": 0.0}
    for demo in demos:
        rows = demonstrations.texts(demo, world, rng=random.Random(0), **options)
        told = [arguments[0] for arguments, _ in rows]
        assert told == [step.task for step in demo.steps] and len(set(told)) == 2


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ({}, "no list of fewer than 10"),
        ([{}] * 10, "no list of fewer than 10"),
        (["x"], "no known type or no formula"),
        ([{"task_type": "x", "pddl_goal": ""}], "no known type or no formula"),
        ([{"task_type": data.TASK_TYPES[0], "pddl_goal": "(and)"}], r"no \(:goal"),
        ([{"task_type": data.TASK_TYPES[0], "pddl_goal": "((("}], "inside a bracket"),
        (
            [{"task_type": data.TASK_TYPES[0], "pddl_goal": "(:goal (and))"}],
            "has no task",
        ),
        (
            [
                {
                    "task_type": data.TASK_TYPES[0],
                    "pddl_goal": "(:goal (x))",
                    "task": "t",
                }
            ],
            "none of ALFWorld's task types",
        ),
    ],
)
def test_later_goals_that_make_no_sense_are_refused(then, message, refused):  # noqa: F811
    refused(_content(then=then), message)


# --- in a rollout --------------------------------------------------------------------


class Chained(Counting):
    """Asks to count to the half, then to the whole."""

    def info(self, slot):
        now, goal = self.state[slot]
        task = f"count to {goal if now >= goal // 2 else goal // 2}"
        return super().info(slot) | {"task": task}


def test_prompts_and_teachers_speak_of_the_goal_that_is_due():
    games = ["4", "2"]
    episodes, _ = rollout(Chained(2), sampler([]), games, READER, max_turns=5)
    codec = small.codec()
    for episode, goal in zip(episodes, (4, 2), strict=True):
        half = goal // 2
        assert episode.task == f"count to {half}"
        told = ["" if t < half else f"count to {goal}" for t in range(goal)]
        assert [turn.task for turn in episode.turns] == told
        for turn in episode.turns:
            now = turn.task or episode.task
            text = codec.decode(turn.prompt)
            assert text.startswith(f"task: {now}\n")
        for t, turn in enumerate(episode.turns):  # a new task begins without a subgoal
            plan = "none" if t in (0, half) else f"plan {t - 1}"
            assert f"subgoal: {plan}\n" in codec.decode(turn.prompt)
    known = teach.teacher_prompts(episodes, ["", ""], READER, 400)
    turns = [turn for episode in episodes for turn in episode.turns]
    for prompt, turn in zip(known, turns, strict=True):
        np.testing.assert_array_equal(prompt, turn.prompt)
    again = from_json(to_json(episodes[0]))
    assert [t.task for t in again.turns] == [t.task for t in episodes[0].turns]
    plain, _ = rollout(Counting(1), sampler([]), ["2"], READER, max_turns=3)
    assert not any("task" in turn for turn in to_json(plain[0])["turns"])
