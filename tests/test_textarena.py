"""TextArena's games for one player: played alone, alike everywhere, trained in."""

import pytest

pytest.importorskip("textarena")

import tiny_runs

from hiper_jax.act.envs.env import Env, accepts
from hiper_jax.act.envs.pool import Pool
from hiper_jax.act.envs.world import load_world, settings_for
from hiper_jax.act.envs.worlds.textarena import TextArena, textarena_world

GUESS = "GuessTheNumber-v0"


def find(env, task):
    """Plays by halving; returns what was said, and the last answer."""
    seen, info = env.reset(task)
    said, low, high = [seen], 1, 20
    while True:
        guess = (low + high) // 2
        answer = env.step(f"[{guess}]")
        said.append(answer[0])
        if answer[2] or answer[3]:
            return said, answer
        low, high = (guess + 1, high) if "higher" in answer[0] else (low, guess - 1)


def test_a_game_is_won_and_tells_only_what_is_new():
    env = TextArena(GUESS, actions=[f"[{n}]" for n in range(1, 21)], reward=2.0)
    assert isinstance(env, Env)
    numbers = set()
    for seed in (4, 5, 6, 4):
        said, (_, reward, terminated, truncated, info) = find(env, f"{GUESS} {seed}")
        assert (reward, terminated, truncated) == (2.0, True, False)
        assert info["won"] and info["task_score"] == 1.0
        assert said[0] == "The game begins."
        assert all(len(line.splitlines()) == 1 for line in said)
        assert "guessed the correct number" in said[-1]
        assert "between 1 and 20" in info["task"]
        numbers.add(tuple(said))
    assert len(numbers) <= 3  # the same seed, the same game
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step("[1]")


def test_a_second_wrong_move_ends_the_game_without_a_win():
    env = TextArena(GUESS)
    _, info = env.reset(f"{GUESS} 1")
    assert accepts(info["admissible_actions"], "anything")
    seen, reward, terminated, *_ = env.step("hello")
    assert "invalid move" in seen and not terminated
    seen, reward, terminated, truncated, info = env.step("hello again")
    assert terminated and not info["won"] and reward == 0.0
    assert "Invalid Move" in seen


def test_part_of_the_reward_is_paid_if_asked_for_and_turns_are_limited():
    for partial in (False, True):
        env = TextArena(GUESS, partial=partial, options={"max_turns": 2})
        env.reset(f"{GUESS} 4")
        for guess in ("[1]", "[2]"):
            assert not env.step(guess)[2]
        seen, reward, terminated, _, info = env.step("[3]")
        assert terminated and not info["won"] and "turn limit" in seen
        assert 0 < info["task_score"] < 1
        assert reward == (info["task_score"] if partial else 0.0)
    env = TextArena(GUESS, max_turns=1)
    env.reset(f"{GUESS} 2")
    assert env.step("[1]")[2:4] == (False, True)


def test_capital_letters_of_a_move_are_restored():
    env = TextArena("TowerOfHanoi-v0", actions=["[A C]", "[A B]"])
    _, info = env.reset("TowerOfHanoi-v0 0")
    assert info["admissible_actions"] == ["[a c]", "[a b]"]
    assert "invalid" not in env.step("[a c]")[0].lower()


def test_games_that_share_a_process_do_not_disturb_one_another():
    one, other = TextArena("2048-v0"), TextArena("2048-v0")

    def play(*envs):
        seen = [[env.reset("2048-v0 3")] for env in envs]
        for move in ("[up]", "[left]", "[down]", "[right]"):
            for env, lines in zip(envs, seen, strict=True):
                lines.append(env.step(move)[0])
        return seen

    alone = play(one)[0]
    assert play(one, other) == [alone, alone]


@pytest.mark.parametrize(
    "game", ["TicTacToe-v0", "TwentyQuestions-v0", "NoSuchGame-v0", "Snake-v0"]
)
def test_a_game_that_cannot_be_played_alone_is_refused_in_one_line(game):
    world = textarena_world(game)
    with pytest.raises(ValueError, match="choose a game for one player") as error:
        world.check(world.settings())
    assert game in str(error.value) and "\n" not in str(error.value)


def test_worker_processes_see_what_this_one_sees():
    world = load_world("my_arena_world:WORLD")
    settings = settings_for("my_arena_world:WORLD")
    games = world.tasks(settings, "train").ids[:3]
    with Pool(world.make_env(settings), 3, workers=1) as pool:
        there = pool.reset(range(3), games)
        steps = pool.step(range(3), ["[10]"] * 3)
    env = world.make_env(settings)()
    for game, start, step in zip(games, there, steps, strict=True):
        assert env.reset(game) == start and env.step("[10]") == step


def test_it_is_trained_in(tmp_path):
    world = settings_for("my_arena_world:WORLD", max_turns=3, in_process=True, train=8)
    episodes = tiny_runs.check_run(tiny_runs.trained_twice(tmp_path, world))
    assert {e.task for e in episodes} == {"Guess the number from 1 to 20."}
