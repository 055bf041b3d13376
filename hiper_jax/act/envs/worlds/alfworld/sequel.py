"""Proves a game of several goals solvable: the scripted player reaches all of them.

`prover` knows one goal; for demonstrations, too, several are played by `expert`.
"""

from hiper_jax.act.envs.worlds.alfworld.expert import Planner
from hiper_jax.act.envs.worlds.alfworld.game import Game
from hiper_jax.act.envs.worlds.alfworld.native import Engine


def prove(game: Game, task_type: str, *, limit: int) -> list[str] | None:
    """Plays a game.

    Args:
      game: which.
      task_type: of its first goal, one of `alfred.SENTENCES`.
      limit: how many moves it may take.

    Returns:
      The winning moves, or None if there are none within the limit, or a goal was
      already reached when it became due.
    """
    engine = Engine()
    engine.restore((game, game.start))
    seen = engine.reset()
    planner = Planner(
        {"task": game.task, "task_type": task_type, "admissible_actions": seen.commands}
    )
    moves: list[str] = []
    while not seen.won and len(moves) < limit:
        done = seen.done
        try:
            _, move = planner.act(seen.commands)
        except (RuntimeError, ValueError):  # the room lacks what the goal needs
            return None
        seen = engine.step(move)
        moves.append(move)
        planner.observe(seen.text)
        if seen.done > done + 1 or (seen.won and seen.done > done):
            return None
        if seen.done > done:
            due = game.then[done]
            planner.turn_to({"task": due.task, "task_type": due.task_type})
    return moves if seen.won else None
