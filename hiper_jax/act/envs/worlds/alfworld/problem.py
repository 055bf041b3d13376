"""One game: a task posed in a room, as the three files ALFWorld keeps on disk."""

import random
from collections import Counter
from typing import NamedTuple

from hiper_jax.act.envs.worlds.alfworld import alfred
from hiper_jax.act.envs.worlds.alfworld import house as rooms
from hiper_jax.act.envs.worlds.alfworld.dialect import DOMAIN_FILE, GRAMMAR_FILE

# What is done to the object on its way, and where.
TREATMENT = {
    "pick_clean_then_place_in_recep": ("Cleanable", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("Heatable", "Microwave"),
    "pick_cool_then_place_in_recep": ("Coolable", "Fridge"),
}
LIGHT, TWO = "look_at_obj_in_light", "pick_two_obj_and_place"


class Aim(NamedTuple):
    """A goal that is due once those before it are done."""

    task_type: str
    target: str  # as in `Problem`
    parent: str
    lamp: str
    sentence: str


class Problem(NamedTuple):
    """A task and where everything stands."""

    task_type: str
    room: rooms.Room
    target: str  # type of the object to fetch
    parent: str  # type of the receptacle to bring it to; "" for a lamp
    lamp: str  # type of the lamp to use; "" otherwise
    objects: tuple[tuple[str, str, str], ...]  # (PDDL name, type, receptacle's name)
    sentence: str  # the task in words
    then: tuple[Aim, ...] = ()  # what is to be done after it, in this order

    @property
    def folder(self) -> str:
        """The task folder's name in ALFWorld's layout of the data."""
        goal = self.parent or self.lamp
        return f"{self.task_type}-{self.target}-None-{goal}-{self.room.number}"

    @property
    def signature(self) -> tuple:
        """The game as a player meets it; equal games have equal signatures."""
        placed = Counter((kind, place) for _, kind, place in self.objects)
        goal = (self.task_type, self.target, self.parent, self.lamp)
        later = tuple(aim[:4] for aim in self.then)
        goal += (later,) if later else ()
        return goal, self.room.receptacles, tuple(sorted(placed.items()))

    @property
    def aims(self) -> tuple[Aim, ...]:
        """All goals in their order."""
        first = self.task_type, self.target, self.parent, self.lamp, self.sentence
        return Aim(*first), *self.then


def pose(
    task_type: str,
    room: rooms.Room,
    *,
    objects: tuple[int, int],
    rng: random.Random,
    goals: int = 1,
) -> Problem | None:
    """Draws a task of this type and a placement of objects in the room.

    Args:
      task_type: one of `data.TASK_TYPES`.
      room: the layout.
      objects: the least and the greatest number of objects, the lamp included.
      rng: the only source of chance.
      goals: how many are to be done one after another, this task first.

    Returns:
      The problem, or None where the room has no goal of this type, or no room for all.
    """
    known = _goals(task_type, room)
    if not known:
        return None
    target, parent, lamp = rng.choice(known)
    wanted = rng.randint(*objects)
    copies = rng.randint(2, 3) if task_type == TWO else rng.choice((1, 1, 2))
    then = _later((task_type, target, parent, lamp), room, goals, rng)
    if len(then) < goals - 1:
        return None
    lamp = lamp or max((aim.lamp for aim in then), default="")
    kinds = [target] * min(copies, wanted - bool(lamp))
    for aim in then:
        kinds += [aim.target] * (1 + (aim.task_type == TWO) - kinds.count(aim.target))
    targets = {target, *(aim.target for aim in then)}
    others = [t for t in room.object_types if t not in targets]
    rng.shuffle(others)
    while others and len(kinds) + bool(lamp) < wanted:
        # Later rounds repeat a type: several mugs in one kitchen, as in ALFRED.
        kinds += others[: wanted - bool(lamp) - len(kinds)]
    placed = []
    for kind in kinds:
        banned = {parent} if kind == target else set()
        banned |= {aim.parent for aim in then if aim.target == kind}
        homes = [
            name
            for name, place in room.receptacles
            if alfred.takes(place, kind) and place not in banned
        ]
        if not homes or len(kinds) + bool(lamp) > objects[1]:
            return None
        placed.append((kind, rng.choice(homes)))
    if lamp:
        stands = [n for n, place in room.receptacles if place in rooms.LAMP_STANDS]
        placed.append((lamp, rng.choice(stands)))
    placed.sort()
    named = tuple(
        (rooms.mangle(kind, i + 0.25, 0.95, rng.randint(-99, 99) / 10), kind, home)
        for i, (kind, home) in enumerate(placed)
    )
    lamp = lamp if task_type == LIGHT else ""
    sentence = _sentence(task_type, target, parent, lamp, rng)
    then = tuple(aim._replace(sentence=_sentence(*aim[:4], rng)) for aim in then)
    return Problem(task_type, room, target, parent, lamp, named, sentence, then)


def _sentence(task_type, target, parent, lamp, rng) -> str:
    words = {"obj": target, "recep": parent, "toggle": lamp, "mrecep": ""}
    template = rng.choice(alfred.SENTENCES[task_type])
    return template.format(**{key: word.lower() for key, word in words.items()})


def _later(first, room, goals: int, rng) -> list[Aim]:
    """Goals to follow the first: of other things, or something else with the same.

    Every second one, where the room has such a goal, is about the thing that the goal
    before it has just left somewhere.
    """
    seen, found = [first], []
    for _ in range(20 * goals):
        if len(seen) == goals:
            break
        types = [kind for kind in alfred.SENTENCES if _goals(kind, room)]
        kind = rng.choice(types)
        fresh = [goal for goal in _goals(kind, room) if (kind, *goal) not in seen]
        same = [goal for goal in fresh if goal[0] == seen[-1][1]]
        fresh = same if same and rng.random() < 0.5 else fresh
        if fresh:
            seen.append((kind, *rng.choice(fresh)))
            found.append(Aim(*seen[-1], sentence=""))
    return found


def _goals(task_type, room) -> list[tuple[str, str, str]]:
    """All (target, parent, lamp) of the type that the room allows."""
    places = sorted({place for _, place in room.receptacles})
    if task_type == LIGHT:
        if not any(place in rooms.LAMP_STANDS for place in places):
            return []
        return [
            (thing, "", lamp) for thing in room.object_types for lamp in rooms.LAMPS
        ]
    verb, station = TREATMENT.get(task_type, ("", ""))
    if station and station not in places:
        return []
    goals = []
    for thing in room.object_types:
        if verb and not alfred.affords(thing, verb):
            continue
        homes = [place for place in places if alfred.takes(place, thing)]
        for parent in homes:
            if parent != station and len(homes) > 1:
                goals.append((thing, parent, ""))
    return goals


def traj_data(problem: Problem) -> dict:
    """The content of traj_data.json."""
    return {
        "task_type": problem.task_type,
        "pddl_params": {
            "object_target": problem.target,
            "parent_target": problem.parent,
            "toggle_target": problem.lamp,
            "mrecep_target": "",
            "object_sliced": False,
        },
        "scene": {
            "floor_plan": f"FloorPlan{problem.room.number}",
            "scene_num": problem.room.number,
        },
        "turk_annotations": {"anns": [{"task_desc": problem.sentence}]},
    }


def game_data(problem: Problem, walkthrough: list[str] | None) -> dict:
    """The content of game.tw-pddl; solvable if there is a walkthrough."""
    game = {
        "pddl_domain": DOMAIN_FILE,
        "grammar": GRAMMAR_FILE,
        "task": f"{problem.sentence}.",
        "pddl_problem": pddl(problem),
        "solvable": walkthrough is not None,
        "walkthrough": walkthrough,
    }
    if problem.then:
        game["then"] = [
            {
                "task": f"{aim.sentence}.",
                "task_type": aim.task_type,
                # The bracket that ends the problem ends the template, too.
                "pddl_goal": _goal(aim).rstrip().removesuffix(")"),
            }
            for aim in problem.then
        ]
    return game


def _goal(aim: Aim) -> str:
    return alfred.GOALS[aim.task_type].format(
        obj=aim.target, recep=aim.parent, toggle=aim.lamp
    )


def pddl(problem: Problem) -> str:
    """The content of initial_state.pddl."""
    receptacles = problem.room.receptacles
    location = {name: f"loc_bar_{i}_bar_0" for i, (name, _) in enumerate(receptacles)}
    places = sorted({place for _, place in receptacles})
    kinds = sorted({kind for _, kind, _ in problem.objects})
    things = ["agent1 - agent"]
    things += [f"{name} - object" for name, _, _ in problem.objects]
    things += [f"{kind}Type - otype" for kind in kinds]
    things += [f"{place}Type - rtype" for place in places]
    things += [f"{name} - receptacle" for name, _ in receptacles]
    things += [f"{name} - location" for name in [*location.values(), "loc_bar_start"]]
    facts = ["(atLocation agent1 loc_bar_start)"]
    for name, place in receptacles:
        facts.append(f"(receptacleType {name} {place}Type)")
        facts.append(f"(receptacleAtLocation {name} {location[name]})")
        if alfred.affords(place, "Openable"):
            facts.append(f"(openable {name})")
    for name, kind, home in problem.objects:
        facts.append(f"(objectType {name} {kind}Type)")
        facts += [f"({what} {name})" for what in _properties(kind)]
        facts.append(f"(inReceptacle {name} {home})")
        facts.append(f"(objectAtLocation {name} {location[home]})")
    for place in places:
        for kind in kinds:
            if alfred.takes(place, kind):
                facts.append(f"(canContain {place}Type {kind}Type)")
    goal = _goal(problem.aims[0])
    lines = [f"(define (problem plan_{problem.room.number})", "(:domain alfred)"]
    lines += ["(:objects", *things, ")", "(:init", *facts, ")"]
    return "\n".join(lines) + "\n" + goal + "\n"


def _properties(kind) -> list[str]:
    if alfred.affords(kind, "Toggleable"):
        return ["toggleable"]
    found = ["pickupable"]
    if alfred.affords(kind, "Hollow"):
        found.append("isReceptacleObject")
    for verb in ("Cleanable", "Heatable", "Coolable", "Sliceable"):
        if alfred.affords(kind, verb):
            found.append(verb.lower())
    return found
