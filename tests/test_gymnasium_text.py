"""Gymnasium environments of text: what is asked of them, played and trained in."""

import pytest

pytest.importorskip("gymnasium")

import gym_envs
import tiny_runs

from hiper_jax.act.envs.env import Env, accepts
from hiper_jax.act.envs.pool import Pool
from hiper_jax.act.envs.world import load_world, settings_for
from hiper_jax.act.envs.worlds.gymnasium_text import GymnasiumText, gymnasium_world


def test_actions_with_names_are_played_by_their_names():
    env = GymnasiumText(gym_envs.Corridor, task="Find it.", max_turns=9, reward=2.0)
    assert isinstance(env, Env)
    seen, info = env.reset("corridor 3")
    assert (seen, info["task"]) == ("You stand in room 0.", "Find it.")
    assert info["task_type"] == "lamp" and info["game"] == "corridor 3"
    assert info["admissible_actions"] == ["go west", "go east", "take lamp"]
    seen, reward, terminated, truncated, _ = env.step("fly")
    assert seen == "Nothing happens. You stand in room 0."
    assert (reward, terminated, truncated) == (0.0, False, False)
    for _ in range(4):
        seen, reward, terminated, truncated, info = env.step("go east")
        if not terminated:
            seen, reward, terminated, truncated, info = env.step("take lamp")
        if terminated:
            break
    assert (seen, reward, terminated, truncated) == ("You have the lamp.", 2, True, 0)
    assert info["won"]
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step("go east")
    env.close()


def test_the_seed_decides_the_game():
    env = GymnasiumText(gym_envs.Corridor, task="")
    rooms = []
    for seed in range(8):
        env.reset(f"corridor {seed}")
        room = 0
        for _ in range(3):
            env.step("go east")
            room += 1
            if env.step("take lamp")[2]:
                break
        rooms.append(room)
    assert len(set(rooms)) > 1
    with pytest.raises(ValueError, match="no task of this world"):
        env.reset("corridor")


def test_texts_are_spelled_as_the_environment_spells_them():
    env = GymnasiumText(gym_envs.Riddle, task="")
    seen, info = env.reset("riddle 1")
    assert info["task"] == "solve the riddle"
    assert accepts(info["admissible_actions"], "anything")
    *_, info = env.step("perhaps")
    assert info["admissible_actions"] == ["sun", "moon"]
    seen, *_ = env.step("sun")
    assert seen.startswith("Sun? Not ")


def test_what_the_environment_says_of_winning_goes_before_its_reward():
    outcomes = set()
    for seed in range(6):
        env = GymnasiumText(gym_envs.Riddle, task="", actions=["Sun", "Moon", "Star"])
        _, info = env.reset(f"riddle {seed}")
        for word in info["admissible_actions"]:
            *_, reward, terminated, truncated, info = env.step(word)
            if terminated:
                outcomes.add((word, info["won"]))
                break
    assert outcomes == {("sun", True), ("moon", False), ("star", False)}
    env = GymnasiumText(gym_envs.Riddle, task="", won=lambda reward, info: False)
    env.reset("riddle 0")
    assert not any(env.step("sun")[4]["won"] for _ in range(1))
    assert env.step("stop")[3]


def test_games_that_share_a_process_do_not_disturb_one_another():
    def play(*envs):
        seen = [[env.reset("riddle 7")[0]] for env in envs]
        for _ in range(4):
            for env, lines in zip(envs, seen, strict=True):
                lines.append(env.step("perhaps")[0])
        return seen

    def make():
        return GymnasiumText(gym_envs.Riddle, task="", max_turns=9)

    alone = play(make())[0]
    assert play(make(), make()) == [alone, alone]


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (gym_envs.Shifted, {}, "the 2 actions need a name each, and none are given"),
        (gym_envs.Corridor, {"actions": ["a"]}, "3 actions need a name.*1 are given"),
        (gym_envs.Boxed, {}, "only Text, or Discrete with a name for each"),
        (gym_envs.Numbers, {"actions": "ab"}, "shows 1 .a int. and not a text"),
    ],
)
def test_what_cannot_be_said_in_words_is_refused_before_anything_starts(
    make, options, words
):
    world = gymnasium_world(make, name="wrong", task="", **options)
    with pytest.raises(ValueError, match=words) as error:
        world.check(world.settings())
    assert "\n" not in str(error.value)


def test_numbers_may_begin_anywhere():
    env = GymnasiumText(gym_envs.Shifted, task="", actions=["on", "grab"])
    env.reset("x 1")
    assert env.step("on")[0] == "You stand in room 1."


def test_worker_processes_see_what_this_one_sees():
    settings = settings_for("my_gym_world:WORLD", max_turns=5)
    world = load_world("my_gym_world:WORLD")
    games = world.tasks(settings, "train").ids[:3]
    assert not set(world.tasks(settings, "train").ids) & set(
        world.tasks(settings, "valid_unseen").ids
    )
    with Pool(world.make_env(settings), 3, workers=2) as pool:
        there = pool.reset(range(3), games)
        steps = pool.step(range(3), ["go east"] * 3)
    env = world.make_env(settings)()
    for game, start, step in zip(games, there, steps, strict=True):
        assert env.reset(game) == start and env.step("go east") == step


def test_it_is_trained_in(tmp_path):
    world = settings_for("my_gym_world:WORLD", max_turns=3, workers=1, train=8)
    episodes = tiny_runs.check_run(tiny_runs.trained_twice(tmp_path, world))
    assert {e.task_type for e in episodes} == {"lamp"}
