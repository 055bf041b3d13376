"""A policy plays a fixed panel of games, each once; the outcome goes to a file."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from hiper_jax.act import strategy
from hiper_jax.act.episode import Episode
from hiper_jax.act.rollout import Dropped, Environments, Reader, Sampler, rollout


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
    max_dropped: float = 0.5,
    waves: int = 1,
    strategic: bool = False,
    on_turn: Callable[[int, int], Any] | None = None,
    on_drop: Callable[[Dropped], Any] = lambda one: None,
) -> dict[str, Any]:
    """Plays every game once; one whose environment fails counts as not won.

    Args:
      pool, bind, params, games, reader: see `play`.
      tag: what the evaluation is called, "before" or "after".
      split: where the games come from.
      step: updates done by these weights.
      temperature: of sampling; 0 takes the likeliest token.
      seed: of sampling; the same for every evaluation of a run.
      max_turns: turns until an episode is cut.
      manifest_hash: names the panel.
      max_dropped, waves: see `rollout`.
      strategic: an episode follows a strategy that is written for it, one for each.
      on_turn: progress, see `rollout`.
      on_drop: called with every game that was dropped.

    Returns:
      The record of `eval/<tag>.json`.
    """
    played = play(
        pool,
        bind,
        params,
        games,
        reader,
        temperature=temperature,
        seed=seed,
        max_turns=max_turns,
        max_dropped=max_dropped,
        waves=waves,
        strategic=strategic,
        on_turn=on_turn,
        on_drop=on_drop,
    )
    return record(
        played,
        tag=tag,
        split=split,
        step=step,
        temperature=temperature,
        seed=seed,
        manifest_hash=manifest_hash,
    )


def play(
    pool: Environments,
    bind: Callable,
    params: Any,
    games: Sequence[str],
    reader: Reader,
    *,
    temperature: float,
    seed: int,
    max_turns: int,
    max_dropped: float = 0.5,
    waves: int = 1,
    strategic: bool = False,
    on_turn: Callable[[int, int], Any] | None = None,
    on_drop: Callable[[Dropped], Any] = lambda one: None,
    first: int = 0,
    shared: Callable[[Sampler], Any] = contextlib.nullcontext,
) -> list[dict[str, Any]]:
    """Plays every game once; returns what is recorded of each, in their order.

    Args:
      pool: environments.
      bind: from `agent.sampler`.
      params: the actor's weights.
      games: what to play.
      reader: how prompts are written and responses read.
      temperature, seed, max_turns, max_dropped, strategic: see `evaluate`.
      waves, on_turn, on_drop: see `rollout`.
      first: games of the panel before these, which others play.
      shared: of the sampler, while games are played; see `meeting.turn_by_turn`.
    """
    # `bind` where there are no games, too: all hosts lay out weights together.
    sampler = bind(params, jax.random.key(seed), temperature)
    dropped: list[Dropped] = []
    with shared(sampler) as sample:
        if not games:
            return []
        sample = from_place(sample, first)
        drawn = strategy.draw(pool, sample, games, reader) if strategic else None
        episodes, _ = rollout(
            pool,
            sample,
            games,
            reader,
            max_turns=max_turns,
            on_turn=on_turn,
            on_drop=lambda one: (dropped.append(one), on_drop(one)),
            max_dropped=max_dropped,
            waves=waves,
            strategies=drawn and drawn.strategies,
        )
    played = [_played(episode) for episode in episodes]
    for one in sorted(dropped):  # in the order of the games
        played.insert(one.index, _dropped(one))
    return played


def record(
    played: list[dict[str, Any]],
    *,
    tag: str,
    split: str,
    step: int,
    temperature: float,
    seed: int,
    manifest_hash: str,
) -> dict[str, Any]:
    """The record of `eval/<tag>.json`; arguments as `evaluate`."""
    return {
        "tag": tag,
        "step": step,
        "split": split,
        "temperature": temperature,
        "seed": seed,
        "manifest": manifest_hash,
        "success": sum(one["won"] for one in played) / len(played),
        "episodes": played,
    }


def from_place(sample: Sampler, first: int) -> Sampler:
    """A sampler to whom the episodes of a part are those of the whole, by number."""
    if not first:
        return sample
    return lambda prompts, index, turn: sample(prompts, index + first, turn)


def _played(episode: Episode) -> dict[str, Any]:
    followed = episode.strategy
    strategy = {} if followed is None else {"strategy": followed.text}
    return strategy | {
        "game": episode.game,
        "task_type": episode.task_type,
        "won": episode.won,
        "score": episode.score,
        "turns": len(episode.turns),
        "return": episode.reward,
    }


def _dropped(one: Dropped) -> dict[str, Any]:
    return {
        "game": one.game,
        "task_type": one.task_type or "unknown",
        "won": False,
        "score": 0.0,
        "turns": one.turn,
        "return": 0.0,
        "dropped": one.fault.reason,
    }
