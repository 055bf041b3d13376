"""Draws Sokoban levels from a seed; every one is proved solvable before it is kept.

No two levels are alike, also not when turned or mirrored, whichever split they are in.
"""

import hashlib
import random
from collections.abc import Callable
from typing import Any

from hiper_jax.act.envs.worlds.sokoban.board import Board, reachable, turned, write
from hiper_jax.act.envs.worlds.sokoban.plan import solve

LEAST_PUSHES = 2
_INNER_WALLS = 0.15  # the share of the room that is wall, at most
_ATTEMPTS = 2000


def make_levels(
    *,
    number: int,
    width: int,
    height: int,
    boxes: tuple[int, int],
    seed: int,
    progress: Callable[[int, int], Any] | None = None,
) -> list[str]:
    """Draws distinct levels that can be solved.

    Args:
      number: how many.
      width: columns, the outer walls included.
      height: rows, the same.
      boxes: the fewest and the most boxes.
      seed: of everything; more levels of a seed begin with the same ones.
      progress: called with (levels done, levels in all).

    Returns:
      The levels, as `board.write` gives them.

    Raises:
      ValueError: the rooms are too small for so many distinct levels.
    """
    levels: list[str] = []
    seen: set[str] = set()
    for i in range(number):
        rng = random.Random(f"sokoban {seed} {width} {height} {boxes} {i}")
        for _ in range(_ATTEMPTS):
            board = draw(width, height, rng.randint(*boxes), rng)
            if board is None or digest(text := write(board)) in seen:
                continue
            pushes = solve(board)
            if pushes is not None and len(pushes) >= LEAST_PUSHES:
                seen.add(digest(text))
                levels.append(text)
                break
        else:
            raise ValueError(
                f"no {number} distinct levels of {width} by {height} cells with "
                f"{boxes[0]} to {boxes[1]} boxes were found: ask for larger rooms or "
                "fewer levels"
            )
        if progress is not None:
            progress(i + 1, number)
    return levels


def digest(text: str) -> str:
    """A level's hash, the same for all the ways to turn and mirror it."""
    return hashlib.sha256(min(turned(text)).encode()).hexdigest()


def draw(width: int, height: int, boxes: int, rng: random.Random) -> Board | None:
    """A room with everything in it, solvable or not; None if it has no space."""
    inside = [
        row * width + column
        for row in range(1, height - 1)
        for column in range(1, width - 1)
    ]
    inner = rng.sample(inside, rng.randint(0, int(_INNER_WALLS * len(inside))))
    walls = frozenset(range(width * height)) - frozenset(inside) | frozenset(inner)
    player = rng.choice([cell for cell in inside if cell not in walls])
    empty = Board(width, height, walls, frozenset(), frozenset(), player)
    floor = sorted(reachable(empty))
    if len(floor) < 2 * boxes + 1:
        return None
    # What cannot be reached is wall, so that equal rooms read alike.
    walls = frozenset(range(width * height)) - frozenset(floor)
    player, *others = rng.sample(floor, 2 * boxes + 1)
    return Board(
        width,
        height,
        walls,
        goals=frozenset(others[:boxes]),
        boxes=frozenset(others[boxes:]),
        player=player,
    )
