"""A Sokoban board: walls, goals, boxes and the player, and what a move does to them.

Cells are numbered row by row. A board is written in the usual signs, its rows joined
by `|`, so that one line says all of it:

    #  wall      .  goal      $  box      *  box on a goal
    @  player    +  player on a goal      space  floor

    #####|#@$.#|#####
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

DIRECTIONS = ("up", "down", "left", "right")
SEPARATOR = "|"
_SIGNS = "#.$*@+ "


class Board(NamedTuple):
    """One position; every set holds cells."""

    width: int  # columns, the outer walls included
    height: int  # rows
    walls: frozenset[int]
    goals: frozenset[int]
    boxes: frozenset[int]
    player: int

    @property
    def solved(self) -> bool:
        """Whether every box stands on a goal."""
        return self.boxes <= self.goals

    def offset(self, direction: str) -> int:
        """How much further the neighbour in that direction is numbered."""
        offsets = (-self.width, self.width, -1, 1)
        return offsets[DIRECTIONS.index(direction)]

    def free(self, cell: int) -> bool:
        """Whether the player could stand there."""
        return cell not in self.walls and cell not in self.boxes

    def place(self, cell: int) -> tuple[int, int]:
        """(row, column) of a cell; the first inside the outer walls is (1, 1)."""
        return divmod(cell, self.width)


def moved(board: Board, direction: str) -> Board | None:
    """The board after the player has gone or pushed that way; None if it cannot."""
    step = board.offset(direction)
    ahead = board.player + step
    if board.free(ahead):
        return board._replace(player=ahead)
    if ahead in board.walls or not board.free(ahead + step):
        return None
    boxes = board.boxes - {ahead} | {ahead + step}
    return board._replace(player=ahead, boxes=boxes)


def reachable(board: Board) -> dict[int, tuple[int, str]]:
    """Where the player can walk to.

    Returns:
      Cell -> (the cell before it on a shortest way, the direction of the last step);
      the player's own cell leads to itself, with "".
    """
    found = {board.player: (board.player, "")}
    steps = [(d, board.offset(d)) for d in DIRECTIONS]
    ahead = deque([board.player])
    while ahead:
        cell = ahead.popleft()
        for direction, step in steps:
            if cell + step not in found and board.free(cell + step):
                found[cell + step] = (cell, direction)
                ahead.append(cell + step)
    return found


def read(text: str) -> Board:
    """Reads a board from its signs.

    Raises:
      ValueError: it is none; the line says why.
    """
    rows = text.split(SEPARATOR)
    width = max(map(len, rows))
    cells = "".join(row.ljust(width) for row in rows)
    if strange := set(cells) - set(_SIGNS):
        raise ValueError(f"{text!r} is no Sokoban level: it holds {min(strange)!r}.")

    def where(signs: str) -> frozenset[int]:
        return frozenset(i for i, sign in enumerate(cells) if sign in signs)

    players, boxes, goals = where("@+"), where("$*"), where(".*+")
    if len(players) != 1 or len(boxes) != len(goals) or not boxes:
        raise ValueError(
            f"{text!r} is no Sokoban level: it needs one player, and as many boxes as "
            "goals."
        )
    board = Board(width, len(rows), where("#"), goals, boxes, min(players))
    if not _closed(board):
        raise ValueError(
            f"{text!r} is no Sokoban level: walls must surround the player, the boxes "
            "and the goals."
        )
    return board


def write(board: Board) -> str:
    """The signs of a board, its rows joined by `|`."""
    signs = []
    for cell in range(board.width * board.height):
        goal = cell in board.goals
        if cell in board.walls:
            signs.append("#")
        elif cell in board.boxes:
            signs.append("*" if goal else "$")
        elif cell == board.player:
            signs.append("+" if goal else "@")
        else:
            signs.append("." if goal else " ")
    return SEPARATOR.join(
        "".join(signs[i : i + board.width]) for i in range(0, len(signs), board.width)
    )


def turned(text: str) -> Iterator[str]:
    """The eight ways to turn and mirror a board's signs."""
    rows = text.split(SEPARATOR)
    for _ in range(4):
        rows = ["".join(column) for column in zip(*rows[::-1], strict=True)]
        yield SEPARATOR.join(rows)
        yield SEPARATOR.join(row[::-1] for row in rows)


def _closed(board: Board) -> bool:
    """Whether walls surround the player and all that can be moved."""
    rim = _rim(board)
    if board.player in rim:
        return False
    inside = reachable(board._replace(boxes=frozenset(), walls=board.walls | rim))
    touched = {cell + board.offset(d) for cell in inside for d in DIRECTIONS}
    return (
        board.boxes | board.goals <= inside.keys() and not touched & rim - board.walls
    )


def _rim(board: Board) -> frozenset[int]:
    last = board.width * board.height
    return frozenset(
        cell
        for cell in range(last)
        if cell % board.width in (0, board.width - 1)
        or cell < board.width
        or cell >= last - board.width
    )
