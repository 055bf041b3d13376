"""A policy plays a fixed panel of games, each once; the outcome goes to a file."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from hiper_jax.act.rollout import Environments, Reader, rollout


def evaluate(
    pool: Environments,
    bind: Callable,
    params: Any,
    games: Sequence[str],
    reader: Reader,
    *,
    tag: str,
    split: str,
    step: int,
    temperature: float,
    seed: int,
    max_turns: int,
    manifest_hash: str,
    on_turn: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Plays every game once.

    Args:
      pool: environments.
      bind: from `agent.sampler`.
      params: the actor's weights.
      games: what to play.
      reader: how prompts are written and responses read.
      tag: what the evaluation is called, "before" or "after".
      split: where the games come from.
      step: updates done by these weights.
      temperature: of sampling; 0 takes the likeliest token.
      seed: of sampling; the same for every evaluation of a run.
      max_turns: turns until an episode is cut.
      manifest_hash: names the panel.
      on_turn: progress, see `rollout`.

    Returns:
      The record of `eval/<tag>.json`.
    """
    key = jax.random.key(seed)
    episodes, _ = rollout(
        pool,
        bind(params, key, temperature),
        games,
        reader,
        max_turns=max_turns,
        on_turn=on_turn,
    )
    return {
        "tag": tag,
        "step": step,
        "split": split,
        "temperature": temperature,
        "seed": seed,
        "manifest": manifest_hash,
        "success": sum(e.won for e in episodes) / len(episodes),
        "episodes": [
            {
                "game": e.game,
                "task_type": e.task_type,
                "won": e.won,
                "score": e.score,
                "turns": len(e.turns),
                "return": e.reward,
            }
            for e in episodes
        ],
    }
