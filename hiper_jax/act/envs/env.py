"""The protocol of a text environment: Gymnasium's five-tuple on strings.

An environment plays one task at a time. `reset(task)` starts the named task and returns
its first observation; `step(action)` plays one action. The two ways to stop are kept
apart, as in Gymnasium:

    terminated   the task itself ended, won or lost; no value follows this state
    truncated    the turn limit was reached first; the state still has a value

`info` is a dict with at least the keys

    task                 the task in words, a str; another where the next of several
                         goals has become due
    admissible_actions   list[str]; the actions the environment understands now; an
                         entry `verb[<your what>]` stands for `verb[any text]`, and
                         `<your what>` for any text
    won                  bool
    task_type            str; the family of the task
    game                 str; names the task among others
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

Info = dict[str, Any]
Reset = tuple[str, Info]
Step = tuple[str, float, bool, bool, Info]


@runtime_checkable
class Env(Protocol):
    """A text environment; see the module's text for what the values mean."""

    def reset(self, task: str) -> Reset:
        """Starts `task` and returns (observation, info)."""
        ...

    def step(self, action: str) -> Step:
        """Plays an action.

        Args:
          action: in lower case, without spaces around it; anything that a model wrote,
            not only what is admissible.

        Returns:
          Observation, reward, terminated, truncated, info.
        """
        ...

    def close(self) -> None:
        """Gives back what the environment holds; it cannot be used afterwards."""
        ...


MakeEnv = Callable[[], Env]

_OPEN = re.compile(r"(\w+\[)<your \w+>\]")
_ANYTHING = re.compile(r"<your \w+>")


def accepts(admissible: Sequence[str], action: str) -> bool:
    """Whether an action is one of the admissible ones, or an instance of one."""
    if action in admissible:
        return True
    if action and any(_ANYTHING.fullmatch(entry) for entry in admissible):
        return True
    verbs = [found[1] for entry in admissible if (found := _OPEN.fullmatch(entry))]
    return any(
        action.startswith(verb) and action.endswith("]") and action[len(verb) : -1]
        for verb in verbs
    )
