"""What ALFWorld says about rooms, things and tasks: the tables of alfred.json.

They are facts of the alfworld package, which is not needed to use them: which
receptacle holds what, what can be done with a thing, what the 120 rooms are furnished
with, and how a task is worded and posed.
"""

import json
import pathlib

_TABLES = json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())

# Of rooms, in the order of their numbers: 1 to 30, 201 to 230, 301 to 330, 401 to 430.
KINDS = ("Kitchen", "LivingRoom", "Bedroom", "Bathroom")
_HUNDREDS = {"Kitchen": 0, "LivingRoom": 200, "Bedroom": 300, "Bathroom": 400}
_TAKES = {kind: frozenset(v.split()) for kind, v in _TABLES["takes"].items()}
_AFFORDS = {verb: frozenset(v.split()) for verb, v in _TABLES["affords"].items()}

# From a task type to its sentences, with {obj}, {recep}, {toggle} for types in words.
SENTENCES = {task: tuple(v["sentences"]) for task, v in _TABLES["tasks"].items()}
# From a task type to the PDDL goal, and the bracket that ends the problem.
GOALS = {task: v["goal"] for task, v in _TABLES["tasks"].items()}
HOLDERS = frozenset(_TAKES)


def takes(receptacle: str, thing: str) -> bool:
    """Whether a receptacle of this type holds an object of that type."""
    return thing in _TAKES.get(receptacle, ())


def affords(thing: str, verb: str) -> bool:
    """Whether the type is of a sort: "Heatable", "Coolable", "Cleanable", "Sliceable",
    "Toggleable", "Openable", or "Hollow", which can hold things and be moved."""
    return thing in _AFFORDS[verb]


def sort(verb: str) -> frozenset[str]:
    """All types of a sort; see `affords`."""
    return _AFFORDS[verb]


def kinds_for(task_type: str) -> tuple[str, ...]:
    """The kinds of room that a task type is posed in."""
    return tuple(_TABLES["tasks"][task_type]["rooms"].split())


def kind_of(number: int) -> str:
    """The kind of room of this number."""
    return next(kind for kind in KINDS if 0 < number - _HUNDREDS[kind] <= 30)


def numbers(kind: str, *, unseen: bool) -> tuple[int, ...]:
    """The room numbers of a kind that belong to training or to the unseen split."""
    first, end = (1, 7) if unseen else (7, 31)
    return tuple(range(_HUNDREDS[kind] + first, _HUNDREDS[kind] + end))


def floor_plan(number: int) -> tuple[list[str], list[str]]:
    """What is known of a room: `Type|x|y|z` of receptacles, sorted; types of things."""
    places, things = _TABLES["rooms"][str(number)]
    return places.split(), things.split()
