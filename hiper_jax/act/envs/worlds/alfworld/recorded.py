"""ALFWorld's own expert: its plan names subgoals, the game's file the actions.

folders with traj_data.json and, beside it, game.tw-pddl
"""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from hiper_jax.act.envs.demo import Demo, take_turn
from hiper_jax.act.envs.env import Env, MakeEnv

_TRAJECTORY = "traj_data.json"
_GAME = "game.tw-pddl"
# What ALFRED calls a thing done -> the verbs of our games, and how we say it.
_DONE = {
    "PickupObject": (("take",), "take {}"),
    "PutObject": (("put", "move"), "put {} in {}"),
    "CleanObject": (("clean",), "clean {}"),
    "HeatObject": (("heat",), "heat {}"),
    "CoolObject": (("cool",), "cool {}"),
    "ToggleObject": (("use",), "use {}"),
    "SliceObject": (("slice",), "slice {}"),
}


def recorded(path: pathlib.Path, make_env: MakeEnv) -> Iterator[Demo]:
    """Replays every trajectory below a folder in its game.

    Args:
      path: the folder.
      make_env: what makes the environment that plays.

    Raises:
      FileNotFoundError: there is no trajectory, or no game beside one.
      ValueError: a file is damaged, or the game does not take the expert's actions.
    """
    found = sorted(path.rglob(_TRAJECTORY))
    if not found:
        raise FileNotFoundError(
            f"{path} holds no episodes: name a run's folder, a data set, a folder with "
            f"{_TRAJECTORY} files, or a file of JSON lines"
        )
    env = make_env()
    try:
        for file in found:
            game = file.with_name(_GAME)
            if not game.is_file():
                raise FileNotFoundError(
                    f"{file.parent} has no {_GAME} to replay its trajectory in"
                )
            try:
                plan = json.loads(file.read_text())["plan"]["high_pddl"]
                due = [_due(step["discrete_action"]) for step in plan]
                actions = [str(a) for a in json.loads(game.read_text())["walkthrough"]]
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{file.parent} is damaged ({type(error).__name__}): download it "
                    "again, or remove the folder"
                ) from None
            yield replay(env, str(game), actions, [d for d in due if d is not None])
    finally:
        env.close()


def replay(env: Env, game: str, actions: list[str], due: list[tuple]) -> Demo:
    """Plays a list of actions; each serves what is due next."""
    observation, info = env.reset(game)
    start, steps, before = info, [], ""
    due = [*due]
    for action in actions:
        listed = info["admissible_actions"]
        # Older data sets put where ours move.
        moved = re.sub(r"^put (.+) in/on (.+)$", r"move \1 to \2", action)
        action = action if action in listed else moved
        if action not in listed:
            raise ValueError(f"{game} does not accept {action!r}, which its file names")
        subgoal = due[0][1] if due else before or "finish"
        step, observation, info = take_turn(
            env,
            observation,
            info,
            subgoal=subgoal,
            previous=before,
            wanted=action,
            action=action,
        )
        steps.append(step)
        before = subgoal
        if len(due) > 1 and action.split()[0] in due[0][0]:
            due.pop(0)
        if step.terminated or step.truncated:
            break
    return Demo(game, start, tuple(steps), observation)


def _due(step: dict[str, Any]) -> tuple[tuple[str, ...], str] | None:
    """The verbs that do a step of ALFRED's plan and its words; None for a walk."""
    known = _DONE.get(step["action"])
    if known is None:
        return None
    verbs, wording = known
    arguments = [str(word) for word in step["args"]] + ["", ""]
    return verbs, wording.format(*arguments).strip()
