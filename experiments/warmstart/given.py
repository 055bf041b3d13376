"""Episodes that others played -> demonstrations to imitate.

a run's folder, or a data set       its won episodes
folders with traj_data.json         ALFWorld's expert, replayed in its games
a file of JSON lines                WebShop's people, as published
"""

import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from hiper_jax import workdir
from hiper_jax.act.envs.demo import Demo, DemoStep
from hiper_jax.act.envs.world import WorldSettings
from hiper_jax.act.episode import Episode
from hiper_jax.experiments import games

_TRAJECTORY = "traj_data.json"
_GAME = "game.tw-pddl"
_BUTTON = re.compile(r"\[(?:clicked )?button\] (.*?) \[(?:clicked )?button_\]")
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


def read(path, world: WorldSettings, say: Callable[[str], Any]) -> list[Demo]:
    """The demonstrations that lie in a folder or a file.

    Args:
      path: see the module's text.
      world: whose games they are of; ALFWorld's are replayed by its environment.
      say: is told how many there are.

    Raises:
      FileNotFoundError, ValueError: there are none, or they are damaged.
    """
    path = pathlib.Path(path)
    if path.is_file():
        demos, what = list(of_people(path)), "trajectories of people"
    elif workdir.is_stored(path):
        stored = [entry.episode for entry in workdir.stored(path)]
        demos = [of_episode(episode) for episode in stored if episode.won]
        what = f"won episodes of {len(stored)}"
    else:
        demos, what = list(of_expert(path, world)), "trajectories of ALFWorld's expert"
    if not demos:
        raise ValueError(f"{path} has nothing to imitate: no episode in it was won")
    say(f"{len(demos)} {what} in {path}")
    return demos


def of_episode(episode: Episode) -> Demo:
    """A demonstration of an episode; what was refused or ill-formed is not taught."""
    last = len(episode.turns) - 1
    steps = tuple(
        DemoStep(
            observation=turn.observation,
            admissible_actions=turn.admissible,
            subgoal=turn.subgoal,
            switch=turn.switch,
            expert_action=turn.action
            if turn.format_valid and turn.action_valid
            else "",
            action=turn.action,
            reward=turn.reward,
            terminated=t == last and episode.terminated,
            truncated=t == last and episode.truncated,
            task=turn.task,
        )
        for t, turn in enumerate(episode.turns)
    )
    info = {"task": episode.task, "game": episode.game, "task_type": episode.task_type}
    first = episode.turns[0].admissible
    return Demo(episode.game, {**info, "admissible_actions": first}, steps, "")


def of_expert(path: pathlib.Path, world: WorldSettings) -> Iterator[Demo]:
    """Replays ALFWorld's expert: the plan names subgoals, the game's file the actions.

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
    env = games.make_env(world)()
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


def replay(env, game: str, actions: list[str], due: list[tuple]) -> Demo:
    """Plays a list of actions; each serves what is due next."""
    observation, info = env.reset(game)
    start, steps, before = info, [], ""
    due = [*due]
    for action in actions:
        listed = tuple(info["admissible_actions"])
        # Older data sets put where ours move.
        moved = re.sub(r"^put (.+) in/on (.+)$", r"move \1 to \2", action)
        action = action if action in listed else moved
        if action not in listed:
            raise ValueError(f"{game} does not accept {action!r}, which its file names")
        subgoal = due[0][1] if due else before or "finish"
        seen = observation
        observation, reward, terminated, truncated, info = env.step(action)
        steps.append(
            DemoStep(
                observation=seen,
                admissible_actions=listed,
                subgoal=subgoal,
                switch=subgoal != before,
                expert_action=action,
                action=action,
                reward=reward,
                terminated=terminated,
                truncated=truncated,
            )
        )
        before = subgoal
        if len(due) > 1 and action.split()[0] in due[0][0]:
            due.pop(0)
        if terminated or truncated:
            break
    return Demo(game, start, tuple(steps), observation)


def of_people(path: pathlib.Path) -> Iterator[Demo]:
    """WebShop's trajectories of people, one a line.

    Of a line `states`, `actions` and `available_actions` are read. Searches and looks
    at results serve to find something, clicks on an item's page to choose, and the
    last to buy.

    Raises:
      ValueError: naming the file, the line and what is wrong.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                states = [str(text) for text in record["states"]]
                actions = [str(text) for text in record["actions"]]
                listed = [tuple(map(str, x)) for x in record["available_actions"]]
                if not actions or not len(states) >= len(actions) == len(listed):
                    raise ValueError("its lists are not of one length")
            except (ValueError, LookupError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number} is no trajectory of WebShop ({error!r})"
                ) from None
            yield _purchase(f"{path.name}-{number}", states, actions, listed)


def _purchase(name: str, states, actions, listed) -> Demo:
    steps, before = [], ""
    for t, action in enumerate(actions):
        subgoal = _shopping(action, before)
        steps.append(
            DemoStep(
                observation=_page(states[t]),
                admissible_actions=listed[t],
                subgoal=subgoal,
                switch=subgoal != before,
                expert_action=action,
                action=action,
                reward=0.0,
                terminated=t + 1 == len(actions),
                truncated=False,
            )
        )
        before = subgoal
    info = {"task": _instruction(states[0]), "admissible_actions": listed[0]}
    return Demo(name, info, tuple(steps), "")


def _shopping(action: str, before: str) -> str:
    """The subgoal that an action serves."""
    verb, _, rest = action.partition("[")
    word = rest.rstrip("]").lower()
    if verb == "search":
        return f"find {word}"
    if word == "buy now":
        return "buy"
    # An item's number has digits and no space: until it is opened one looks for it.
    moves = ("next >", "< prev", "back to search")
    if word in moves or re.fullmatch(r"b\w{9}", word):
        return before or "find it"
    return "choose"


def _instruction(state: str) -> str:
    """What is asked for, without the page's other words."""
    text = re.split(r"instruction:", state, maxsplit=1, flags=re.IGNORECASE)[-1]
    text = re.split(r"\[SEP\]|\[button\]", text.removeprefix(" [SEP]"))
    return next((part.strip() for part in text if part.strip()), "")


def _page(state: str) -> str:
    """A page of the published text with buttons, as ours are written."""
    lines = [_BUTTON.sub(r"\1", line).strip() for line in state.split("\n")]
    return " [SEP] ".join(line for line in lines if line)


def _due(step: dict[str, Any]) -> tuple[tuple[str, ...], str] | None:
    """The verbs that do a step of ALFRED's plan and its words; None for a walk."""
    known = _DONE.get(step["action"])
    if known is None:
        return None
    verbs, wording = known
    arguments = [str(word) for word in step["args"]] + ["", ""]
    return verbs, wording.format(*arguments).strip()
