"""The wordings of ALFWorld's prompts: without `help`, and places named in one go."""

from collections.abc import Sequence
from typing import Any

from hiper_jax.act.envs import templates, wordings
from hiper_jax.act.envs.templates import History

# Listing these again each turn would tell the agent nothing.
HIDDEN_ACTIONS = ("help",)


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
    """The wording for pretrained models, with a plan or without."""
    return templates.full(
        task,
        history,
        observation,
        subgoal,
        _listed(admissible),
        history_length=history_length,
        plan=plan,
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
    """The wording for small models, with a plan or without."""
    return templates.terse(
        task,
        [(_without_task(o), a) for o, a in templates.last(history, history_length)],
        _without_task(observation),
        subgoal,
        _grouped(_listed(admissible)),
        history_length=history_length,
        plan=plan,
    )


def ask_full(
    task: str, history: History, observation: str, subgoal: str, admissible, **_: Any
) -> str:
    """Asks a pretrained model for a strategy."""
    return wordings.ask_full(task, history, observation, subgoal, _listed(admissible))


def ask_taught(
    task: str, history: History, observation: str, subgoal: str, admissible, **_: Any
) -> str:
    """Asks a small model that was taught to answer."""
    seen, actions = _without_task(observation), _grouped(_listed(admissible))
    return wordings.ask_taught(task, history, seen, subgoal, actions)


STRATEGIES = {
    "full": wordings.FULL._replace(ask=ask_full),
    "terse": wordings.TERSE,
    "taught": wordings.TAUGHT._replace(ask=ask_taught),
}


def _listed(actions: Sequence[str]) -> list[str]:
    return [a for a in actions if a not in HIDDEN_ACTIONS]


def _without_task(text: str) -> str:
    """An observation without the task, which the prompt names anyway."""
    return text.split("Your task is to:")[0]


def _grouped(actions: Sequence[str]) -> list[str]:
    """Names a verb once: "go to desk 1", "go to bed 1" -> "go to desk 1 bed 1"."""
    verb = "go to "
    places = [a.removeprefix(verb) for a in actions if a.startswith(verb)]
    rest = [a for a in actions if not a.startswith(verb)]
    return rest + ([verb + " ".join(places)] if places else [])
