"""The native engine: texts by hand, states that are their own copies, no hash order."""

import json
import random
import subprocess
import sys
import time

import pytest
from odd_rooms import draw_room

from hiper_jax.act.envs.worlds.alfworld import (
    alfred,
    brackets,
    data,
    dialect,
    ends,
    game,
    native,
)
from hiper_jax.act.envs.worlds.alfworld.write import make_games

# Numbers are handed out from the top: the first apple by name is apple 2.
ROOM = """(define (problem p) (:domain alfred)
(:objects agent1 - agent
  Apple_bar_a Apple_bar_b Knife_bar_a Bowl_bar_a DeskLamp_bar_a - object
  AppleType KnifeType BowlType DeskLampType - otype
  Fridge_bar_a Sink_bar_a_bar_SinkBasin Desk_bar_a Desk_bar_b - receptacle
  FridgeType SinkBasinType DeskType - rtype
  loc_bar_1 loc_bar_2 loc_bar_3 start - location)
(:init (atLocation agent1 start)
  (receptacleType Fridge_bar_a FridgeType) (receptacleAtLocation Fridge_bar_a loc_bar_1)
  (openable Fridge_bar_a) (canContain FridgeType AppleType)
  (receptacleType Sink_bar_a_bar_SinkBasin SinkBasinType)
  (receptacleAtLocation Sink_bar_a_bar_SinkBasin loc_bar_2)
  (receptacleType Desk_bar_a DeskType) (receptacleAtLocation Desk_bar_a loc_bar_3)
  (receptacleType Desk_bar_b DeskType) (receptacleAtLocation Desk_bar_b loc_bar_3)
  (canContain DeskType AppleType) (canContain DeskType KnifeType)
  (objectType Apple_bar_a AppleType) (objectType Apple_bar_b AppleType)
  (objectType Knife_bar_a KnifeType) (objectType Bowl_bar_a BowlType)
  (objectType DeskLamp_bar_a DeskLampType) (toggleable DeskLamp_bar_a)
  (pickupable Apple_bar_a) (pickupable Apple_bar_b) (pickupable Knife_bar_a)
  (pickupable Bowl_bar_a) (isReceptacleObject Bowl_bar_a) (sliceable Apple_bar_b)
  (coolable Apple_bar_a) (cleanable Apple_bar_a)
  (inReceptacle Apple_bar_a Desk_bar_a) (objectAtLocation Apple_bar_a loc_bar_3)
  (inReceptacle Apple_bar_b Desk_bar_a) (objectAtLocation Apple_bar_b loc_bar_3)
  (inReceptacle Knife_bar_a Desk_bar_a) (objectAtLocation Knife_bar_a loc_bar_3)
  (inReceptacle Bowl_bar_a Desk_bar_b) (objectAtLocation Bowl_bar_a loc_bar_3)
  (inReceptacle DeskLamp_bar_a Fridge_bar_a))
(:goal (and (exists (?r - receptacle) (exists (?o - object) (and (coolable ?o)
  (objectType ?o AppleType) (receptacleType ?r FridgeType) (isCool ?o)
  (inReceptacle ?o ?r)))))))"""
WALK = (
    (
        "look",
        "You are in the middle of a room. Looking quickly around you, you see nothing.",
    ),
    (
        "go to desk 2",
        "You arrive at desk 2. On the desk 2, you see a apple 2, a apple 1, and a "
        "knife 1.",
    ),
    ("look", "You are facing the desk 2, and desk 1. Next to it, you see nothing."),
    ("go to desk 1", "Nothing happens."),
    ("examine apple 2", "Nothing happens."),
    (" take knife 1 from desk 2\n", "You pick up the knife 1 from the desk 2."),
    ("take apple 2 from desk 2", "Nothing happens."),
    ("slice apple 1 with knife 1", "You sliced the apple 1 with the knife 1."),
    ("move knife 1 to desk 1", "You move the knife 1 to the desk 1."),
    (
        "look",
        "You are facing the desk 2, and desk 1. Next to it, you see a knife 1.",
    ),
    ("examine desk 1", "On the desk 1, you see a bowl 1, and a knife 1."),
    ("take bowl 1 from desk 1", "You pick up the bowl 1 from the desk 1."),
    ("examine bowl 1", "This is a normal bowl 1. In it, you see nothing."),
    ("move bowl 1 to desk 1", "Nothing happens."),
    ("inventory", "You are carrying: a bowl 1."),
    ("INVENTORY", "Nothing happens."),
)
WIN = (
    ("take apple 2 from desk 2", "You pick up the apple 2 from the desk 2."),
    ("examine apple 2", "There's nothing special about apple 2."),
    (
        "go to sinkbasin 1",
        "You arrive at sinkbasin 1. On the sinkbasin 1, you see nothing.",
    ),
    ("clean apple 2 with sinkbasin 1", "You clean the apple 2 using the sinkbasin 1."),
    ("examine apple 2", "This is a clean apple 2."),
    ("go to fridge 1", "You arrive at fridge 1. The fridge 1 is closed."),
    ("use desklamp 1", "You turn on the desklamp 1."),
    ("cool apple 2 with fridge 1", "You cool the apple 2 using the fridge 1."),
    ("examine apple 2", "This is a cool and clean apple 2."),
    ("move apple 2 to fridge 1", "Nothing happens."),
    (
        "open fridge 1",
        "You open the fridge 1. The fridge 1 is open. In it, you see a desklamp 1.",
    ),
    ("use desklamp 1", "You turn on the desklamp 1."),
    ("take desklamp 1 from fridge 1", "Nothing happens."),
    ("move apple 2 to fridge 1", "You move the apple 2 to the fridge 1."),
)


def _read(problem, task="cool it."):
    texts = {"pddl_domain": dialect.DOMAIN_FILE, "grammar": dialect.GRAMMAR_FILE}
    return game.read_game(texts | {"task": task, "pddl_problem": problem})


def _begin(problem):
    engine, whole = native.Engine(), _read(problem)
    engine.restore((whole, whole.start))
    return engine, engine.reset()


@pytest.mark.parametrize("walk, won", [(WALK, False), (WIN[:-1], False)])
def test_what_is_said_is_what_was_worked_out_by_hand(walk, won):
    engine, seen = _begin(ROOM)
    if walk is not WALK:
        engine.step("go to desk 2")
    for command, answer in walk:
        seen = engine.step(command)
        assert seen.text == answer
        assert not seen.won


def test_a_game_begins_with_all_places_and_the_task_and_ends_when_its_goal_holds():
    engine, seen = _begin(ROOM)
    assert seen.text == (
        "You are in the middle of a room. Looking quickly around you, you see a desk "
        "2, a desk 1, a fridge 1, and a sinkbasin 1.\n\nYour task is to: cool it."
    )
    assert seen.commands == [
        "go to desk 1",
        "go to desk 2",
        "go to fridge 1",
        "go to sinkbasin 1",
        "help",
        "inventory",
        "look",
    ]
    engine.step("go to desk 2")
    won = [engine.step(command).won for command, _ in WIN]
    assert won == [False] * (len(WIN) - 1) + [True]
    assert engine.step("take apple 2 from fridge 1").won is False
    assert engine.step("help").text.startswith("Available commands:\n  look: ")


@pytest.mark.parametrize("seed", range(12))
def test_a_walk_goes_on_from_a_restored_state_as_it_went_on_before(seed):
    rng = random.Random(seed)
    engine, seen = _begin(draw_room(rng))
    for _ in range(rng.randint(0, 25)):
        seen = engine.step(rng.choice(seen.commands))
    state, before = engine.state(), seen
    walk, answers = [], []
    for _ in range(25):
        walk.append(rng.choice(seen.commands))
        seen = engine.step(walk[-1])
        answers.append(seen)
    assert engine.state() != state or seed
    other = native.Engine()
    for player in (engine, other):
        player.restore(state)
        assert player.state() == state and hash(player.state()[1]) == hash(state[1])
        assert player.step("nonsense")[1:] == before[1:]
        assert [player.step(command) for command in walk] == answers


def test_a_clone_costs_microseconds():
    engine, _ = _begin(ROOM)
    began = time.perf_counter()
    for _ in range(1000):
        engine.restore(engine.state())
    assert time.perf_counter() - began < 0.1


def test_answers_do_not_depend_on_the_order_of_hashes():
    code = (
        "import random, sys; sys.path[:] = %r\n"
        "from test_alfworld_native import _begin; from odd_rooms import draw_room\n"
        "for seed in range(5):\n"
        "    rng = random.Random(seed)\n"
        "    engine, seen = _begin(draw_room(rng))\n"
        "    for _ in range(20):\n"
        "        print(seen)\n"
        "        seen = engine.step(rng.choice(seen.commands))\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code % (sys.path,)],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] and said[0].count(b"Seen") == 100


def test_one_file_is_read_once_until_it_changes(tmp_path):
    make_games(str(tmp_path / "made"), train=6, seen=0, unseen=0, seed=1)
    path = data.list_games(str(tmp_path / "made"), "train").games[0]
    first = game.load(path)
    assert game.load(path) is first
    content = game.read_file(path)
    with open(path, "w") as file:
        json.dump(content | {"task": "think."}, file)
    assert game.load(path).task == "think." and game.load(path).start == first.start


@pytest.mark.parametrize(
    "text, form",
    [
        ("(a (b ?x - C) ; no (\n d)", ["a", ["b", "?x", "-", "c"], "d"]),
        ("(a?b)", ["a", "?b"]),
        ("()", []),
    ],
)
def test_forms_are_read_as_lists(text, form):
    assert brackets.read_form(text) == form


def test_the_goals_of_all_task_types_are_read():
    found = {}
    for task, text in alfred.GOALS.items():
        text = text.format(obj="Mug", recep="Desk", toggle="DeskLamp")
        (goal,) = brackets.read_form(text.rpartition(")")[0])[1:]
        found[task] = ends.read_goal(goal)
    stored = ends.Stored("desktype", "mugtype", frozenset(), 1)
    assert found == {
        "pick_and_place_simple": (stored,),
        "look_at_obj_in_light": (ends.Lit("desklamptype"), ends.Held("mugtype")),
        "pick_clean_then_place_in_recep": (
            stored._replace(asked=frozenset({"cleanable", "isclean"})),
        ),
        "pick_heat_then_place_in_recep": (
            stored._replace(asked=frozenset({"heatable", "ishot"})),
        ),
        "pick_cool_then_place_in_recep": (
            stored._replace(asked=frozenset({"coolable", "iscool"})),
        ),
        "pick_two_obj_and_place": (stored._replace(number=2),),
    }
