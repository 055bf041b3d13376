"""Sokoban as a text environment."""

import hashlib

from hiper_jax.act.envs.env import Info, Reset, Step
from hiper_jax.act.envs.worlds.sokoban.board import Board, moved, read, write
from hiper_jax.act.envs.worlds.sokoban.describe import TASK, actions, describe


class Sokoban:
    """Boxes are pushed onto goals; see `hiper_jax.act.envs.env` for the protocol.

    Actions are `go` and `push` with `up`, `down`, `left` or `right`. What cannot be
    done costs a turn and changes nothing. A box pushed into a corner stays there: such
    an episode goes on until its turns run out. Besides the protocol's keys, `info` has

        board    str; the board in signs, see `board`
    """

    def __init__(self, *, max_turns: int = 30, reward: float = 1.0):
        """
        Args:
          max_turns: an episode that is not won by then is truncated.
          reward: what the winning push pays; all other moves pay 0.
        """
        if max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, not {max_turns}.")
        self._max_turns, self._reward = max_turns, float(reward)
        self._board: Board | None = None

    def reset(self, task: str) -> Reset:
        """Starts a level, given in signs.

        Raises:
          ValueError: it is no level.
        """
        self._board = read(task)
        self._task, self._turn = task, 0
        return describe(self._board), self._info(self._board)

    def step(self, action: str) -> Step:
        """Plays one action; after the end nothing can be played any more."""
        if self._board is None:
            raise RuntimeError("The episode is over or not begun: call reset first.")
        self._turn += 1
        after, said = None, "Nothing happens. "
        if action in actions(self._board):
            after, said = moved(self._board, action.split()[1]), ""
        board = self._board if after is None else after
        observation = said + describe(board)
        self._board = board
        info = self._info(board)
        truncated = not board.solved and self._turn >= self._max_turns
        if board.solved or truncated:
            self._board = None
        reward = self._reward if board.solved else 0.0
        return observation, reward, board.solved, truncated, info

    def close(self) -> None:
        """Ends the episode."""
        self._board = None

    def _info(self, board: Board) -> Info:
        number = len(board.boxes)
        return {
            "task": TASK,
            "task_type": "1 box" if number == 1 else f"{number} boxes",
            "game": hashlib.sha256(self._task.encode()).hexdigest()[:12],
            "admissible_actions": actions(board),
            "won": board.solved,
            "board": write(board),
        }
