"""A rollout under strategies: drawn first, followed, then judged by the same model."""

from collections.abc import Callable, Sequence
from typing import Any

from hiper_jax.act import strategy, strategy_judge
from hiper_jax.act.episode import Episode
from hiper_jax.act.rollout import Environments, Reader, rollout
from hiper_jax.credit.strata import StrataSettings
from hiper_jax.experiments.panel import from_place


def follow(
    environments: Environments,
    policy: Callable[[float], Any],
    embed: strategy.Embed,
    games: Sequence[str],
    reader: Reader,
    settings: StrataSettings,
    *,
    temperature: float,
    first: int = 0,
    place: int = 0,
    **options: Any,
) -> tuple[list[Episode], dict[str, float], dict[str, float]]:
    """Plays every game of the list once, under strategies that are written for it.

    Args:
      environments: see `rollout`.
      policy: temperature -> a rollout's sampler.
      embed: see `act.strategy`.
      games: a task's `strategies × trajectories` in a row.
      reader: see `rollout`.
      settings: how many strategies, of how many; nobody judges without a flag penalty.
      temperature: of strategies and of actions. Judgements take the likeliest tokens.
      first: number of the first strategy of the whole list.
      place: games of the whole list before these, which other hosts play.
      **options: of `rollout`.

    Returns:
      The episodes, seconds as a rollout's, and metrics.
    """
    if not games:
        return [], {"environment": 0.0, "generation": 0.0, "text": 0.0}, {}
    sample = policy(temperature)
    before = place // settings.trajectories  # strategies
    drawn = strategy.draw(
        environments,
        from_place(sample, before // settings.strategies * settings.candidates),
        games,
        reader,
        embed=embed,
        candidates=settings.candidates,
        kept=settings.strategies,
        each=settings.trajectories,
        first=first + before,
    )
    episodes, spent = rollout(
        environments,
        from_place(sample, place),
        games,
        reader,
        strategies=drawn.strategies,
        **options,
    )
    spent = {name: spent[name] + drawn.spent[name] for name in spent}
    metrics = drawn.metrics
    if settings.flag_penalty and episodes:
        judged = strategy_judge.judge(episodes, policy(0.0), reader)
        episodes, metrics = judged.episodes, metrics | judged.metrics
        spent["generation"] += judged.seconds
        spent["device"] += judged.seconds
    return episodes, spent, metrics
