"""The scripted player of made games: it wins, and plans by what a player sees."""

import random

import made_games
import pytest
from made_games import games_of

from hiper_jax.act.envs.worlds.alfworld import data, expert
from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return made_games.make(tmp_path_factory.mktemp("alfworld"))


@pytest.fixture(scope="module")
def env():
    return AlfWorld()


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_planner_wins_every_game_whatever_chance_does(root, env, noise):
    for split in data.SPLITS:
        for number, game in enumerate(games_of(root, split)):
            rng = random.Random(number)
            demo = expert.demonstrate(env, game, noise=noise, rng=rng)
            assert demo.won, demo.info["task"]
            assert demo.steps[0].switch
            for step in demo.steps:
                assert step.expert_action in step.admissible_actions
                assert noise or step.action == step.expert_action
            for before, after in zip(demo.steps, demo.steps[1:], strict=False):
                assert after.switch == (after.subgoal != before.subgoal)


def test_the_plan_follows_from_what_a_player_with_its_subgoal_sees(root, env):
    known = {}
    for game in games_of(root, "train") + games_of(root, "valid_unseen"):
        demo = expert.demonstrate(env, game, rng=random.Random(0))
        last, history = "", []
        for step in demo.steps:
            view = (
                demo.info["task"],
                last,
                tuple(history[-2:]),
                step.observation,
                step.admissible_actions,
            )
            plan = (step.subgoal, step.expert_action)
            assert known.setdefault(view, plan) == plan
            history.append((step.observation, step.action))
            last = step.subgoal
        assert sum(step.switch for step in demo.steps) < len(demo.steps)


def test_the_planner_searches_in_the_order_of_the_actions(root, env):
    for game in games_of(root, "train"):
        demo = expert.demonstrate(env, game, rng=random.Random(0))
        places = [a[6:] for a in demo.steps[0].admissible_actions if a[:6] == "go to "]
        target = expert.read_goal(demo.info["task_type"], demo.info["task"]).target
        searched = [
            step.subgoal.split(": ")[1].split(" (")[0]
            for step in demo.steps
            if step.switch and step.subgoal.startswith(f"find {target}: ")
        ]
        assert searched == places[: len(searched)]


@pytest.mark.parametrize(
    "sentence, goal",
    [
        ("put a hot apple in countertop.", ("apple", "countertop", "")),
        ("heat some apple and put it in countertop.", ("apple", "countertop", "")),
    ],
)
def test_goals_are_read_from_the_sentence(sentence, goal):
    read = expert.read_goal("pick_heat_then_place_in_recep", sentence)
    assert read[1:] == goal
    with pytest.raises(ValueError, match="cannot read the task"):
        expert.read_goal("pick_cool_then_place_in_recep", sentence)
