"""An episode that a scripted player has played, turn by turn."""

from typing import Any, NamedTuple


class DemoStep(NamedTuple):
    """One turn of a demonstration."""

    observation: str  # before the action
    admissible_actions: tuple[str, ...]
    subgoal: str
    switch: bool  # the subgoal is new at this turn
    expert_action: str
    action: str  # what was played; the expert's unless chance took the turn
    reward: float
    terminated: bool
    truncated: bool
    task: str = ""  # in words, where it is not the first turn's all along


class Demo(NamedTuple):
    """An episode the scripted player played."""

    task: str  # the environment's name of the task
    info: dict[str, Any]  # of the reset
    steps: tuple[DemoStep, ...]
    observation: str  # after the last action

    @property
    def won(self) -> bool:
        """Whether the last turn ended the task."""
        return bool(self.steps) and self.steps[-1].terminated
