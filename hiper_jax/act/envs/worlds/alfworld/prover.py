"""Proves a game solvable: ALFWorld's hand-coded expert plays it, in our own words.

A made game is kept if this player wins it; so which games a seed makes depends on its
every move, and the tests hold it against the expert of ALFWorld 0.4.2. It has that
one's weakness, too: it never notices that it put a thing down ("move" is not "put"), so
that with two things to place it wins by its chance moves only. For demonstrations there
is a better player, in `expert`.
"""

import random
import re

from hiper_jax.act.envs.worlds.alfworld import alfred
from hiper_jax.act.envs.worlds.alfworld.game import Game
from hiper_jax.act.envs.worlds.alfworld.native import NOTHING, Engine, Seen

_OPENABLE = {kind.lower() for kind in alfred.sort("Openable")}
_RECEPTACLES = {kind.lower() for kind in alfred.HOLDERS | alfred.sort("Hollow")}
_PATIENCE = 200  # moves; then it gives up
_TREATMENTS = {  # of a task type: the verb, its station, the mark that it leaves
    "pick_clean_then_place_in_recep": ("clean", "sinkbasin", "isclean"),
    "pick_heat_then_place_in_recep": ("heat", "microwave", "ishot"),
    "pick_cool_then_place_in_recep": ("cool", "fridge", "iscool"),
}
_SEEN_AT = re.compile(r"(?:You open|On) the (\w+ \d+)|(\w+ \d+) is open\.")
_THING = re.compile(r"a (\w+ \d+)")


def prove(
    game: Game, task_type: str, *, target: str, parent: str, lamp: str, limit: int
) -> list[str] | None:
    """Plays a game.

    Args:
      game: which.
      task_type: one of `alfred.SENTENCES`.
      target: the type of the thing to fetch, as in ALFRED: "Apple".
      parent: the type of the receptacle to bring it to; "" in a lamp task.
      lamp: the type of the lamp to use; "" otherwise.
      limit: how many moves it may take.

    Returns:
      The winning moves, or None if there are none within the limit.
    """
    engine = Engine()
    engine.restore((game, game.start))
    player = _Player(engine, engine.reset().text, task_type, target, parent, lamp)
    command, commands = "look", []
    for _ in range(min(limit, _PATIENCE)):
        seen = engine.step(command)
        commands.append(command)
        command = player.next_command(seen, command)
        if seen.won:
            return commands
    return None


def _plain(text: str) -> str:
    """Without numbers: "take apple 1 from desk 2" is "take apple from desk"."""
    return re.sub(r"\d", "", " ".join(text.split())).replace("  ", " ").strip()


class _Player:
    """What the expert remembers; names are the shown ones, types in lower case."""

    def __init__(self, engine, introduction, task_type, target, parent, lamp):
        self._engine, self._random = engine, random.Random(0)
        self._target, self._parent, self._lamp = map(str.lower, (target, parent, lamp))
        self._task_type, self._two = task_type, task_type == "pick_two_obj_and_place"
        self._verb, station, self._mark = _TREATMENTS.get(task_type, ("", "", ""))
        places = introduction.partition("\n")[0]
        self._places = _THING.findall(places)
        if station == "sinkbasin" and "sinkbasin" not in map(_plain, self._places):
            station = "bathtubbasin"
        fetch = [("find", self._target), ("take", self._target)]
        treat = [("go to", station), (self._verb, self._target)] if self._verb else []
        last = [("find", self._parent), ("put", self._parent)]
        if self._lamp:
            last = [("find", self._lamp), ("use", self._lamp)]
        self._stages = fetch + treat + last + (fetch + last if self._two else [])
        homes = {kind for kind in alfred.HOLDERS if alfred.takes(kind, target)}
        self._homes = {kind.lower() for kind in homes}
        self._here = ""
        self._looked_in = False  # what is here was seen, if it can be opened
        self._to_check: list[str] = []  # places to search, the last first
        self._picked: list[str] = []  # all that was ever picked up
        self._origin = ""  # where the last of it was taken
        self._to_close: list[str] = []  # commands for later
        self._visible: list[str] = []
        self._views: dict[str, str] = {}  # from a place to what was seen there
        self._known: dict[str, str] = {}  # from a type to the place where one was seen

    def next_command(self, seen: Seen, last: str) -> str:
        """What to do after `last` brought `seen`."""
        self._follow(seen.text, last)
        self._observe(seen.text)
        command = self._choose(seen, last)
        if command == last or (last == "look" and command not in seen.commands):
            command = self._random.choice(seen.commands)
        return command if command in seen.commands else "look"

    def _follow(self, text: str, last: str) -> None:
        """Keeps track of what the last command did."""
        if last.startswith("go to "):
            self._here = last.removeprefix("go to ")
            if self._here in self._to_check:
                self._to_check.remove(self._here)
            kind = _plain(self._here)
            closes = kind in _OPENABLE and self._here in self._places
            self._looked_in = not closes or "open" in text
        if text == NOTHING:
            return
        if last == f"open {self._here}":
            self._looked_in = True
            self._to_close.append(f"close {self._here}")
        elif last == f"close {self._here}" and last in self._to_close:
            self._to_close.remove(last)
        elif last.startswith("take "):
            thing, self._origin = re.findall(r"\w+ \d+", last)
            self._picked.append(thing)
            self._known.pop(_plain(thing), None)
            if thing in self._visible:
                self._visible.remove(thing)
            if self._here in self._views:
                self._views[self._here] = self._views[self._here].replace(thing, "")

    def _observe(self, text: str) -> None:
        """Remembers what is seen, and where."""
        head, sees, things = text.rpartition("you see")
        if not sees:
            return
        self._visible = _THING.findall(things)
        found = _SEEN_AT.search(head)
        if self._visible and found:
            place = found[1] or found[2]
            self._views[place] = text
            self._known |= {_plain(thing): place for thing in self._visible}

    def _choose(self, seen: Seen, last: str) -> str:
        holds, stage = self._judge(seen.commands)
        verb, kind = self._stages[stage]
        shut = "closed" in seen.text and not self._looked_in
        wanted = [thing for thing in self._visible if _plain(thing) == kind]
        lost = bool(self._picked) and not holds  # something else is in the hand
        if verb == "find":
            there = self._here in (self._known.get(kind), *self._all(kind))
            if not wanted and not (there and self._looked_in and not lost):
                treated = last.split()[0] in ("heat", "cool", "clean", "slice")
                opens = shut and kind not in self._known and not treated
                return self._search(kind, lost, opens)
            self._to_close = []
        self._to_check = []
        if verb == "go to":
            return f"go to {self._all(kind)[0]}"
        if verb in ("clean", "heat", "cool"):
            return f"{verb} {self._picked[0]} with {self._here}"
        if verb == "put":
            deed = f"move {self._picked[0]} to {self._here}"
            return f"open {self._here}" if shut else deed
        if verb == "take" and shut and not self._visible:
            return f"open {self._here}"
        if verb in ("take", "use") and wanted:
            thing = self._random.choice(wanted)
            return (
                f"take {thing} from {self._here}" if verb == "take" else f"use {thing}"
            )
        if verb == "find" and lost:
            return self._give_back()
        opens = verb == "find" and "closed" in seen.text
        return f"{'open' if opens else 'examine'} {self._here}"

    def _all(self, kind: str) -> list[str]:
        """The places of a type."""
        return [place for place in self._places if _plain(place) == kind]

    def _search(self, kind: str, lost: bool, opens: bool) -> str:
        """Goes where a thing was seen, or may be, or anywhere."""
        if kind in self._known:
            self._to_check = [self._known[kind]]
        elif not self._to_check:
            likely = self._all(kind)
            if kind not in _RECEPTACLES:
                homes = self._homes if kind == self._target else ()
                likely = [place for place in self._places if _plain(place) in homes]
                rest = [place for place in self._places if place not in likely]
                likely = rest + likely
            self._to_check = likely or list(self._places)
        if self._here in self._to_check and self._looked_in:
            self._to_check.remove(self._here)
        if lost:
            return self._give_back()
        if opens:
            return f"open {self._here}"
        if self._to_close:
            return self._to_close.pop()
        return f"go to {self._to_check[-1]}" if self._to_check else "look"

    def _give_back(self) -> str:
        if self._here == self._origin:
            return f"move {self._picked[0]} to {self._origin}"
        return f"go to {self._origin}"

    def _judge(self, commands: list[str]) -> tuple[bool, int]:
        """Whether the right thing is in the hand, and which stage that makes it."""
        game, state = self._engine.state()
        plain = [_plain(command) for command in commands]
        held = [game.things[thing].name for thing in state.held]
        holds = self._target in map(_plain, held)
        view = self._views.get(self._here, "")
        sees = f" {self._target} " in view
        can_take = sees and any(f"take {self._target}" in command for command in plain)
        can_put = f"move {self._target} to {self._parent}" in plain
        can_put = can_put and self._parent in self._here
        ends = len(self._stages)
        if self._two:
            placed = self._placed(game, state)
            ends = 8 if placed else 4
            # It takes no thing whose name begins like that of the one it placed.
            can_take &= not any(
                f"take {thing}" in c for c in commands for thing in placed
            )
        if not holds:
            return False, (ends - 4 if self._two else 0) + can_take
        if self._lamp:
            return True, ends - 1 - (f"use {self._lamp}" not in plain)
        if self._verb and not self._is_treated(game, state):
            station = _TREATMENTS[self._task_type][1]
            return True, 2 + (f"{self._verb} {self._target} with {station}" in plain)
        return True, ends - 1 - (not can_put)

    def _is_treated(self, game, state) -> bool:
        """Whether what was picked up first is clean, hot or cool."""
        return any(
            mark == self._mark and game.things[thing].name == self._picked[0]
            for mark, thing in state.marks
        )

    def _placed(self, game, state) -> list[str]:
        """Of the things that lie where they belong, the first; none: []."""
        found = []
        for receptacle, things in zip(game.receptacles, state.inside, strict=True):
            for thing in things:
                name = game.things[thing].name
                if _plain(name) == self._target:
                    found.append((name, _plain(receptacle.name)))
        if self._parent not in (place for _, place in found):
            return []
        return [min(name for name, place in found if place.startswith(self._parent))]
