"""Task, history, observation, subgoal, actions -> the text of a prompt.

Two wordings that serve any world. `full` explains the game and the format of responses
to a pretrained model; `terse` is for small models trained from scratch, which learn
the format from examples and for which every token is time. A world may bring its own.

Either is written with a plan, for responses of three blocks, or without one, for
reasoning and an action: then nothing is said of subgoals.
"""

from collections.abc import Sequence
from typing import Any, Protocol

History = Sequence[tuple[str, str]]

FULL = """\
You are an agent in a text world. Work towards the task by planning and executing.

Task: {task}
{history}\
Turn {turn}. You now see: {observation}
Your current subgoal: {subgoal}
Actions you may take now:
{actions}

First decide whether the current subgoal still serves the task. KEEP it while it is
neither finished nor hopeless; SWITCH when it is finished, hopeless, or there is none.
Then state the subgoal to follow now (repeat it word for word if you keep it), and
choose one action from the list. Answer with these three blocks and nothing else:
<switch>KEEP or SWITCH</switch>
<subgoal>the subgoal</subgoal>
<action>one action from the list</action>"""

FULL_FLAT = """\
You are an agent in a text world. Work towards the task, one action at a time.

Task: {task}
{history}\
Turn {turn}. You now see: {observation}
Actions you may take now:
{actions}

First think step by step: what the task still needs, and what you have seen. Write your
reasoning within <think> </think>. Then choose one action from the list, within
<action> </action>. Answer with these two blocks and nothing else:
<think>your reasoning</think>
<action>one action from the list</action>"""

TERSE = """\
task: {task}
{history}now: {observation}
subgoal: {subgoal}
can: {actions}
"""

TERSE_FLAT = """\
task: {task}
{history}now: {observation}
can: {actions}
"""


class Template(Protocol):
    """Writes the prompt of one turn."""

    def __call__(
        self,
        task: str,
        history: History,
        observation: str,
        subgoal: str,
        admissible: Sequence[str],
        *,
        history_length: int,
    ) -> str:
        """
        Args:
          task: the task sentence.
          history: (observation, action) pairs, oldest first; all turns so far.
          observation: what the environment shows now.
          subgoal: the subgoal in force; empty when there is none.
          admissible: the actions that the environment would accept.
          history_length: how many of the last pairs are shown.

        Returns:
          The text of the prompt.
        """
        ...


def last(history: History, number: int) -> list[tuple[str, str]]:
    """The last `number` pairs; none for 0."""
    return list(history[-number:]) if number else []


def full(
    task: str,
    history: History,
    observation: str,
    subgoal: str,
    admissible: Sequence[str],
    *,
    history_length: int = 2,
    plan: bool = True,
) -> str:
    """The wording for pretrained models, with a plan or without; see `Template`."""
    shown = last(history, history_length)
    first = len(history) - len(shown) + 1
    lines = [
        f"Turn {first + i}. You saw: {o.strip()}\n  You did: {a}\n"
        for i, (o, a) in enumerate(shown)
    ]
    return (FULL if plan else FULL_FLAT).format(
        task=task,
        history="".join(lines),
        turn=len(history) + 1,
        observation=observation.strip(),
        subgoal=subgoal or "(none yet)",
        actions="\n".join(f"- {a}" for a in admissible),
    )


def terse(
    task: str,
    history: History,
    observation: str,
    subgoal: str,
    admissible: Sequence[str],
    *,
    history_length: int = 2,
    plan: bool = True,
) -> str:
    """The wording for small models, with a plan or without; see `Template`."""
    shown = last(history, history_length)
    return (TERSE if plan else TERSE_FLAT).format(
        task=task,
        history="".join(f"was: {_flat(o)}\ndid: {a}\n" for o, a in shown),
        observation=_flat(observation),
        subgoal=subgoal or "none",
        actions="; ".join(admissible),
    )


def counted(template: Template) -> Template:
    """A wording with the number of the turn, from 1, in a line at its head."""

    def written(task: str, history: History, *args: Any, **keywords: Any) -> str:
        text = template(task, history, *args, **keywords)
        return f"turn {len(history) + 1}\n{text}"

    return written


def _flat(text: str) -> str:
    return " ".join(text.split())
