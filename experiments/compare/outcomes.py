"""Folders of finished runs -> what they were worth, as records and as CSV."""

import csv
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiper_jax import workdir
from hiper_jax.experiments.compare.statistics import moving_mean, reached
from hiper_jax.experiments.report import tables

LEVELS = (0.6, 0.8)  # of training success, that the way to is told


class Outcome(NamedTuple):
    """A finished run."""

    label: str
    seed: int
    played: list[float]  # [K] episodes played up to each iteration's end
    success: list[float]  # [K] training success of each iteration
    seconds: list[float]  # [K] of each iteration, evaluations not counted
    switches: list[float]  # [K] switch rates
    turns: list[float]  # [K] turns per episode
    before: Mapping[str, Mapping[str, bool]]  # split -> game -> won
    after: Mapping[str, Mapping[str, bool]]


def read(
    folder: pathlib.Path, label: str, seed: int, *, episodes: int, siblings: int
) -> Outcome:
    """Reads a finished run.

    Args:
      folder: the run's.
      label: of its estimator.
      seed: its own.
      episodes: of an iteration, those that other tasks were drawn for left out.
      siblings: episodes of one task.

    Raises:
      ValueError: an evaluation cannot be read.
    """
    metrics = workdir.read_lines(folder / "metrics.jsonl")
    timing = workdir.read_lines(folder / "timing.jsonl")
    rounds = tables.evaluations(folder)

    redrawn = [r.get("redraw/tasks") or 0.0 for r in metrics]

    def series(records: Sequence[Mapping[str, Any]], name: str) -> list[float]:
        return [float("nan") if r.get(name) is None else r[name] for r in records]

    def won(tag: str) -> dict[str, dict[str, bool]]:
        return {
            split: {e["game"]: bool(e["won"]) for e in record["episodes"]}
            for split, record in rounds.get(tag, {}).items()
        }

    return Outcome(
        label=label,
        seed=seed,
        played=np.cumsum([episodes + siblings * again for again in redrawn]).tolist(),
        success=series(metrics, "rollout/success"),
        seconds=series(timing, "seconds"),
        switches=series(metrics, "policy/switch_rate"),
        turns=series(metrics, "rollout/turns"),
        before=won("before"),
        after=won("after"),
    )


def grouped(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """From label to its runs, both in the order given."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.label, []).append(outcome)
    return found


def ends(values: Sequence[float]) -> tuple[float, float]:
    """The first and the last full moving mean; of shorter runs first and last value."""
    means = moving_mean(values)
    full = means[~np.isnan(means)]
    if len(full):
        return float(full[0]), float(full[-1])
    return (float(values[0]), float(values[-1])) if values else (np.nan, np.nan)


def runs_csv(outcomes: Sequence[Outcome]) -> str:
    """A line per finished run and split."""
    rows = []
    for run in outcomes:
        ways = [(level, reached(run.success, level)) for level in LEVELS]
        for split, won in run.after.items():
            before = run.before.get(split)
            rows.append(
                {
                    "estimator": run.label,
                    "seed": run.seed,
                    "split": split,
                    "games": len(won),
                    "won": sum(won.values()),
                    "share": _share(won),
                    "before": _share(before) if before else "",
                    "iterations": len(run.success),
                    "minutes": _short(sum(run.seconds) / 60),
                    **{
                        f"episodes_to_{100 * level:.0f}": _short(run.played[step - 1])
                        if step
                        else ""
                        for level, step in ways
                    },
                    "switch_rate_start": _short(ends(run.switches)[0]),
                    "switch_rate_end": _short(ends(run.switches)[1]),
                }
            )
    return to_csv(rows)


def curves_csv(outcomes: Sequence[Outcome]) -> str:
    """A line per run and iteration."""
    rows = []
    for run in outcomes:
        means, minutes = moving_mean(run.success), np.cumsum(run.seconds) / 60
        for k in range(min(len(run.success), len(run.seconds))):
            rows.append(
                {
                    "estimator": run.label,
                    "seed": run.seed,
                    "iteration": k + 1,
                    "episodes": _short(run.played[k]),
                    "minutes": _short(minutes[k]),
                    "success": _short(run.success[k]),
                    "moving_mean": _short(means[k]),
                    "switch_rate": _short(run.switches[k]),
                    "turns": _short(run.turns[k]),
                }
            )
    return to_csv(rows)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Records with equal fields, a line each below their names; "" without any."""
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _share(won: Mapping[str, bool]) -> str:
    return _short(sum(won.values()) / len(won))


def _short(number: float) -> str:
    return "" if np.isnan(number) else f"{number:.6g}"
