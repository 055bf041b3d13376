"""Solves Sokoban: the fewest pushes, by breadth-first search over positions.

Two positions are the same if the boxes stand alike and the player can walk from one to
the other. A box that can no longer be brought to any goal ends the search there.
"""

from collections import deque
from typing import NamedTuple

from hiper_jax.act.envs.worlds.sokoban.board import (
    DIRECTIONS,
    Board,
    moved,
    reachable,
)


class Push(NamedTuple):
    """One push of a plan."""

    box: int  # the cell of the box before it
    direction: str


def solve(board: Board, *, limit: int = 200_000) -> list[Push] | None:
    """The fewest pushes that bring every box onto a goal.

    Args:
      board: where to start.
      limit: positions to look at before giving up.

    Returns:
      The pushes in order (none if all is done), or None: it cannot be solved.

    Raises:
      ValueError: the limit was reached.
    """
    if board.solved:
        return []
    alive = _alive(board)
    if not board.boxes <= alive:
        return None
    begin = _position(board)
    before: dict[tuple, tuple] = {begin: ()}
    ahead = deque([(begin, board)])
    while ahead:
        position, here = ahead.popleft()
        walks = reachable(here)
        for box in sorted(here.boxes):
            for direction in DIRECTIONS:
                step = here.offset(direction)
                target = box + step
                if box - step not in walks or target not in alive:
                    continue
                after = moved(here._replace(player=box - step), direction)
                if after is None:
                    continue
                found = _position(after)
                if found in before:
                    continue
                before[found] = (position, Push(box, direction))
                if after.solved:
                    return _pushes(before, found)
                if len(before) > limit:
                    raise ValueError(f"no answer after {limit} positions")
                ahead.append((found, after))
    return None


def walk(board: Board, push: Push) -> list[str]:
    """The steps that bring the player behind the box, and the push itself.

    Raises:
      ValueError: the player cannot get there.
    """
    ways = reachable(board)
    cell = push.box - board.offset(push.direction)
    if cell not in ways:
        raise ValueError(f"the player cannot get behind the box at {push.box}")
    steps = [push.direction]
    while cell != board.player:
        cell, direction = ways[cell]
        steps.append(direction)
    return steps[::-1]


def _position(board: Board) -> tuple[frozenset[int], int]:
    return board.boxes, min(reachable(board))


def _pushes(before: dict, position: tuple) -> list[Push]:
    pushes = []
    while before[position]:
        position, push = before[position]
        pushes.append(push)
    return pushes[::-1]


def _alive(board: Board) -> frozenset[int]:
    """Cells from which a lone box can be pushed onto some goal: found by pulling."""
    alive = set(board.goals)
    ahead = deque(board.goals)
    steps = [board.offset(direction) for direction in DIRECTIONS]
    while ahead:
        cell = ahead.popleft()
        for step in steps:
            # A box comes from `cell - step` if the player has room behind it.
            source, player = cell - step, cell - 2 * step
            if source in alive or source in board.walls or player in board.walls:
                continue
            alive.add(source)
            ahead.append(source)
    return frozenset(alive)
