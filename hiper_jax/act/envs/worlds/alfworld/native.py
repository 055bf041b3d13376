"""ALFWorld's games without an engine below: what is said, and `Engine`, which plays.

The text is what ALFWorld's grammar derives, and the commands are sorted, as TextWorld
sorts them: both are equal to the stock engine's string for string. Two oddities of the
grammar are kept:

* `look` in the middle of the room sees nothing; only the introduction lists the room.
* What `look` sees "next to" a receptacle was once taken out of one there and is back
  there in another: that a thing is not in a receptacle is a fact after a deletion only.
"""

from typing import NamedTuple

from hiper_jax.act.envs.worlds.alfworld import game as games
from hiper_jax.act.envs.worlds.alfworld import moves
from hiper_jax.act.envs.worlds.alfworld.dialect import TASK
from hiper_jax.act.envs.worlds.alfworld.game import Game, State

NOTHING = "Nothing happens."


class Seen(NamedTuple):
    """What an engine answers to a reset or a step."""

    text: str
    commands: list[str]  # that can be given next, sorted
    won: bool
    done: int = 0  # goals that were reached, of several that follow each other


class Engine:
    """Plays one game at a time: `load`, `reset`, then `step` by `step`."""

    _game: Game
    _state: State
    _moves: dict[str, moves.Move] | None = None  # of the state, once they were found

    def load(self, path: str) -> None:
        """Takes the game file `path`; `reset` begins it.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is not a game, or not one of ALFWorld's domain.
        """
        self._game = games.load(path)

    def reset(self) -> Seen:
        """Begins the game anew; the text is the introduction."""
        self.restore((self._game, self._game.start))
        return self._see(introduce(self._game, self._state))

    def step(self, command: str) -> Seen:
        """Plays a command; one that cannot be given changes nothing."""
        move = self._find_moves().get(command.strip())
        if move is None:
            return self._see(NOTHING)
        before = self._state
        after = moves.pass_goals(self._game, moves.apply(self._game, before, move))
        if after is not before:
            self._state, self._moves = after, None
        text = describe(self._game, after, move)
        if after.done > before.done:
            text += f"\n\n{TASK}{self._game.due(after).task}"
        return self._see(text)

    def goals(self) -> tuple[games.Due, ...]:
        """The goals of the game that follow the first."""
        return self._game.then

    def state(self) -> tuple[Game, State]:
        """The game and where it stands; neither ever changes, so it is its own copy."""
        return self._game, self._state

    def restore(self, state: tuple[Game, State]) -> None:
        """Goes on from where `state` was called, in this engine or another."""
        self._game, self._state = state
        self._moves = None

    def _find_moves(self) -> dict[str, moves.Move]:
        if self._moves is None:
            self._moves = moves.find_moves(self._game, self._state)
        return self._moves

    def _see(self, text: str) -> Seen:
        won = moves.is_won(self._game, self._state)
        return Seen(text, sorted(self._find_moves()), won, self._state.done)


def introduce(game: Game, state: State) -> str:
    """The text that a game begins with, its task last."""
    if game.at[state.place]:
        seen = _look(game, state)
    else:
        places = [place.name for place in game.receptacles if place.place >= 0]
        seen = _look_around(places)
    return f"{seen}\n\n{TASK}{game.task}"


def describe(game: Game, state: State, move: moves.Move) -> str:
    """What is said after a move.

    Args:
      game: which is played.
      state: after the move.
      move: what was done.
    """
    verb, thing, receptacle = move
    if verb == "slice":
        knife, receptacle = receptacle, -1
    what = game.things[thing].name if thing >= 0 else ""
    where = game.receptacles[receptacle].name if receptacle >= 0 else ""
    if verb == "go to":
        place = game.places[state.place] if game.dialect.arrive_at_location else where
        return f"You arrive at {place}. {_examine_receptacle(game, state, receptacle)}"
    if verb == "open":
        return f"You open the {where}. {_examine_receptacle(game, state, receptacle)}"
    if verb == "close":
        return f"You close the {where}."
    if verb == "take":
        return f"You pick up the {what} from the {where}."
    if verb == "put":
        return game.dialect.did_put.format(what, where)
    if verb == "examine":
        if thing < 0:
            return _examine_receptacle(game, state, receptacle)
        return _examine_thing(game, state, thing)
    if verb == "use":
        return f"You turn on the {what}."
    if verb == "slice":
        return f"You sliced the {what} with the {game.things[knife].name}."
    if verb in moves.MARKS_LEFT:
        return f"You {verb} the {what} using the {where}."
    if verb == "inventory":
        if not state.full:
            return "You are not carrying anything."
        return f"You are carrying: {_list(game, state.held)}."
    if verb == "look":
        return _look(game, state) if game.at[state.place] else _look_around([])
    return game.dialect.help or ""


def _listed(names: list[str]) -> str:
    if len(names) < 2:
        return names[0] if names else "nothing"
    return f"{', '.join(names[:-1])}, and {names[-1]}"


def _list(game: Game, things) -> str:
    return _listed([f"a {game.things[thing].name}" for thing in things])


def _look_around(places: list[str]) -> str:
    seen = _listed([f"a {place}" for place in places])
    return (
        f"You are in the middle of a room. Looking quickly around you, you see {seen}."
    )


def _look(game: Game, state: State) -> str:
    here = game.at[state.place]
    near = sorted(thing for thing, place in state.near if place == state.place)
    beside = [
        thing
        for thing in near
        for receptacle in here
        if (thing, receptacle) in state.taken
    ]
    facing = _listed([game.receptacles[receptacle].name for receptacle in here])
    return f"You are facing the {facing}. Next to it, you see {_list(game, beside)}."


def _examine_receptacle(game: Game, state: State, receptacle: int) -> str:
    name, _, _, openable = game.receptacles[receptacle]
    if openable and receptacle not in state.opened:
        return f"The {name} is closed."
    seen = _list(game, state.inside[receptacle])
    if openable:
        return f"The {name} is open. In it, you see {seen}."
    return f"On the {name}, you see {seen}."


def _examine_thing(game: Game, state: State, thing: int) -> str:
    name, _, natures, content = game.things[thing]
    if "isreceptacleobject" in natures:
        return f"This is a normal {name}. In it, you see {_list(game, content)}."
    clean, hot, cool, sliced, on = (
        (mark, thing) in state.marks
        for mark in ("isclean", "ishot", "iscool", "issliced", "istoggled")
    )
    warmth = "hot" if hot else "cool" if cool else ""
    if warmth or clean:
        words = " and ".join([warmth] * bool(warmth) + ["clean"] * clean)
        if words == "cool" and not sliced:
            words = "cold"
        return f"This is a {words}{' sliced' * sliced} {name}."
    if on and "toggleable" in natures:
        return f"This {name} is on."
    if sliced and "sliceable" in natures:
        return f"This is a sliced {name}."
    return f"There's nothing special about {name}."
