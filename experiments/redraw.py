"""DAPO's group filter: tasks from which nothing can be learned are drawn again.

Where all trajectories of a task have one return, none of them is better than its
siblings and every advantage is 0. Such tasks make room for others, a few times at most.

Source: arXiv 2503.14476.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiper_jax.act.episode import Episode
from hiper_jax.hosts import Hosts

Spent = dict[str, float]  # seconds, by what for


class Drawn(NamedTuple):
    """The episodes of one iteration; where there are several hosts, those of this."""

    episodes: list[Episode]  # to learn from; siblings side by side
    first: list[Episode]  # of the first draw, which alone is no choice of the filter
    spent: Spent
    metrics: dict[str, float]
    tasks: Mapping[str, str] = {}  # the task that a game was asked for by
    # (host, episodes) of all hosts, in the order of the batch; (): one after another
    runs: tuple[tuple[int, int], ...] = ()


class _Group(NamedTuple):
    """Trajectories of one task, on whichever host."""

    host: int
    size: int
    flat: bool  # their returns are all equal
    episodes: list[Episode]  # [] on other hosts


def draw(
    play: Callable[[Sequence[str], int, int], tuple[list[Episode], Spent]],
    games: Sequence[str],
    others: Callable[[int, int], Sequence[str]],
    *,
    siblings: int,
    tries: int,
    hosts: Hosts | None = None,
) -> Drawn:
    """Plays games, then others in the place of those whose returns are all equal.

    Args:
      play: (games, try, place of the first) -> their episodes in order, and the seconds
        it took; the try is 0 for the first draw.
      games: of the first draw, each `siblings` times in a row.
      others: (number of tasks, try) -> games, as many tasks, likewise.
      siblings: trajectories of a task.
      tries: how often others may be drawn; 0 plays the games and no more.
      hosts: they share out the tasks of each try, and all hear which tell something.

    Returns:
      As many episodes as games, over all hosts: tasks with a difference in the order in
      which they were drawn, then, if they are too few, tasks without one.
    """
    hosts = hosts or Hosts()

    def played(games: Sequence[str], attempt: int):
        begin, end = (siblings * i for i in hosts.share(len(games) // siblings))
        episodes, spent = play(games[begin:end], attempt, begin)
        return episodes, spent, _groups(episodes, siblings)

    first, spent, mine = played(games, 0)
    total = drawn = len(games) // siblings
    if not tries:
        return Drawn([e for group in mine for e in group], first, spent, {})
    groups = _everywhere(mine, hosts)
    for attempt in range(1, tries + 1):
        missing = total - sum(not group.flat for group in groups)
        if missing <= 0:
            break
        _, seconds, mine = played(others(missing, attempt), attempt)
        spent = {name: spent[name] + seconds[name] for name in spent}
        drawn += missing
        groups += _everywhere(mine, hosts)
    told = [group for group in groups if not group.flat]
    flat = [group for group in groups if group.flat]
    chosen = (told + flat)[:total]
    metrics = {
        "redraw/tasks": float(drawn - total),
        "redraw/flat": len(flat) / drawn,
        "redraw/learned_from": min(len(told), total) / total,
    }
    runs = tuple(
        (host, sum(group.size for group in run))
        for host, run in itertools.groupby(chosen, lambda group: group.host)
    )
    episodes = [e for group in chosen for e in group.episodes]
    return Drawn(episodes, first, spent, metrics, runs=runs)


def _everywhere(mine: Sequence[list[Episode]], hosts: Hosts) -> list[_Group]:
    """The groups of all hosts, in their order, given those of this one."""
    said = [[len(g), len({e.reward for e in g}) == 1] for g in mine]
    return [
        _Group(host, size, flat, mine[i] if host == hosts.index else [])
        for host, theirs in enumerate(hosts.exchange("tasks to draw again", said))
        for i, (size, flat) in enumerate(theirs)
    ]


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


def _groups(episodes: Sequence[Episode], siblings: int) -> list[list[Episode]]:
    """Episodes of one game side by side, `siblings` at most: some may be dropped."""
    groups: list[Any] = []
    for episode in episodes:
        last = groups[-1] if groups else []
        if last and last[0].game == episode.game and len(last) < siblings:
            last.append(episode)
        else:
            groups.append([episode])
    return groups
