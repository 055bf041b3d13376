"""When a game is won: ALFWorld's goals, read from PDDL and told apart by their shape.

A goal is a list of blocks that must all hold. To check a general formula can take
forever; these three shapes are all that ALFWorld's tasks need, and cost nothing.
"""

from typing import NamedTuple

from hiper_jax.act.envs.worlds.alfworld import brackets

# What a thing can be asked to be: by nature, and by what was done to it.
NATURES = frozenset({"cleanable", "heatable", "coolable", "sliceable"})
MARKS = frozenset({"isclean", "ishot", "iscool", "issliced"})


class Stored(NamedTuple):
    """A receptacle of one type holds so many things of another."""

    receptacle: str
    thing: str
    asked: frozenset[str]  # of NATURES and MARKS
    number: int  # 1 or 2


class Lit(NamedTuple):
    """A lamp of this type, once switched on, stands where the player is."""

    lamp: str


class Held(NamedTuple):
    """The player holds a thing of this type."""

    thing: str


Goal = tuple[Stored | Lit | Held, ...]


def read_goal(form) -> Goal:
    """Reads the formula of a `(:goal ...)`.

    Args:
      form: nested lists of lower-case words, as `brackets.read_form` makes them.

    Returns:
      The blocks.

    Raises:
      ValueError: the goal is none of ALFWorld's.
    """
    blocks = form[1:] if form and form[0] == "and" else []
    found = tuple(filter(None, map(_block, blocks)))
    if not found or len(found) < len(blocks):
        raise ValueError(
            "The game's goal is that of none of ALFWorld's task types, which are all "
            'that the native engine plays: set engine="textworld".'
        )
    return found


def _block(form) -> Stored | Lit | Held | None:
    kinds: dict[str, str] = {}  # from a variable to its type
    facts: set[tuple] = set()
    if not _gather(form, kinds, facts):
        return None
    types = {f[1]: f[2] for f in facts if f[0].endswith("type") and len(f) == 3}
    variables = sorted(kinds, key=lambda name: (kinds[name], name))
    match [kinds[name] for name in variables]:
        case ["object", "receptacle"] | ["object", "object", "receptacle"]:
            return _stored(variables[:-1], variables[-1], types, facts)
        case ["agent", "object"]:
            agent, thing = variables
            block, needs = Held(types.get(thing, "")), {("holds", agent, thing)}
        case ["agent", "location", "object", "receptacle"]:
            agent, place, thing, receptacle = variables
            block = Lit(types.get(thing, ""))
            needs = {("atlocation", agent, place), ("inreceptacle", thing, receptacle)}
            needs |= {("receptacleatlocation", receptacle, place)}
            needs |= {("toggleable", thing), ("istoggled", thing)}
        case _:
            return None
    return block if facts == needs | {("objecttype", thing, block[0])} else None


def _stored(things, receptacle, types, facts) -> Stored | None:
    kind, place = types.get(things[0], ""), types.get(receptacle, "")
    asked = {f[0] for f in facts if f[0] in NATURES | MARKS and f[1] == things[0]}
    needs = {("receptacletype", receptacle, place)}
    for thing in things:
        needs |= {("objecttype", thing, kind), ("inreceptacle", thing, receptacle)}
        needs |= {(what, thing) for what in asked}
    if len(things) == 2:
        needs.add(("differ", *things))
    block = Stored(place, kind, frozenset(asked), len(things))
    return block if facts == needs else None


def _gather(form, kinds, facts) -> bool:
    """Flattens nested `and`s and `exists`es; whether there was nothing else."""
    match form:
        case ["and", *parts]:
            return all(_gather(part, kinds, facts) for part in parts)
        case ["exists", [*variables], part]:
            declared = brackets.typed(variables)
            known = len(kinds)
            kinds.update(declared)
            fresh = len(kinds) == known + len(declared)
            return fresh and _gather(part, kinds, facts)
        case ["not", ["=", str(one), str(other)]]:
            facts.add(("differ", *sorted((one, other))))
            return True
        case [str(_), *words] if all(isinstance(word, str) for word in words):
            facts.add(tuple(form))
            return len(form) in (2, 3)
    return False
