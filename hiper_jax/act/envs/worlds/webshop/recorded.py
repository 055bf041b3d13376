"""What people did in WebShop, as published: a file of JSON lines, one purchase each."""

import json
import pathlib
import re
from collections.abc import Iterator

from hiper_jax.act.envs.demo import Demo, DemoStep
from hiper_jax.act.envs.env import MakeEnv

_BUTTON = re.compile(r"\[(?:clicked )?button\] (.*?) \[(?:clicked )?button_\]")


def recorded(path: pathlib.Path, make_env: MakeEnv) -> Iterator[Demo]:
    """Trajectories of people, one a line; nothing is played again.

    Of a line `states`, `actions` and `available_actions` are read. Searches and looks
    at results serve to find something, clicks on an item's page to choose, and the
    last to buy.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: naming the file, the line and what is wrong.
    """
    del make_env
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} holds no episodes: name a run's folder, a data set, or a file of "
            "JSON lines"
        )
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
