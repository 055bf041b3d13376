"""ALFWorld problems with everything odd that the domain allows, drawn at random.

Official games have some of it (things in two receptacles, two receptacles at one place,
names without facts, facts said twice), none has all.
"""

import random

KINDS = (
    "Fridge",
    "Microwave",
    "Sink",  # becomes a sink basin, by its last part
    "Cabinet",
    "Drawer",
    "CounterTop",
    "Shelf",
)
TYPES = (
    "Apple",
    "Bread",
    "Mug",
    "Bowl",
    "Knife",
    "ButterKnife",
    "DeskLamp",
    "Cloth",
    "Pot",
)
NATURES = ("pickupable", "cleanable", "heatable", "coolable", "sliceable", "toggleable")
MARKS = ("isClean", "isHot", "isCool", "isSliced", "isToggled", "isOn")

# Goals, as ALFWorld writes them but for the line breaks.
STORED = (
    "(and (exists (?r - receptacle) (exists (?o - object) (and (inReceptacle ?o ?r)"
    " (objectType ?o {thing}Type) (receptacleType ?r {place}Type){asked}))))"
)
TWO = (
    "(and (exists (?r - receptacle) (exists (?o1 - object) (and (objectType ?o1"
    " {thing}Type) (receptacleType ?r {place}Type) (inReceptacle ?o1 ?r) (exists"
    " (?o2 - object) (and (not (= ?o1 ?o2)) (objectType ?o2 {thing}Type)"
    " (receptacleType ?r {place}Type) (inReceptacle ?o2 ?r)))))))"
)
LIGHT = (
    "(and (exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and"
    " (objectType ?ot DeskLampType) (toggleable ?ot) (isToggled ?ot)"
    " (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))"
    " (exists (?o - object ?a - agent) (and (objectType ?o {thing}Type)"
    " (holds ?a ?o))))"
)
ASKED = (
    "",
    " (cleanable ?o) (isClean ?o)",
    " (heatable ?o) (isHot ?o)",
    " (coolable ?o) (isCool ?o)",
    " (sliceable ?o) (isSliced ?o) (coolable ?o) (isCool ?o)",
)


def draw_room(rng: random.Random) -> str:
    """The PDDL of a room; its goal may be out of reach."""
    places = [f"loc_bar_{i}_bar_0" for i in range(rng.randint(2, 6))]
    receptacles = _named(rng, KINDS, rng.randint(2, 9))
    things = _named(rng, TYPES, rng.randint(3, 14))
    facts, objects = [f"(atLocation agent1 {rng.choice(places + ['loc_start'])})"], []
    for name, kind in receptacles:
        kind = "SinkBasin" if kind == "Sink" else kind
        facts.append(f"(receptacleType {name} {kind}Type)")
        if rng.random() < 0.93:
            facts.append(f"(receptacleAtLocation {name} {rng.choice(places)})")
        if rng.random() < 0.5:
            facts.append(f"(openable {name})")
        if rng.random() < 0.2:
            facts.append(f"(opened {name})")
    for name, kind in things:
        facts.append(f"(objectType {name} {kind}Type)")
        facts += [f"({what} {name})" for what in NATURES if rng.random() < 0.55]
        facts += [f"({what} {name})" for what in MARKS if rng.random() < 0.08]
        if rng.random() < 0.1:
            facts.append(f"(isReceptacleObject {name})")
            inner = [rng.choice(things)[0] for _ in range(rng.randint(0, 3))]
            facts += [f"(inReceptacleObject {other} {name})" for other in inner]
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            facts.append(f"(inReceptacle {name} {rng.choice(receptacles)[0]})")
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            facts.append(f"(objectAtLocation {name} {rng.choice(places)})")
        if rng.random() < 0.1:
            facts.append(f"(wasInReceptacle {name} {rng.choice(receptacles)[0]})")
    for place in ("SinkBasin", *KINDS):
        for kind in TYPES:
            if rng.random() < 0.7:
                facts += [f"(canContain {place}Type {kind}Type)"] * rng.randint(1, 2)
    if rng.random() < 0.15:
        facts += [f"(holds agent1 {name})" for name, _ in rng.sample(things, 2)]
        facts += ["(holdsAny agent1)"] * rng.randint(0, 1)
    goal, needed = _goal(rng, receptacles, things)
    facts += needed
    facts += ["(= (total-cost) 0)"] * rng.randint(0, 1)
    facts += [f"(not (opened {receptacles[0][0]}))"] * ("opened" not in str(facts))
    rng.shuffle(facts)
    objects = ["agent1 - agent", *(f"{kind} - object" for kind in TYPES)]
    objects += [f"{kind}Type - otype" for kind in TYPES]
    objects += [f"{kind}Type - rtype" for kind in (*KINDS, "SinkBasin")]
    objects += [f"{name} - receptacle" for name, _ in receptacles]
    objects += [f"{name} - object" for name, _ in things]
    objects += [f"{name} - location" for name in (*places, "loc_start")]
    rng.shuffle(objects)
    lines = ["(define (problem odd) ; a comment (", "(:domain alfred)", "(:objects"]
    lines += [*objects, ")", "(:init", *facts, ")", f"(:goal {goal})", ")"]
    return "\n".join(lines)


def _named(rng, kinds, number) -> list[tuple[str, str]]:
    """(PDDL name, type), the names as ALFWorld writes them, in any letter case."""
    found = {}
    for i in range(number):
        kind = rng.choice(kinds)
        name = f"{kind}_bar__plus_{rng.randint(0, 9)}_dot_{i}_bar__minus_0_dot_{i}"
        if kind == "Sink":
            name += "_bar_SinkBasin"
        if rng.random() < 0.05:
            name = f"{kind}{i}"  # a name without coordinates is not numbered
        found[name] = kind
    return list(found.items())


def _goal(rng, receptacles, things) -> tuple[str, list[str]]:
    """A goal, and facts without which it could hardly be reached."""
    name, thing = rng.choice(things)
    where, place = rng.choice(receptacles)
    place = "SinkBasin" if place == "Sink" else place
    facts = [f"(canContain {place}Type {thing}Type)", f"(pickupable {name})"]
    facts += [f"(inReceptacle {name} {where})"] * rng.randint(0, 1)
    kind = rng.choice(("stored", "stored", "two", "light"))
    if kind == "two":
        return TWO.format(thing=thing, place=place), facts
    if kind == "light":
        return LIGHT.format(thing=thing), facts
    asked = rng.choice(ASKED)
    wanted = asked.replace("(", "").replace(")", "").replace("?o", "").split()
    facts += [f"({what} {name})" for what in wanted if rng.random() < 0.7]
    return STORED.format(thing=thing, place=place, asked=asked), facts
