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


def take_turn(
    env: Any,
    observation: str,
    info: dict[str, Any],
    *,
    subgoal: str,
    previous: str | None,
    wanted: str,
    action: str,
    task: str = "",
) -> tuple[DemoStep, str, dict[str, Any]]:
    """Plays one turn of a demonstration.

    Args:
      env: an `Env`, which is at this turn.
      observation, info: what it has said before.
      subgoal: of this turn.
      previous: of the turn before; None where there is none to keep.
      wanted: the expert's action.
      action: what is played.
      task: see `DemoStep`.

    Returns:
      The turn, and the observation and the info after it.
    """
    listed = tuple(info["admissible_actions"])
    seen, reward, terminated, truncated, info = env.step(action)
    step = DemoStep(
        observation=observation,
        admissible_actions=listed,
        subgoal=subgoal,
        switch=subgoal != previous,
        expert_action=wanted,
        action=action,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        task=task,
    )
    return step, seen, info
