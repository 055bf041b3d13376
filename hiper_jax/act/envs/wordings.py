"""The wordings around a strategy: what asks for one, shows it, and judges by it.

A strategy is a short text, written from what is seen first, that stands at the head of
every prompt of an episode. As for prompts there are two wordings that serve any world.
`terse` asks nothing: a small model's first subgoal is its strategy. It stands beside
the task, for a model that was taught prompts of one form reads no other. `taught` is
for small models that were taught strategies: it asks, and shows them ahead.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hiper_jax.act.envs.templates import History, Template

Steps = Sequence[tuple[str, str]]  # what was seen and what was then done, in order

ASK = """\
You are an agent in a text world. Before you act, choose a strategy for the whole task.

Task: {task}
You now see: {observation}
Actions you may take now:
{actions}

Write the strategy in one or two short sentences: what to look for, where, and in what
order. It will stand before you on every turn and cannot be changed. Write no more."""

UNDER = """\
Your strategy for the whole task: {strategy}

"""

JUDGE = """\
An agent in a text world has played an episode under a strategy. Find its useless steps.

Task: {task}
Strategy: {strategy}
{steps}

A step is useless if it neither follows the strategy nor advances the task. Answer with
the numbers of the useless steps, separated by commas, or with the word none, and write
nothing else."""

BESIDE = "{task} strategy: {strategy}"

ASK_TAUGHT = """\
task: {task}
now: {observation}
can: {actions}
strategy:
"""

UNDER_TAUGHT = "strategy: {strategy}\n"

JUDGE_TERSE = """\
task: {task}
strategy: {strategy}
{steps}
useless:
"""


class Wording(NamedTuple):
    """How a world speaks of strategies in one style."""

    # As a prompt's template, of an episode's first turn: asks for a strategy. None: the
    # first prompt itself does.
    ask: Template | None
    # (template, strategy) -> a template whose prompts show the strategy.
    under: Callable[[Template, str], Template]
    # (task, strategy, steps) -> asks for the numbers, from 1, of steps that helped
    # nothing. Where an observation is "", only what was done is to be shown.
    judge: Callable[[str, str, Steps], str]


def ask_full(
    task: str, history: History, observation: str, subgoal: str, admissible, **_: Any
) -> str:
    """Asks a pretrained model for a strategy."""
    del history, subgoal
    actions = "\n".join(f"- {action}" for action in admissible)
    return ASK.format(task=task, observation=observation.strip(), actions=actions)


def ask_taught(
    task: str, history: History, observation: str, subgoal: str, admissible, **_: Any
) -> str:
    """Asks a small model that was taught to answer."""
    del history, subgoal
    seen, actions = " ".join(observation.split()), "; ".join(admissible)
    return ASK_TAUGHT.format(task=task, observation=seen, actions=actions)


def ahead(template: Template, strategy: str) -> Template:
    """Shows a pretrained model its strategy before all else."""

    def written(*args: Any, **keywords: Any) -> str:
        return UNDER.format(strategy=strategy) + template(*args, **keywords)

    return written


def ahead_taught(template: Template, strategy: str) -> Template:
    """Shows a small model that was taught so its strategy before all else."""

    def written(*args: Any, **keywords: Any) -> str:
        return UNDER_TAUGHT.format(strategy=strategy) + template(*args, **keywords)

    return written


def beside_task(template: Template, strategy: str) -> Template:
    """Shows a small model its strategy after the task."""

    def written(task: str, *args: Any, **keywords: Any) -> str:
        task = BESIDE.format(task=task, strategy=strategy)
        return template(task, *args, **keywords)

    return written


def judge_full(task: str, strategy: str, steps: Steps) -> str:
    """Asks a pretrained model which steps were useless."""
    lines = [
        f"Step {n}. " + (f"Saw: {seen} Did: " if seen else "Did: ") + did
        for n, (seen, did) in enumerate(_flat(steps), 1)
    ]
    return JUDGE.format(task=task, strategy=strategy, steps="\n".join(lines))


def judge_terse(task: str, strategy: str, steps: Steps) -> str:
    """Asks a small model which steps were useless."""
    lines = [
        f"{n} " + (f"was: {seen} " if seen else "") + f"did: {did}"
        for n, (seen, did) in enumerate(_flat(steps), 1)
    ]
    return JUDGE_TERSE.format(task=task, strategy=strategy, steps="\n".join(lines))


FULL = Wording(ask_full, ahead, judge_full)
TERSE = Wording(None, beside_task, judge_terse)
TAUGHT = Wording(ask_taught, ahead_taught, judge_terse)


def _flat(steps: Steps) -> list[tuple[str, str]]:
    return [(" ".join(seen.split()), " ".join(did.split())) for seen, did in steps]
