"""Sokoban: rules by hand, the solver against a plain twin, levels and the player."""

import heapq
import random

import pytest

from hiper_jax.act.envs.env import Env, accepts
from hiper_jax.act.envs.pool import Pool
from hiper_jax.act.envs.world import load_world, settings_for
from hiper_jax.act.envs.worlds.sokoban import board as boards
from hiper_jax.act.envs.worlds.sokoban import plan, player, rooms
from hiper_jax.act.envs.worlds.sokoban.board import DIRECTIONS, moved, read, write
from hiper_jax.act.envs.worlds.sokoban.world import Sokoban

# The box goes right, then the player around it, then up.
CORNER = "######|#   ##|#@$ .#|#    #|######"
TWO = "#######|#@$ . #|# $ . #|#     #|#######"


def test_a_board_reads_back_as_it_is_written():
    for text in (CORNER, TWO, "#####|#+$ #|#  *#|#####"):
        assert write(read(text)) == text
    assert read(CORNER).place(read(CORNER).player) == (2, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#####|#@$?#|#####", "it holds '?'"),
        ("#####|#@$ #|#####", "as many boxes as goals"),
        ("#####|# $.#|#####", "one player"),
        ("#####|#@@$.#|#####", "one player"),
        ("#@#|# #", "as many boxes"),
        ("#####|#@$. |#####", "walls must surround"),
        ("@$.", "walls must surround"),
        ("", "one player"),
        ("#######|#@#$.##|#######", "walls must surround"),
    ],
)
def test_what_is_no_level_is_refused_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as error:
        read(text)
    assert "\n" not in str(error.value)


def test_a_box_moves_only_into_free_floor():
    board = read(CORNER)
    right = moved(board, "right")
    assert write(right) == "######|#   ##|# @$.#|#    #|######"
    assert write(moved(right, "right")) == "######|#   ##|#  @*#|#    #|######"
    assert moved(moved(right, "right"), "right") is None  # against the wall
    assert moved(board, "left") is None
    assert moved(read("######|#@$$.#|#   .#|######"), "right") is None  # two in a row


def slow_solve(board):
    """The fewest pushes by Dijkstra over single steps: a push costs 1, a step 0."""
    best, queue = {board[4:]: 0}, [(0, write(board))]
    while queue:
        cost, text = heapq.heappop(queue)
        here = read(text)
        if here.solved:
            return cost
        if cost > best[here[4:]]:
            continue
        for direction in DIRECTIONS:
            after = moved(here, direction)
            if after is None:
                continue
            price = cost + (after.boxes != here.boxes)
            if price < best.get(after[4:], 1 << 30):
                best[after[4:]] = price
                heapq.heappush(queue, (price, write(after)))
    return None


def test_the_solver_finds_the_fewest_pushes_or_that_there_are_none():
    rng, solvable, not_solvable = random.Random(0), 0, 0
    for size in (5, 6):
        for number in range(60):
            board = rooms.draw(size, size, 1 + number % 2, rng)
            if board is None:
                continue
            pushes, fewest = plan.solve(board), slow_solve(board)
            assert (None if pushes is None else len(pushes)) == fewest, write(board)
            solvable += pushes is not None
            not_solvable += pushes is None
            if pushes is not None:
                assert replayed(board, player.moves(board)).solved
    assert solvable >= 20 and not_solvable >= 20


def replayed(board, moves):
    for _, action in moves:
        verb, direction = action.split()
        after = moved(board, direction)
        assert (after.boxes != board.boxes) == (verb == "push")
        board = after
    return board


def test_a_solver_that_looks_at_too_much_says_so():
    with pytest.raises(ValueError, match="no answer after 1 positions"):
        plan.solve(read(TWO), limit=1)


def levels(number=60, **changes):
    options = {"width": 6, "height": 6, "boxes": (1, 2), "seed": 3} | changes
    return rooms.make_levels(number=number, **options)


def test_made_levels_can_be_solved_and_none_is_another_turned_or_mirrored():
    made = levels()
    assert made[:20] == levels(20) != levels(20, seed=4)
    for text in made:
        pushes = plan.solve(read(text))
        assert pushes is not None and len(pushes) >= rooms.LEAST_PUSHES
    whole = {same for text in made for same in boards.turned(text)}
    assert all(len(set(boards.turned(text)) & set(made)) == 1 for text in made)
    assert len(whole) > 4 * len(made)
    assert {len(read(text).boxes) for text in made} == {1, 2}
    assert len({rooms.digest(text) for text in made}) == len(made)


def test_a_room_too_small_for_so_many_levels_is_said():
    with pytest.raises(ValueError, match="ask for larger rooms or fewer levels"):
        levels(200, width=4, height=5, boxes=(1, 1))


def test_the_splits_are_disjoint_and_the_same_settings_give_the_same(tmp_path):
    world = load_world("sokoban")
    settings = settings_for("sokoban", levels=30, unseen=10, cache=str(tmp_path))
    train, unseen = (world.tasks(settings, s) for s in ("train", "valid_unseen"))
    assert (len(train.ids), len(unseen.ids)) == (30, 10)
    both = train.ids + unseen.ids
    assert len({rooms.digest(text) for text in both}) == 40
    other = settings_for("sokoban", levels=30, unseen=10, cache=str(tmp_path / "b"))
    assert world.tasks(other, "train") == train
    assert world.tasks(other, "valid_unseen") == unseen
    # Own levels: from files of the same form.
    folder = world.prepare(settings, print)
    mine = settings_for("sokoban", data=str(folder))
    assert world.tasks(mine, "train") == train
    (folder / "train.txt").write_text("nonsense\n")
    with pytest.raises(ValueError, match="no Sokoban level"):
        world.check(mine)
    with pytest.raises(FileNotFoundError, match="--world.data"):
        world.check(settings_for("sokoban", generate=False))


def test_a_level_is_won_by_hand_and_told_in_words():
    env = Sokoban(max_turns=5, reward=2.0)
    assert isinstance(env, Env)
    observation, info = env.reset(CORNER)
    assert observation == (
        "A room of 3 rows and 4 columns. You stand at 2 1. Box at 2 2. Goal at 2 4. "
        "Wall at 1 4."
    )
    assert info["admissible_actions"] == ["go up", "go down", "push right"]
    assert info["task_type"] == "1 box" and not info["won"]
    seen, reward, terminated, truncated, info = env.step("go right")
    assert seen.startswith("Nothing happens. A room") and (reward, terminated) == (0, 0)
    env.step("push right")
    seen, reward, terminated, truncated, info = env.step("push right")
    assert (reward, terminated, truncated, info["won"]) == (2.0, True, False, True)
    assert "Box on a goal at 2 4." in seen and "Goal" not in seen
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step("go up")


def test_a_box_that_is_stuck_ends_nothing_but_the_players_hope():
    env = Sokoban(max_turns=4)
    env.reset("######|#@  .#|# $  #|#    #|######")
    env.step("go right")
    *_, terminated, truncated, info = env.step("push down")
    assert not terminated and not truncated
    assert plan.solve(read(info["board"])) is None
    env.step("go up")
    *_, reward, terminated, truncated, info = env.step("go up")
    assert (reward, terminated, truncated, info["won"]) == (0.0, False, True, False)


def test_the_player_wins_every_level_and_every_move_is_admissible():
    for text in levels(20):
        env = Sokoban(max_turns=60)
        demo = player.demonstrate(env, text, rng=random.Random(0))
        assert demo.won and demo.steps[-1].reward == 1.0
        boxes = 0
        for before, step in zip((None, *demo.steps), demo.steps, strict=False):
            assert accepts(step.admissible_actions, step.action)
            assert step.switch == (before is None or step.subgoal != before.subgoal)
            boxes += step.switch
        assert boxes >= len(read(text).boxes - read(text).goals) > 0


def test_the_player_goes_on_from_where_chance_has_led_it():
    won = 0
    for i, text in enumerate(levels(30)):
        env = Sokoban(max_turns=80)
        demo = player.demonstrate(env, text, noise=0.3, rng=random.Random(i))
        again = player.demonstrate(env, text, noise=0.3, rng=random.Random(i))
        assert demo == again
        won += demo.won
        if not demo.won and not demo.steps[-1].truncated:  # given up: hopeless
            *_, info = replay(text, demo)
            assert plan.solve(read(info["board"])) is None
    assert 10 < won < 30


def replay(text, demo):
    env = Sokoban(max_turns=80)
    result = env.reset(text)
    for step in demo.steps:
        result = env.step(step.action)
    return result


def test_worker_processes_see_what_this_one_sees(tmp_path):
    world = load_world("sokoban")
    settings = settings_for("sokoban", levels=4, unseen=1, cache=str(tmp_path))
    games = world.tasks(settings, "train").ids
    with Pool(world.make_env(settings), 4, workers=2) as pool:
        there = pool.reset(range(4), games)
    env = world.make_env(settings)()
    assert there == [env.reset(game) for game in games]
    env, game = world.player(TWO, [])
    assert env.reset(game)[1]["board"] == TWO
    assert world.player("levels.txt", []) is None
