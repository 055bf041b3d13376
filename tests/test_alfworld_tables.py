"""What the tables say is what the alfworld package says, and its expert plays alike."""

import json
import os
import random

import pytest

from hiper_jax.act.envs.worlds.alfworld import alfred, data, native
from hiper_jax.act.envs.worlds.alfworld.game import read_file
from hiper_jax.act.envs.worlds.alfworld.write import make_games

pytest.importorskip("alfworld", reason="the extra `reference` is not installed")

from alfworld.gen import constants, goal_library

ROOMS = [
    number
    for kind in alfred.KINDS
    for unseen in (False, True)
    for number in alfred.numbers(kind, unseen=unseen)
]


def test_rooms_are_split_and_furnished_as_the_package_says():
    assert sorted(ROOMS) == sorted(
        n for kind in alfred.KINDS for n in constants.SCENE_TYPE[kind]
    )
    layouts = os.path.join(os.path.dirname(constants.__file__), "layouts")
    skipped = {*constants.MOVABLE_RECEPTACLES, "Toaster", "PaintingHanger"}
    skipped |= {"Sink", "Bathtub"}  # their basins are listed, too
    for number in ROOMS:
        kind = alfred.kind_of(number)
        assert number in constants.SCENE_TYPE[kind]
        unseen = number in constants.TEST_SCENE_NUMBERS
        assert number in alfred.numbers(kind, unseen=unseen)
        places, things = alfred.floor_plan(number)
        with open(f"{layouts}/FloorPlan{number}-openable.json") as file:
            listed = sorted(json.load(file))
        assert places == [p for p in listed if p.split("|")[0] not in skipped]
        with open(f"{layouts}/FloorPlan{number}-objects.json") as file:
            known = set(json.load(file))
        assert things == sorted(things) and set(things) <= known
        # What was left out can be put nowhere.
        for thing in known - set(things):
            assert not any(alfred.takes(holder, thing) for holder in alfred.HOLDERS)
            assert thing not in alfred.HOLDERS


def test_things_go_where_the_package_puts_them_and_can_be_treated_alike():
    met = {thing for number in ROOMS for thing in alfred.floor_plan(number)[1]}
    for holder in alfred.HOLDERS:
        held = constants.VAL_RECEPTACLE_OBJECTS[holder]
        assert {t for t in met if alfred.takes(holder, t)} == met & set(held)
    movable = {*constants.MOVABLE_RECEPTACLES, "Toaster"}
    assert alfred.HOLDERS == set(constants.VAL_RECEPTACLE_OBJECTS) - movable
    for verb in ("Heatable", "Coolable", "Cleanable", "Sliceable", "Toggleable"):
        for thing in met:
            affords = thing in constants.VAL_ACTION_OBJECTS[verb]
            assert alfred.affords(thing, verb) == affords
    assert alfred.sort("Openable") == set(constants.OPENABLE_CLASS_LIST)
    assert alfred.sort("Hollow") == set(constants.MOVABLE_RECEPTACLES)


def test_tasks_are_worded_and_posed_as_the_package_does():
    assert set(alfred.SENTENCES) == set(alfred.GOALS) == set(data.TASK_TYPES)
    for task in data.TASK_TYPES:
        told = goal_library.gdict[task]
        assert list(alfred.SENTENCES[task]) == told["templates"]
        assert alfred.GOALS[task] == told["pddl"].replace("#", "-").strip()
        kinds = {k for k in alfred.KINDS if k in constants.GOALS_VALID[task]}
        assert set(alfred.kinds_for(task)) == kinds


class _Fact:
    """A fact as the package's expert reads it."""

    def __init__(self, name, *names):
        self.name, self.names = name, names


def _facts(engine):
    """All facts of which the expert asks, in the order of TextWorld's."""
    game, state = engine.state()
    things, places = game.things, game.receptacles
    found = [("holds", "agent1", things[t].name) for t in state.held]
    found += [(mark, things[t].name) for mark, t in state.marks]
    for receptacle, content in enumerate(state.inside):
        for thing in content:
            found.append(("inreceptacle", things[thing].name, places[receptacle].name))
    for thing, receptacle in state.taken:
        found.append(("not_inreceptacle", things[thing].name, places[receptacle].name))
    return [_Fact(*fact) for fact in sorted(found)]


def test_the_packages_own_expert_makes_the_moves_that_prove_a_game(tmp_path):
    from alfworld.agents.expert import HandCodedTWAgent

    root = str(tmp_path / "made")
    make_games(root, train=36, seen=0, unseen=12, seed=11)
    games = [*data.list_games(root, "train").games]
    games += data.list_games(root, "valid_unseen").games
    outer = random.getstate()
    for path in games:
        random.seed(0)
        expert = HandCodedTWAgent(max_steps=200)
        expert.reset(path)
        engine, commands = native.Engine(), []
        engine.load(path)
        seen = engine.reset()
        expert.observe(f"-= Welcome to TextWorld, ALFRED! =-\n\n{seen.text}")
        command = "look"
        while not seen.won:
            commands.append(command)
            seen = engine.step(command)
            state = {
                "feedback": seen.text,
                "admissible_commands": seen.commands,
                "facts": _facts(engine),
            }
            wanted = expert.act(state, 0, seen.won, command)
            command = wanted if wanted in seen.commands else "look"
        assert commands == read_file(path)["walkthrough"]
    random.setstate(outer)
