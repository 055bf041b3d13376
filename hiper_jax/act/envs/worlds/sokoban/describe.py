"""A board in words: who stands where, by row and column."""

from hiper_jax.act.envs.worlds.sokoban.board import DIRECTIONS, Board, moved

TASK = "Push every box onto a goal."


def describe(board: Board) -> str:
    """What the player sees; rows count downwards and columns to the right, from 1."""
    goals = board.goals - board.boxes
    parts = [
        f"You stand at {_place(board, board.player)}",
        _listed(board, "box", "boxes", board.boxes - board.goals),
        _listed(board, "box on a goal", "boxes on goals", board.boxes & board.goals),
        _listed(board, "goal", "goals", goals),
        _listed(board, "wall", "walls", inner_walls(board)),
    ]
    size = f"A room of {board.height - 2} rows and {board.width - 2} columns"
    return ". ".join([size, *filter(None, parts)]) + "."


def inner_walls(board: Board) -> frozenset[int]:
    """The walls that are not around the room."""
    return frozenset(
        cell
        for cell in board.walls
        if 0 < cell % board.width < board.width - 1
        and 0 < cell // board.width < board.height - 1
    )


def actions(board: Board) -> list[str]:
    """What can be done: `go` where it is free, `push` where a box gives way."""
    found = []
    for direction in DIRECTIONS:
        after = moved(board, direction)
        if after is not None:
            found.append(("go " if after.boxes == board.boxes else "push ") + direction)
    return found


def _listed(board: Board, one: str, many: str, cells: frozenset[int]) -> str:
    if not cells:
        return ""
    name = one if len(cells) == 1 else many
    places = ", ".join(_place(board, cell) for cell in sorted(cells))
    return f"{name.capitalize()} at {places}"


def _place(board: Board, cell: int) -> str:
    row, column = board.place(cell)
    return f"{row} {column}"
