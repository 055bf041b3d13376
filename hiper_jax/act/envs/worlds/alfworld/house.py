"""Rooms: ALFWorld's floor plans, thinned to a wanted number of receptacles.

The split is ALFWorld's own: rooms 7 to 30 of each kind for training, 1 to 6 unseen.
"""

import functools
import random
from collections import Counter
from typing import NamedTuple

from hiper_jax.act.envs.worlds.alfworld.alfred import (
    HOLDERS,
    floor_plan,
    kind_of,
    takes,
)

LAMPS = ("DeskLamp",)
LAMP_STANDS = ("Desk", "SideTable", "Dresser", "CoffeeTable", "DiningTable", "Shelf")

# Each of these is in every room of its kind, so that the kind's tasks can be posed.
ESSENTIAL = {
    "Kitchen": ("Fridge", "Microwave", "SinkBasin", "CounterTop"),
    "LivingRoom": ("SideTable", "Sofa"),
    "Bedroom": ("Bed", "SideTable"),
    "Bathroom": ("SinkBasin", "Toilet"),
}
# Floor plans do not say where these are; the number is how many a plan with any has.
UNLISTED = {"StoveBurner": 4, "Shelf": 2, "ArmChair": 2}
BASINS = {"SinkBasin": "Sink", "BathtubBasin": "Bathtub"}
MIN_RECEPTACLES, MIN_OBJECTS = 4, 4


class Room(NamedTuple):
    """A layout: what the player can walk to, before any object is placed."""

    kind: str
    number: int
    receptacles: tuple[tuple[str, str], ...]  # (PDDL name, type), in a fixed order
    object_types: tuple[str, ...]  # what the floor plan has and its receptacles take

    @property
    def signature(self) -> tuple:
        """The layout as a player sees it: how many of each receptacle."""
        counts = Counter(kind for _, kind in self.receptacles)
        return self.kind, tuple(sorted(counts.items()))


def mangle(name: str, *coordinates: float, part: str = "") -> str:
    """Writes an object as ALFWorld's PDDL does: Apple_bar__plus_00_dot_50_bar_..."""
    words = [name]
    for value in coordinates:
        sign = "_minus_" if value < 0 else "_plus_"
        words.append(sign + f"{abs(value):05.2f}".replace(".", "_dot_"))
    return "_bar_".join(words + ([part] if part else []))


@functools.lru_cache(maxsize=128)
def _plan(number: int) -> tuple[tuple, tuple]:
    """Floor plan `number`: its receptacles (type, coordinates), its types of things."""
    listed, things = floor_plan(number)
    places = []
    for name in listed:
        kind, *coordinates = name.split("|")
        places.append((kind, tuple(map(float, coordinates))))
    known = {kind for kind, _ in places}
    for kind in sorted((HOLDERS - known) & set(things)):
        for copy in range(UNLISTED.get(kind, 1)):
            places.append((kind, (len(places) / 4, 0.9, -copy / 2)))
    return tuple(places), tuple(things)


def layout(number: int, *, receptacles: tuple[int, int], seed: int, salt: int) -> Room:
    """Thins floor plan `number` to some receptacles; the same arguments, the same room.

    Args:
      number: the floor plan, 1 to 30, 201 to 230, 301 to 330 or 401 to 430.
      receptacles: the least and the greatest number of receptacles.
      seed: of the whole data set.
      salt: tells apart several layouts of the same plan.

    Returns:
      The room.
    """
    rng = random.Random(f"layout {seed} {number} {salt}")
    kind = kind_of(number)
    places, things = _plan(number)
    places = list(places)
    rng.shuffle(places)
    wanted = rng.randint(*receptacles)
    kept = []
    for essential in ESSENTIAL[kind]:
        index = next((i for i, p in enumerate(places) if p[0] == essential), None)
        kept.append(
            (essential, (7.5, 0.9, 7.5)) if index is None else places.pop(index)
        )
    kept = sorted(kept + places[: max(0, wanted - len(kept))])
    types = {place for place, _ in kept}
    names = []
    for place, coordinates in kept:
        whole = BASINS.get(place)
        part = place if whole else ""
        names.append((mangle(whole or place, *coordinates, part=part), place))
    objects = tuple(
        t for t in things if t not in types and any(takes(p, t) for p in types)
    )
    return Room(kind, number, tuple(names), objects)
