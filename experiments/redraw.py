"""DAPO's group filter: tasks from which nothing can be learned are drawn again.

Where all trajectories of a task have one return, none of them is better than its
siblings and every advantage is 0. Such tasks make room for others, a few times at most.

Source: arXiv 2503.14476.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiper_jax.act.episode import Episode

Spent = dict[str, float]  # seconds, by what for


class Drawn(NamedTuple):
    """The episodes of one iteration."""

    episodes: list[Episode]  # to learn from; siblings side by side
    first: list[Episode]  # of the first draw, which alone is no choice of the filter
    spent: Spent
    metrics: dict[str, float]
    tasks: Mapping[str, str] = {}  # the task that a game was asked for by


def draw(
    play: Callable[[Sequence[str], int], tuple[list[Episode], Spent]],
    games: Sequence[str],
    others: Callable[[int, int], Sequence[str]],
    *,
    siblings: int,
    tries: int,
) -> Drawn:
    """Plays games, then others in the place of those whose returns are all equal.

    Args:
      play: (games, try) -> their episodes in order, and the seconds it took; the try
        is 0 for the first draw.
      games: of the first draw, each `siblings` times in a row.
      others: (number of tasks, try) -> games, as many tasks, likewise.
      siblings: trajectories of a task.
      tries: how often others may be drawn; 0 plays the games and no more.

    Returns:
      As many episodes as games: tasks with a difference in the order in which they
      were drawn, then, if they are too few, tasks without one.
    """
    first, spent = play(games, 0)
    total = len(games) // siblings
    told, flat = _parted(first, siblings) if tries else (_groups(first, siblings), [])
    drawn = total
    for attempt in range(1, tries + 1):
        missing = total - len(told)
        if not missing:
            break
        more, seconds = play(others(missing, attempt), attempt)
        spent = {name: spent[name] + seconds[name] for name in spent}
        drawn += missing
        found, same = _parted(more, siblings)
        told, flat = told + found, flat + same
    chosen = (told + flat)[:total]
    metrics = {}
    if tries:
        metrics = {
            "redraw/tasks": float(drawn - total),
            "redraw/flat": len(flat) / drawn,
            "redraw/learned_from": min(len(told), total) / total,
        }
    return Drawn([e for group in chosen for e in group], first, spent, metrics)


def other_games(
    games: Sequence[str], step: int, number: int, seed: int, samples: int, attempt: int
) -> list[str]:
    """Tasks to draw in a later try: a function of (seed, step, try) alone.

    Args:
      games: all there are.
      step: iterations before this one.
      number: of tasks.
      seed: of the run.
      samples: how often each is named, in a row.
      attempt: the try, from 1.
    """
    rng = np.random.default_rng((seed, step, attempt))
    places = rng.choice(len(games), number, replace=number > len(games))
    return [games[int(place)] for place in places for _ in range(samples)]


def _groups(episodes: Sequence[Episode], siblings: int) -> list[Sequence[Episode]]:
    """Episodes of one game side by side, `siblings` at most: some may be dropped."""
    groups: list[Any] = []
    for episode in episodes:
        last = groups[-1] if groups else []
        if last and last[0].game == episode.game and len(last) < siblings:
            last.append(episode)
        else:
            groups.append([episode])
    return groups


def _parted(episodes: Sequence[Episode], siblings: int):
    """Groups whose returns differ, and the others."""
    told, flat = [], []
    for group in _groups(episodes, siblings):
        same = len({episode.reward for episode in group}) == 1
        (flat if same else told).append(group)
    return told, flat
