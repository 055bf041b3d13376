"""A planner that plays ALFWorld by what it has seen, and says what it is about.

It searches the room place by place, in the order of the admissible actions, and names
each stretch of the way by a subgoal. The subgoal carries what has to be remembered, so
that a player who sees only the last turns and its subgoal can go on from there:

    find apple: cabinet 2                          go there, open it, take the apple
    find book: shelf 1 (desklamp: desk 1)          the same; a lamp was seen on the way
    heat apple with microwave 1                    go there, heat it
    put apple in fridge 1                          go there, open it, put it in
    put first mug in desk 1 (next: shelf 2)        one of two; search on at shelf 2
    find second mug: shelf 2
    find desklamp: desk 1                          go there, use it
    use desklamp: desk 1                           the same, when it was seen before
    return spoon: drawer 1                         something else is in the hand

Without chance in its moves the expert's action is a function of those turns, the
subgoal and the admissible actions.
"""

import functools
import random
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from hiper_jax.act.envs.demo import Demo, take_turn
from hiper_jax.act.envs.env import Env
from hiper_jax.act.envs.worlds.alfworld.alfred import SENTENCES

VERBS = {
    "pick_clean_then_place_in_recep": ("clean", "sinkbasin"),
    "pick_heat_then_place_in_recep": ("heat", "microwave"),
    "pick_cool_then_place_in_recep": ("cool", "fridge"),
}
LIGHT, TWO = "look_at_obj_in_light", "pick_two_obj_and_place"
_UNDONE_BY = {"heat": "cool", "cool": "heat"}

_ARRIVE = re.compile(r"You arrive at (\w+ \d+)\.")
_LISTING = re.compile(r"(?:On|open\. In) (?:the (\w+ \d+)|it), you see (.*?)\.(?:\s|$)")
_SHUT = re.compile(r"(?:The|close the) (\w+ \d+)(?: is closed)?\.")
_OPEN = re.compile(r"The (\w+ \d+) is open\.")
_TAKE = re.compile(r"You pick up the (\w+ \d+) from the (\w+ \d+)\.")
_MOVE = re.compile(r"You (?:move|put) the (\w+ \d+) (?:to|in/on) the (\w+ \d+)\.")
_TREAT = re.compile(r"You (clean|heat|cool) the (\w+ \d+) using")
_THING = re.compile(r"\ban? (\w+ \d+)")


def demonstrate(env: Env, task: str, *, noise: float = 0.0, rng: random.Random) -> Demo:
    """Plays `task` to its end.

    Args:
      env: an ALFWorld environment.
      task: which game.
      noise: how often, from 0 to 1, an action drawn at random is played in place of
        the expert's: one that is admissible, or that was before and may do nothing
        now. The expert goes on from wherever that leads.
      rng: where the chance comes from.

    Returns:
      The episode; won unless the environment's turns ran out.
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"noise is a probability from 0 to 1, not {noise}.")
    observation, info = env.reset(task)
    planner = Planner(info)
    first, steps, over, previous = info, [], info["won"], None
    known: list[str] = []
    while not over:
        actions = info["admissible_actions"]
        known += [action for action in actions if action not in known]
        subgoal, wanted = planner.act(actions)
        action = wanted
        if rng.random() < noise:
            action = rng.choice(known if rng.random() < 0.5 else actions)
        step, observation, info = take_turn(
            env,
            observation,
            info,
            subgoal=subgoal,
            previous=previous,
            wanted=wanted,
            action=action,
            task=info["task"],
        )
        steps.append(step)
        planner.observe(observation)
        # With another task nothing is kept.
        previous = None if planner.turn_to(info) else subgoal
        over = step.terminated or step.truncated
    return Demo(task, first, tuple(steps), observation)


def places_of(actions: Sequence[str]) -> list[str]:
    """The places that can be walked to, in the order of the actions."""
    return [a.removeprefix("go to ") for a in actions if a.startswith("go to ")]


class Goal(NamedTuple):
    """A task, read from its sentence; types in the words the game uses."""

    task_type: str
    target: str
    parent: str  # "" in a lamp task
    lamp: str  # "" otherwise


@functools.lru_cache(maxsize=16)
def _templates(task_type: str) -> tuple[re.Pattern, ...]:
    patterns = []
    for template in SENTENCES[task_type]:
        text = re.escape(template)
        for key in ("obj", "recep", "toggle"):
            text = text.replace(rf"\{{{key}\}}", rf"(?P<{key}>\w+)")
        patterns.append(re.compile(text + r"\.?"))
    return tuple(patterns)


def read_goal(task_type: str, sentence: str) -> Goal:
    """Reads a task sentence made from ALFWorld's templates.

    Raises:
      ValueError: the sentence is none of them.
    """
    for pattern in _templates(task_type):
        match = pattern.fullmatch(sentence.strip())
        if match:
            words = match.groupdict(default="")
            parent, lamp = words.get("recep", ""), words.get("toggle", "")
            return Goal(task_type, words["obj"], parent, lamp)
    raise ValueError(
        f"The planner cannot read the task {sentence!r} of type {task_type}: use games "
        "with templated task sentences."
    )


def kind(name: str) -> str:
    """The type of a numbered thing: "apple 1" is an apple."""
    return name.split(" ", 1)[0]


class Planner:
    """What the player knows, and what it does next."""

    def __init__(self, info: dict):
        """
        Args:
          info: of the reset: task, task_type, and the admissible actions, from which
            the places of the room are read.
        """
        self.task = info["task"]
        self.goal = read_goal(info["task_type"], info["task"])
        self.places = places_of(info["admissible_actions"])
        self.here = None
        self.held = None
        self.origin = None  # where the held thing, or the last one, was taken
        self.contents: dict[str, set[str]] = {}  # what was seen at each place
        self.shut: dict[str, bool] = {}
        self.done: dict[str, set[str]] = {}  # from a thing to its treatments
        self._looking = None  # the place being searched
        self._looked = False  # its contents were seen since the search came to it
        self._stage: tuple = ()
        self._subgoal = ""

    def turn_to(self, info: dict) -> bool:
        """Takes up the goal that is due now; returns whether it is another.

        What is not in sight is forgotten: a player who is taught by this one sees the
        last turns only, and the subgoal that would have carried the rest is done.
        """
        if info["task"] == self.task:
            return False
        self.task = info["task"]
        self.goal = read_goal(info["task_type"], info["task"])
        here: Any = self.here
        self.contents = {p: c for p, c in self.contents.items() if p == here}
        self.shut = {p: s for p, s in self.shut.items() if p == here}
        self.done, self._looking, self._looked = {}, None, False
        self._stage, self._subgoal = (), ""
        return True

    def observe(self, observation: str) -> None:
        """Takes in what the game answered to the last action."""
        if match := _ARRIVE.search(observation):
            self.here = match[1]
        if match := _TAKE.search(observation):
            self.held, self.origin = match[1], match[2]
            self.contents.setdefault(match[2], set()).discard(match[1])
        elif match := _MOVE.search(observation):
            self.held = None
            self.contents.setdefault(match[2], set()).add(match[1])
        elif match := _TREAT.search(observation):
            done = self.done.setdefault(match[2], set())
            done.add(match[1])
            done.discard(_UNDONE_BY.get(match[1]))
        elif match := _OPEN.search(observation):
            self.shut[match[1]] = False
        elif match := _SHUT.search(observation):
            self.shut[match[1]] = True
        if match := _LISTING.search(observation):
            place: Any = match[1] or self.here
            self.contents[place] = set(_THING.findall(match[2]))
            self._looked |= place == self._looking

    def act(self, admissible_actions: list[str]) -> tuple[str, str]:
        """Chooses the next move.

        Args:
          admissible_actions: what the game allows now.

        Returns:
          The subgoal and the action.
        """
        stage, action = self._next(admissible_actions)
        if action.startswith("move ") and action not in admissible_actions:
            # Games made before ALFWorld 0.4 say it this way.
            action = action.replace("move ", "put ", 1).replace(" to ", " in/on ", 1)
        if action not in admissible_actions:
            raise RuntimeError(
                f"The planner wants {action!r}, which the game does not allow, for the "
                f"task {self.goal}: leave this game out of the demonstrations."
            )
        if stage != self._stage:
            self._stage, self._subgoal = stage, self._words(stage)
        return self._subgoal, action

    def _next(self, actions) -> tuple[tuple, str]:
        goal = self.goal
        if self.held is None:
            return self._fetch(goal.target, self._placed())
        if kind(self.held) != goal.target:
            return self._give_back(actions)
        if goal.task_type == LIGHT:
            return self._light()
        verb, station = VERBS.get(goal.task_type, ("", ""))
        if verb and verb not in self.done.get(self.held, ()):
            place = self._first(station)
            deed = f"{verb} {self.held} with {place}"
            return (verb, self.held, place), self._do_at(place, deed)
        place = self._first(goal.parent)
        return ("put", self.held, place), self._put(place)

    def _placed(self) -> set[str]:
        """What is already where it belongs (two-object tasks)."""
        if self.goal.task_type != TWO:
            return set()
        there = self.contents.get(self._first(self.goal.parent), set())
        return {thing for thing in there if kind(thing) == self.goal.target}

    def _fetch(self, wanted, ignored) -> tuple[tuple, str]:
        place, thing = self._search(wanted, ignored)
        stage = ("find", wanted, len(ignored), place)
        if self.here != place:
            return stage, f"go to {place}"
        if self.shut.get(place):
            return stage, f"open {place}"
        return stage, f"take {thing} from {place}" if thing else f"examine {place}"

    def _light(self) -> tuple[tuple, str]:
        lamp = self.goal.lamp
        searching = self._stage[:2] == ("find", lamp)
        known = self._known(lamp, set())
        place, thing = self._search(lamp, set())
        verb = "use" if known and not searching else "find"
        if self.here != place:
            return (verb, lamp, 0, place), f"go to {place}"
        if thing is None and self.shut.get(place):
            return (verb, lamp, 0, place), f"open {place}"
        deed = f"use {thing}" if thing else f"examine {place}"
        return (verb, lamp, 0, place), deed

    def _known(self, wanted, ignored) -> list[tuple[str, str]]:
        """(place, thing) of all that was seen of a type; here first, then in order."""
        return [
            (place, thing)
            for place in sorted(self.contents, key=lambda p: (p != self.here, p))
            for thing in sorted(self.contents[place] - ignored)
            if kind(thing) == wanted
        ]

    def _search(self, wanted, ignored) -> tuple[str, str | None]:
        """Where to look for a type of thing, and the thing if it was seen there."""
        known = self._known(wanted, ignored)
        if known:
            self._looking, self._looked = known[0][0], True
            return known[0]
        if self._looking is None:
            self._looking, self._looked = self.places[0], False
        elif self._looked:
            self._looking, self._looked = self._after(self._looking), False
        return self._looking, None

    def _after(self, place) -> str:
        return self.places[(self.places.index(place) + 1) % len(self.places)]

    def _first(self, wanted) -> str:
        for place in self.places:
            if kind(place) == wanted:
                return place
        raise ValueError(
            f"The room has no {wanted}, which the task {self.goal} needs: leave this "
            "game out of the demonstrations."
        )

    def _resume(self) -> str:
        """Where the search for the second thing will begin."""
        known = self._known(self.goal.target, self._placed())
        if known or self._looking is None:
            return known[0][0] if known else self.places[0]
        return self._after(self._looking) if self._looked else self._looking

    def _do_at(self, place, deed) -> str:
        return deed if self.here == place else f"go to {place}"

    def _put(self, place) -> str:
        if self.here == place and self.shut.get(place):
            return f"open {place}"
        return self._do_at(place, f"move {self.held} to {place}")

    def _give_back(self, actions) -> tuple[tuple, str]:
        ways = (
            f"move {self.held} to {self.here}",
            f"put {self.held} in/on {self.here}",
        )
        place = self.here if set(ways) & set(actions) else self.origin
        return ("return", self.held, place), self._put(place)

    def _words(self, stage) -> str:
        verb, thing, *_, place = stage
        thing = kind(thing)
        counted, note = "", ""
        if self.goal.task_type == TWO and verb in ("put", "find"):
            number = len(self._placed())
            counted = "second " if number else ("first " if verb == "put" else "")
            note = "" if number or verb == "find" else f" (next: {self._resume()})"
        if verb == "find" and self.goal.lamp and thing != self.goal.lamp:
            lamps = self._known(self.goal.lamp, set())
            note = f" ({self.goal.lamp}: {lamps[0][0]})" if lamps else ""
        if verb in ("find", "use", "return"):
            return f"{verb} {counted}{thing}: {place}{note}"
        if verb == "put":
            return f"put {counted}{thing} in {place}{note}"
        return f"{verb} {thing} with {place}"
