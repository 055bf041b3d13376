"""A player who solves the level first and then says which box goes where.

Each stretch of pushes of one box has a subgoal: `box 2 4 to 1 4`. Where chance has
taken a turn the player solves the level anew from where it stands; where nothing can be
solved any more the demonstration ends.
"""

import random

from hiper_jax.act.envs.demo import Demo, take_turn
from hiper_jax.act.envs.env import Env
from hiper_jax.act.envs.worlds.sokoban.board import Board, read
from hiper_jax.act.envs.worlds.sokoban.plan import Push, solve, walk


def demonstrate(env: Env, task: str, *, noise: float = 0.0, rng: random.Random) -> Demo:
    """Plays a level.

    Args:
      env: a Sokoban to play in.
      task: the level.
      noise: how often, from 0 to 1, a move drawn at random is played in place of the
        player's own.
      rng: where chance comes from.

    Returns:
      The episode; it ends before the level does where that has become unsolvable.
    """
    observation, info = env.reset(task)
    first, steps, previous, over = info, [], "", info["won"]
    plan: list[tuple[str, str]] = []
    after = ""  # the board that the plan goes on from
    while not over:
        if not plan or info["board"] != after:
            plan = moves(read(info["board"])) or []
            if not plan:
                break
        (subgoal, wanted), plan = plan[0], plan[1:]
        actions = info["admissible_actions"]
        action = rng.choice(actions) if rng.random() < noise else wanted
        step, observation, info = take_turn(
            env,
            observation,
            info,
            subgoal=subgoal,
            previous=previous,
            wanted=wanted,
            action=action,
        )
        steps.append(step)
        after = info["board"] if action == wanted else ""
        previous, over = subgoal, step.terminated or step.truncated
    return Demo(task, first, tuple(steps), observation)


def moves(board: Board) -> list[tuple[str, str]] | None:
    """(subgoal, action) of every move to the end; None where there is no way."""
    pushes = solve(board)
    if pushes is None:
        return None
    found = []
    for subgoal, push in zip(subgoals(board, pushes), pushes, strict=True):
        *steps, last = walk(board, push)
        found += [(subgoal, f"go {step}") for step in steps]
        found.append((subgoal, f"push {last}"))
        target = push.box + board.offset(push.direction)
        board = board._replace(
            player=push.box, boxes=board.boxes - {push.box} | {target}
        )
    return found


def subgoals(board: Board, pushes: list[Push]) -> list[str]:
    """For each push, which box is being brought from where to where."""
    ends = [push.box + board.offset(push.direction) for push in pushes]
    first, texts = 0, []
    for i, push in enumerate(pushes):
        if i and push.box != ends[i - 1]:
            first = i
        last = i
        while last + 1 < len(pushes) and pushes[last + 1].box == ends[last]:
            last += 1
        places = (board.place(cell) for cell in (pushes[first].box, ends[last]))
        texts.append("box {} {} to {} {}".format(*next(places), *next(places)))
    return texts
