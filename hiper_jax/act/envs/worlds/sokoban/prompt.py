"""The terse wording: the board says all, so of the turns before only moves are told."""

from collections.abc import Sequence

from hiper_jax.act.envs import templates
from hiper_jax.act.envs.templates import History


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
    shown = templates.last(history, history_length)
    wording = templates.TERSE if plan else templates.TERSE_FLAT
    return wording.format(
        task=task,
        history="".join(f"did: {action}\n" for _, action in shown),
        observation=observation,
        subgoal=subgoal or "none",
        actions="; ".join(admissible),
    )
