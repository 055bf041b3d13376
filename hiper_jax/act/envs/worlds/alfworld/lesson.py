"""What the warm start is taught besides the expert's moves."""

import re
from collections.abc import Iterator, Sequence

from hiper_jax.act.envs.demo import Demo, DemoStep
from hiper_jax.act.envs.env import Env
from hiper_jax.act.envs.worlds.alfworld.expert import places_of

# What the game's grammar says over and over: each may become one token.
PHRASES = (
    "You are in the middle of a room. Looking quickly around you, you see",
    " You arrive at",
    " You pick up the",
    " You open the",
    " You close the",
    " You move the",
    " is closed.",
    " is open. In it, you see",
    ", you see nothing.",
    ", you see",
    ", and a",
    ", a",
    " On the",
    " from the",
    " to the",
    " using the",
    " go to",
    "task:",
    "was:",
    "did:",
    "now:",
    "subgoal:",
    "can:",
)
_FROM = re.compile(r"take \w+ \d+ from (\w+ \d+)")


def layout(actions: Sequence[str]) -> tuple[str, ...]:
    """A room as a player first sees it: the places that can be walked to."""
    return tuple(sorted(places_of(actions)))


def layouts(env: Env, games: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields the layout of each game's room, then closes `env`."""
    for game in games:
        yield layout(env.reset(game)[1]["admissible_actions"])
    env.close()


def passing_by(demo: Demo, step: DemoStep) -> tuple[str, str] | None:
    """What a player in haste does where the expert takes a thing: search on.

    Returns:
      The subgoal and the action that lead to the next place, or None where the expert
      takes nothing.
    """
    match = _FROM.fullmatch(step.expert_action)
    if not match:
        return None
    places = places_of(demo.info["admissible_actions"])
    place = places[(places.index(match[1]) + 1) % len(places)]
    subgoal = step.subgoal.replace(f": {match[1]}", f": {place}", 1)
    return subgoal, f"go to {place}"


def in_short(demo: Demo) -> str:
    """The stages of a demonstration without what was only found on the way."""
    stages = [re.split(r": | \(", step.subgoal)[0] for step in demo.steps]
    told = dict.fromkeys(s for s in stages if not s.startswith("return "))
    return ", ".join(told)
