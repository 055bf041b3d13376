"""One game, read from its file: what stands where, and what can be done with it."""

import functools
import json
import os
from collections import Counter, defaultdict
from typing import NamedTuple

from hiper_jax.act.envs.worlds.alfworld import brackets, ends
from hiper_jax.act.envs.worlds.alfworld.data import MAX_BYTES, TASK_TYPES
from hiper_jax.act.envs.worlds.alfworld.dialect import Dialect, check_task, recognise

MAX_FACTS = 20_000  # of a problem; ALFWorld's largest has some 1,500
MAX_GOALS = 10  # one after another; ours have three
MAX_THINGS = 2_000  # receptacles and objects; ALFWorld's largest room has some 150
GAME_KEYS = ("pddl_domain", "grammar", "pddl_problem")

_NATURES = ("pickupable", "toggleable", "isreceptacleobject", *sorted(ends.NATURES))
_MARKS = ("istoggled", *sorted(ends.MARKS))
_TYPES = ("rtype", "otype")
_MANGLED = (
    ("_bar_", "|"),
    ("_minus_", "-"),
    ("_plus_", "+"),
    ("_dot_", "."),
    ("_comma_", ","),
)
# The facts that matter in a game, and the types of what they are about.
_ABOUT = {
    "atlocation": ("agent", "location"),
    "holds": ("agent", "object"),
    "holdsany": ("agent",),
    "receptacleatlocation": ("receptacle", "location"),
    "receptacletype": ("receptacle", "rtype"),
    "openable": ("receptacle",),
    "opened": ("receptacle",),
    "cancontain": ("rtype", "otype"),
    "objectatlocation": ("object", "location"),
    "objecttype": ("object", "otype"),
    "inreceptacle": ("object", "receptacle"),
    "inreceptacleobject": ("object", "object"),
    **{what: ("object",) for what in _NATURES + _MARKS},
}


class Receptacle(NamedTuple):
    """What a thing can be put in or on; it never moves."""

    name: str  # as the player reads it: "fridge 1"
    place: int  # the location it is reached from; -1: from nowhere
    kinds: tuple[str, ...]  # "fridgetype"
    openable: bool


class Thing(NamedTuple):
    """What can be taken, used or treated: an object, in PDDL's words."""

    name: str  # "apple 2"
    kinds: frozenset[str]  # "appletype"
    natures: frozenset[str]  # of _NATURES
    content: tuple[int, ...]  # the things in it, if it is a bowl or the like


class State(NamedTuple):
    """All that a move can change. States are never altered, so one is its own copy."""

    place: int  # the location of the player
    held: tuple[int, ...]  # the things in hand, sorted
    full: bool  # the hand takes no more
    opened: frozenset[int]  # receptacles
    inside: tuple[tuple[int, ...], ...]  # [receptacles] the things in each, sorted
    near: frozenset[tuple[int, int]]  # (thing, location) it can be reached from
    taken: frozenset[tuple[int, int]]  # (thing, receptacle) it was taken out of
    marks: frozenset[tuple[str, int]]  # (one of _MARKS, thing)
    done: int = 0  # of the goals before the last, how many were reached


class Due(NamedTuple):
    """A goal of several that are due one after another."""

    task: str  # the sentence
    task_type: str  # "": as the file beside the game says
    goal: ends.Goal


class Game(NamedTuple):
    """All that never changes. Numbers follow the sorted PDDL names."""

    dialect: Dialect
    task: str  # the sentence
    places: tuple[str, ...]  # [locations] their names
    receptacles: tuple[Receptacle, ...]
    things: tuple[Thing, ...]
    at: tuple[tuple[int, ...], ...]  # [locations] the receptacles reached from each
    takes: dict[str, frozenset[str]]  # from a receptacle's type to things' types
    routes: dict[str, tuple]  # the commands to go anywhere; see `moves.Move`
    goal: ends.Goal
    start: State
    then: tuple[Due, ...] = ()  # what is due once the goal was reached, in this order

    def due(self, state: State) -> Due:
        """The goal that is due now."""
        return (
            self.then[state.done - 1] if state.done else Due(self.task, "", self.goal)
        )


def read_file(path: str) -> dict:
    """Reads a game.tw-pddl file.

    Args:
      path: the file.

    Returns:
      The game: a dict with the keys pddl_domain, grammar and pddl_problem at least.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a game.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"There is no game file {path}: list the games again, the data set was "
            "moved or is incomplete."
        )
    if os.path.getsize(path) > MAX_BYTES:
        raise ValueError(
            f"The game file {path} has more than {MAX_BYTES:,} bytes, which no game of "
            "ALFWorld has: make or download it again."
        )
    try:
        with open(path, encoding="utf-8") as file:
            game = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"The game file {path} is not readable as JSON ({error}): make or download "
            "it again."
        ) from None
    texts = game if isinstance(game, dict) else {}
    missing = [key for key in GAME_KEYS if not isinstance(texts.get(key), str)]
    if missing:
        raise ValueError(
            f"The game file {path} has no {', '.join(missing)}: make or download it "
            "again."
        )
    return game


def load(path: str) -> Game:
    """Reads a game. All who play it share it, until its file changes.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a game, or not one of ALFWorld's domain.
    """
    stamp = os.stat(path) if os.path.isfile(path) else None
    return _load(path, stamp and (stamp.st_mtime_ns, stamp.st_size))


@functools.lru_cache(maxsize=1024)
def _load(path, stamp) -> Game:
    del stamp  # it only tells one content of the file from another
    content = read_file(path)
    try:
        return read_game(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_game(content: dict) -> Game:
    """Reads what a game file holds.

    Args:
      content: with the keys pddl_domain, grammar and pddl_problem; see `dialect` for
        what may stand in the place of the first two.

    Returns:
      The game.

    Raises:
      ValueError: the domain, the grammar or the problem is not ALFWorld's.
    """
    dialect, task = recognise(content)
    try:
        kinds, facts, aim = _read_problem(content["pddl_problem"])
        goal = ends.read_goal(aim)
        built = _build(_Facts(kinds, facts), dialect, task, goal)
        return built._replace(then=_read_then(content.get("then", [])))
    except ValueError as error:
        raise ValueError(
            f"The PDDL problem cannot be read ({error}): make or download the game "
            'again, or set engine="textworld".'
        ) from None


def _read_then(listed) -> tuple[Due, ...]:
    """The goals after the first."""
    if not isinstance(listed, list) or len(listed) >= MAX_GOALS:
        raise ValueError(f"its later goals are no list of fewer than {MAX_GOALS}")
    found = []
    for one in listed:
        known = one if isinstance(one, dict) else {}
        kind, text = known.get("task_type"), known.get("pddl_goal")
        if kind not in TASK_TYPES or not isinstance(text, str):
            raise ValueError("one of its later goals has no known type or no formula")
        head, *formula = brackets.read_form(text) or [""]
        if head != ":goal" or len(formula) != 1:
            raise ValueError("one of its later goals is no (:goal ...) of one formula")
        task = check_task(known.get("task"))
        found.append(Due(task, kind, ends.read_goal(formula[0])))
    return tuple(found)


def _read_problem(text: str) -> tuple[dict[str, str], list[tuple[str, ...]], list]:
    """The type of each declared name, the facts, and the goal's formula."""
    head, *parts = brackets.read_form(text) or [""]
    if head != "define" or not all(isinstance(p, list) and p for p in parts):
        raise ValueError("it is no (define ...) of lists")
    parts = [part for part in parts if part[0] not in (":requirements", ":metric")]
    names = [part[0] for part in parts]
    if names != ["problem", ":domain", ":objects", ":init", ":goal"]:
        raise ValueError("it is no problem with a domain, objects, init and goal")
    _, domain, objects, init, goal = (part[1:] for part in parts)
    if domain != ["alfred"] or len(goal) != 1:
        raise ValueError("it is not of the domain alfred, or has not one goal")
    declared = brackets.typed(objects)
    kinds = dict(declared)
    if len(kinds) != len(declared):
        raise ValueError("it declares a name twice")
    if list(kinds.values()).count("agent") != 1:
        raise ValueError("it has not one agent")
    facts = set()
    for fact in init:
        if fact and fact[0] in ("=", "not"):
            continue  # a cost, or something that is false
        words = [word for word in fact if isinstance(word, str)]
        if not fact or isinstance(fact, str) or words != fact:
            raise ValueError("one of its facts is no list of words")
        facts.add(tuple(fact))
    if len(facts) > MAX_FACTS:
        raise ValueError(f"it has more than {MAX_FACTS:,} facts")
    return kinds, sorted(facts), goal[0]


class _Facts:
    """The facts that matter; things that can be met are numbers, types are words."""

    def __init__(self, kinds: dict[str, str], facts: list[tuple[str, ...]]):
        self._told: dict[str, list] = defaultdict(list)
        # Only what some fact speaks of exists, for the stock engine numbers those.
        names = sorted({name for _, *about in facts for name in about})
        self.named: dict[str, list[str]] = defaultdict(list)  # from a type, as shown
        number = {}
        for name, shown in zip(names, _shown_names(names), strict=True):
            group = self.named[kinds.get(name, "")]
            number[name] = name if kinds.get(name) in _TYPES else len(group)
            group.append(shown)
        for what, *about in facts:
            types = tuple(kinds.get(name) for name in about)
            if None in types:
                raise ValueError(f"{what} is said of a name that it does not declare")
            if types != _ABOUT.get(what, types):
                raise ValueError(f"{what} is said of what it cannot be said of")
            self._told[what].append(tuple(number[name] for name in about))

    def pairs(self, what: str) -> list[tuple]:
        return self._told[what]

    def ones(self, what: str) -> frozenset:
        return frozenset(first for first, *_ in self._told[what])

    def by_first(self, what: str) -> dict:
        found = defaultdict(list)
        for first, second in self._told[what]:
            found[first].append(second)
        return found

    def by_second(self, what: str) -> dict:
        found = defaultdict(list)
        for first, second in self._told[what]:
            found[second].append(first)
        return found


def _shown_names(names: list[str]) -> list[str]:
    """What the player reads for sorted PDDL names: apple_bar_... is "apple 2".

    The first of several in this order has the highest number, as in the stock engine.
    """
    words = []  # of each: the word, and whether it is counted
    for name in names:
        text = name
        for old, new in _MANGLED:
            text = text.replace(old, new)
        word, bar, _ = text.partition("|")
        words.append((word + "basin" * bool(bar and "basin" in name), bool(bar)))
    left = Counter(words)
    shown = []
    for word, counted in words:
        # The space after an uncounted word is the stock engine's.
        shown.append(f"{word} {left[word, counted] if counted else ''}")
        left[word, counted] -= 1
    return shown


def _build(facts: _Facts, dialect, task, goal) -> Game:
    standing = facts.pairs("atlocation")
    if len(standing) != 1:
        raise ValueError("its agent is not at one place")
    reached = dict(facts.pairs("receptacleatlocation"))
    if len(reached) != len(facts.pairs("receptacleatlocation")):
        raise ValueError("a receptacle stands at two places")
    receptacles, things = facts.named["receptacle"], facts.named["object"]
    if len(receptacles) + len(things) > MAX_THINGS:
        raise ValueError(f"it has more than {MAX_THINGS:,} receptacles and objects")
    at, inside = (
        facts.by_second(what) for what in ("receptacleatlocation", "inreceptacle")
    )
    kinds, types, takes = (
        facts.by_first(what) for what in ("receptacletype", "objecttype", "cancontain")
    )
    content, openable = facts.by_second("inreceptacleobject"), facts.ones("openable")
    natures = {what: facts.ones(what) for what in _NATURES}
    start = State(
        place=standing[0][1],
        held=tuple(thing for _, thing in facts.pairs("holds")),
        full=bool(facts.pairs("holdsany")),
        opened=facts.ones("opened"),
        inside=tuple(tuple(inside[i]) for i in range(len(receptacles))),
        near=frozenset(facts.pairs("objectatlocation")),
        taken=frozenset(),
        marks=frozenset((what, i) for what in _MARKS for i in facts.ones(what)),
    )
    return Game(
        dialect=dialect,
        task=task,
        places=tuple(facts.named["location"]),
        receptacles=tuple(
            Receptacle(name, reached.get(i, -1), tuple(kinds[i]), i in openable)
            for i, name in enumerate(receptacles)
        ),
        things=tuple(
            Thing(
                name,
                frozenset(types[i]),
                frozenset(what for what in _NATURES if i in natures[what]),
                tuple(other for other in content[i] if other != i),
            )
            for i, name in enumerate(things)
        ),
        at=tuple(tuple(at[i]) for i in range(len(facts.named["location"]))),
        takes={kind: frozenset(found) for kind, found in takes.items()},
        routes={f"go to {receptacles[i]}": ("go to", -1, i) for i in reached},
        goal=goal,
        start=start,
    )
