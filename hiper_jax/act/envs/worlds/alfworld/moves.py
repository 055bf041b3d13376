"""What can be done in a state, and the state after it: ALFWorld's one PDDL domain.

The commands are those whose precondition holds, as Fast Downward finds them. Where it
looks odd, the domain is:

* `examine THING` works only for what is in the hand. The other half of its precondition
  quantifies over a type called "location,", which nothing has.
* A thing can be in two receptacles, and stays in the one when taken out of the other.
* A lamp in a closed drawer can be used, and used again, is still on.
* A thing is heated or cleaned at a station, open or not, but put in it only if open.
"""

from hiper_jax.act.envs.worlds.alfworld.ends import Held, Lit, Stored
from hiper_jax.act.envs.worlds.alfworld.game import Game, State

_KNIVES = frozenset({"knifetype", "butterknifetype"})
_MICROWAVE, _FRIDGE = frozenset({"microwavetype"}), frozenset({"fridgetype"})
MARKS_LEFT = {  # from a treatment: the mark it leaves, the mark it takes away
    "clean": ("isclean", ""),
    "heat": ("ishot", "iscool"),
    "cool": ("iscool", "ishot"),
}

# A verb, a thing and a receptacle by number. "go to" and "examine" have -1 for what
# they are not about; "slice" has the knife in the receptacle's place.
Move = tuple[str, int, int]


def find_moves(game: Game, state: State) -> dict[str, Move]:
    """All commands that can be given now, and the move that each of them is."""
    moves = game.routes.copy()
    moves["look"], moves["inventory"] = ("look", -1, -1), ("inventory", -1, -1)
    if game.dialect.help is not None:
        moves["help"] = ("help", -1, -1)
    for thing in state.held:
        moves[f"examine {game.things[thing].name}"] = ("examine", thing, -1)
        if not _KNIVES.isdisjoint(game.things[thing].kinds):
            _add_slices(moves, game, state, thing)
    for receptacle in game.at[state.place]:
        # It stands where the player does: the stock engine drops ways to nowhere.
        del moves[f"go to {game.receptacles[receptacle].name}"]
        _add_moves_at(moves, game, state, receptacle)
    return moves


def _add_slices(moves, game, state, knife) -> None:
    for thing, place in state.near:
        if place == state.place and "sliceable" in game.things[thing].natures:
            command = f"slice {game.things[thing].name} with {game.things[knife].name}"
            moves[command] = ("slice", thing, knife)


def _add_moves_at(moves, game, state, receptacle) -> None:
    name, _, kinds, openable = game.receptacles[receptacle]
    moves[f"examine {name}"] = ("examine", -1, receptacle)
    opened = receptacle in state.opened
    if openable:
        verb = "close" if opened else "open"
        moves[f"{verb} {name}"] = (verb, -1, receptacle)
    reachable = opened or not openable
    for thing in state.inside[receptacle]:
        natures = game.things[thing].natures
        if "pickupable" in natures and reachable and not state.full:
            command = f"take {game.things[thing].name} from {name}"
            moves[command] = ("take", thing, receptacle)
        if "toggleable" in natures:
            moves[f"use {game.things[thing].name}"] = ("use", thing, receptacle)
    for thing in state.held:
        held, types, natures, _ = game.things[thing]
        if reachable and any(
            not types.isdisjoint(game.takes.get(k, ())) for k in kinds
        ):
            moves[game.dialect.put.format(held, name)] = ("put", thing, receptacle)
        for verb, nature, stations in (
            ("clean", "cleanable", game.dialect.washers),
            ("heat", "heatable", _MICROWAVE),
            ("cool", "coolable", _FRIDGE),
        ):
            if nature in natures and not stations.isdisjoint(kinds):
                moves[f"{verb} {held} with {name}"] = (verb, thing, receptacle)


def apply(game: Game, state: State, move: Move) -> State:
    """The state after a move that `find_moves` found in it."""
    verb, thing, receptacle = move
    if verb == "go to":
        return state._replace(place=game.receptacles[receptacle].place)
    if verb == "open":
        return state._replace(opened=state.opened | {receptacle})
    if verb == "close":
        return state._replace(opened=state.opened - {receptacle})
    if verb == "use":
        return state._replace(marks=state.marks | {("istoggled", thing)})
    if verb == "slice":
        return state._replace(marks=state.marks | {("issliced", thing)})
    if verb in MARKS_LEFT:
        left, gone = MARKS_LEFT[verb]
        return state._replace(marks=state.marks - {(gone, thing)} | {(left, thing)})
    if verb in ("take", "put"):
        return _carry(state, verb, thing, receptacle)
    return state  # look, inventory, examine, help


def _carry(state: State, verb: str, thing: int, receptacle: int) -> State:
    """Takes a thing out of a receptacle, or puts it there."""
    content, held = set(state.inside[receptacle]), set(state.held)
    here, there = {(thing, state.place)}, {(thing, receptacle)}
    if verb == "take":
        content.discard(thing)
        held.add(thing)
        near, taken = state.near - here, state.taken | there
    else:
        content.add(thing)
        held.discard(thing)
        near, taken = state.near | here, state.taken - there
    inside = list(state.inside)
    inside[receptacle] = tuple(sorted(content))
    return state._replace(
        held=tuple(sorted(held)),
        full=verb == "take",
        inside=tuple(inside),
        near=near,
        taken=taken,
    )


def is_won(game: Game, state: State) -> bool:
    """Whether the last goal is due and every block of it holds."""
    return state.done == len(game.then) and _reached(game, state)


def pass_goals(game: Game, state: State) -> State:
    """The state once the goals that are due and reached, but for the last, are done."""
    while state.done < len(game.then) and _reached(game, state):
        state = state._replace(done=state.done + 1)
    return state


def _reached(game: Game, state: State) -> bool:
    return all(_holds(block, game, state) for block in game.due(state).goal)


def _holds(block, game: Game, state: State) -> bool:
    if isinstance(block, Held):
        return any(block.thing in game.things[thing].kinds for thing in state.held)
    if isinstance(block, Lit):
        return any(
            block.lamp in game.things[thing].kinds
            and "toggleable" in game.things[thing].natures
            and ("istoggled", thing) in state.marks
            for receptacle in game.at[state.place]
            for thing in state.inside[receptacle]
        )
    for receptacle, content in enumerate(state.inside):
        if content and block.receptacle in game.receptacles[receptacle].kinds:
            fit = sum(_fits(block, game, state, thing) for thing in content)
            if fit >= block.number:
                return True
    return False


def _fits(block: Stored, game: Game, state: State, thing: int) -> bool:
    _, kinds, natures, _ = game.things[thing]
    return block.thing in kinds and all(
        what in natures or (what, thing) in state.marks for what in block.asked
    )
