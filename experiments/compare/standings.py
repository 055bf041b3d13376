"""Outcomes of finished runs -> one line per estimator: how good, how fast."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hiper_jax.experiments.compare.outcomes import LEVELS, Outcome, ends, grouped
from hiper_jax.experiments.compare.statistics import Interval, interval, reached

COLLAPSED = (0.05, 0.95)  # switch rates outside of this range


class Standing(NamedTuple):
    """One estimator on one split, over its seeds."""

    label: str
    split: str
    seeds: tuple[int, ...]
    games: int
    before: float
    final: Interval  # over (seed, game)
    deviation: float | None  # of the seeds' shares; None of one seed
    gain: Interval | None  # over the first estimator; None of that itself
    gain_seeds: int  # seeds that both have


class Speed(NamedTuple):
    """How fast one estimator learned, and what its planner did."""

    label: str
    # Level -> iterations, episodes and minutes, a triple per seed that came there.
    reached: Mapping[float, list[tuple[int, int, float]]]
    seeds: int
    minutes: float  # of training, mean
    switches: tuple[float, float]  # rates at the start and at the end
    collapsed: int  # seeds whose rate is out of bounds at the end
    turns: tuple[float, float]  # per episode, at the start and at the end


def standings(outcomes: Sequence[Outcome]) -> list[Standing]:
    """Final success, split by split, in the order of the estimators.

    Raises:
      ValueError: two runs were examined on different games.
    """
    by_label = grouped(outcomes)
    first = next(iter(by_label.values()), [])
    rows = []
    played = [outcome.after.keys() for outcome in outcomes]
    shared = set(played[0]).intersection(*played) if played else ()
    for split in sorted(shared, reverse=True):  # unseen before seen
        games = sorted(outcomes[0].after[split])
        for outcome in outcomes:
            if sorted(outcome.after[split]) != games:
                raise ValueError(
                    f"{outcome.label}, seed {outcome.seed} was examined on other games "
                    f"of {split} than the rest: compare runs of one panel"
                )
        for label, runs in by_label.items():
            won = _matrix(runs, split, games)
            shares = won.mean(axis=1)
            gain, common = _gain(runs, first, split, games)
            rows.append(
                Standing(
                    label=label,
                    split=split,
                    seeds=tuple(o.seed for o in runs),
                    games=len(games),
                    before=float(
                        np.mean([np.mean([*o.before[split].values()]) for o in runs])
                        if all(split in o.before for o in runs)
                        else np.nan
                    ),
                    final=interval(won),
                    deviation=float(shares.std(ddof=1)) if len(runs) > 1 else None,
                    gain=None if runs is first else gain,
                    gain_seeds=common,
                )
            )
    return rows


def speeds(outcomes: Sequence[Outcome]) -> list[Speed]:
    """How fast each estimator learned, in their order."""
    rows = []
    for label, runs in grouped(outcomes).items():
        ways: dict[float, list[tuple[int, int, float]]] = {x: [] for x in LEVELS}
        for run in runs:
            for level in LEVELS:
                step = reached(run.success, level)
                if step is not None:
                    minutes = sum(run.seconds[:step]) / 60
                    ways[level].append((step, int(run.played[step - 1]), minutes))
        switches = [ends(run.switches) for run in runs]
        low, high = COLLAPSED
        rows.append(
            Speed(
                label=label,
                reached=ways,
                seeds=len(runs),
                minutes=float(np.mean([sum(run.seconds) / 60 for run in runs])),
                switches=_mean_ends(switches),
                collapsed=sum(not low <= end <= high for _, end in switches),
                turns=_mean_ends([ends(run.turns) for run in runs]),
            )
        )
    return rows


def _mean_ends(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    first, last = np.mean(pairs, axis=0)
    return float(first), float(last)


def _matrix(runs: Sequence[Outcome], split: str, games: Sequence[str]) -> np.ndarray:
    """[S, G] 1 where a seed's run won the game."""
    return np.array([[run.after[split][g] for g in games] for run in runs], float)


def _gain(runs, first, split, games) -> tuple[Interval | None, int]:
    """Paired by seed and game; seeds that only one of the two has do not count."""
    mine, theirs = ({o.seed: o for o in side} for side in (runs, first))
    common = sorted(mine.keys() & theirs.keys())
    if not common:
        return None, 0
    sides = (_matrix([s[n] for n in common], split, games) for s in (mine, theirs))
    one, other = sides
    return interval(one - other), len(common)


def record(row: Standing, speeds: Sequence[Speed]) -> dict[str, object]:
    """A line of table.csv: shares in [0, 1], the way to a level as medians."""
    speed = next(s for s in speeds if s.label == row.label)
    line: dict[str, object] = {
        "split": row.split,
        "estimator": row.label,
        "seeds": " ".join(map(str, row.seeds)),
        "games": row.games,
        "before": _short(row.before),
        "success": _short(row.final.mean),
        "sd": _short(row.deviation),
        "low": _short(row.final.low),
        "high": _short(row.final.high),
    }
    for name in Interval._fields:
        line[f"gain_{name}"] = _short(row.gain and getattr(row.gain, name))
    for level, ways in speed.reached.items():
        middle = median(ways, speed.seeds)
        percent = f"{100 * level:.0f}"
        line[f"seeds_to_{percent}"] = len(ways)
        for name, value in zip(
            ("iterations", "episodes", "minutes"), middle, strict=True
        ):
            line[f"{name}_to_{percent}"] = _short(value)
    line |= {
        "minutes": _short(speed.minutes),
        "switch_rate_start": _short(speed.switches[0]),
        "switch_rate_end": _short(speed.switches[1]),
        "collapsed": speed.collapsed,
        "turns_start": _short(speed.turns[0]),
        "turns_end": _short(speed.turns[1]),
    }
    return line


def median(ways: Sequence[tuple[int, int, float]], seeds: int) -> list[float | None]:
    """Medians of iterations, episodes and minutes; a seed that never came counts last.

    None where the median seed never came there.
    """
    never = [(np.inf,) * 3] * (seeds - len(ways))
    middle = np.median(np.array([*ways, *never], float), axis=0)
    return [None if np.isinf(x) or np.isnan(x) else float(x) for x in middle]


def _short(number: float | None) -> str:
    return "" if number is None or np.isnan(number) else f"{number:.6g}"
