"""Metrics and times of a run -> its charts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiper_jax.experiments.report.charts import Chart, Line, chart
from hiper_jax.experiments.report.tables import OVERALL, success_table

SMOOTH_FROM = 30  # iterations; shorter runs are shown as they are


class _Plan(NamedTuple):
    name: str
    title: str
    caption: str
    lines: tuple[tuple[str, tuple[str, ...]], ...]  # label, metric names, first wins
    percent: bool = False


_PLANS = (
    _Plan(
        "success",
        "Success",
        "Share of games won. Line: training rollouts. Dots: evaluations, with 95 % "
        "intervals.",
        (("rollout", ("rollout/success",)),),
        True,
    ),
    _Plan(
        "score",
        "Score",
        "Mean score of an episode, which counts what was bought in part.",
        (("score", ("rollout/score",)),),
    ),
    _Plan(
        "return",
        "Return",
        "Reward per episode as the environment gave it, unshaped.",
        (("return", ("rollout/return",)),),
    ),
    _Plan(
        "turns",
        "Turns per episode",
        "Fewer turns at equal success: a better plan.",
        (("turns", ("rollout/turns",)),),
    ),
    _Plan(
        "switch_rate",
        "Switch rate",
        "Share of turns, the first of an episode apart, that replace the subgoal.",
        (("switches", ("policy/switch_rate", "rollout/switch_rate")),),
        True,
    ),
    _Plan(
        "valid_rate",
        "Valid turns",
        "Well formed: all blocks are there. Admissible: the action is listed.",
        (
            ("well formed", ("rollout/valid_rate",)),
            ("admissible", ("rollout/admissible_rate",)),
        ),
        True,
    ),
    _Plan(
        "kl",
        "KL divergence",
        "Nats per token: from the reference, and from the policy that sampled.",
        (("reference", ("loss/kl",)), ("sampler", ("policy/approx_kl",))),
    ),
    _Plan(
        "entropy",
        "Entropy",
        "Nats per token of the response.",
        (("entropy", ("policy/entropy", "loss/entropy")),),
    ),
    _Plan(
        "value_loss",
        "Value losses",
        "Of the executor's (low), the planner's (high) and the switch's critic.",
        (
            ("low", ("loss/value_low",)),
            ("high", ("loss/value_high",)),
            ("switch", ("loss/value_switch",)),
        ),
    ),
)
PARTS = ("environment", "generation", "update", "other")


def draw(
    metrics: Sequence[Mapping[str, Any]],
    timing: Sequence[Mapping[str, Any]],
    rounds: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> list[Chart]:
    """Draws what there is to draw; a chart without data is left out.

    Args:
      metrics: the lines of metrics.jsonl.
      timing: the lines of timing.jsonl.
      rounds: evaluations, from tag to split to record.

    Returns:
      Charts in reading order.
    """
    charts = []
    for plan in _PLANS:
        found = [(label, *series(metrics, names)) for label, names in plan.lines]
        lines = [smoothed(label, x, y) for label, x, y in found if len(x)]
        if plan.name == "score" and _all_or_nothing(metrics):
            continue
        if plan.name == "success":
            lines += _evaluated(rounds)
        if lines:
            charts.append(
                chart(plan.name, plan.title, plan.caption, lines, percent=plan.percent)
            )
    if timing:
        charts.append(_times(timing))
    return charts


def series(
    records: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """[K] steps and [K] values of the first of `names` that is recorded at all."""
    for name in names:
        found = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        if found:
            steps, values = zip(*found, strict=True)
            return np.array(steps), np.array(values, float)
    return np.array([]), np.array([])


def smoothed(label: str, x: np.ndarray, y: np.ndarray) -> Line:
    """A line as it is, or of a long run its running mean before the line itself."""
    if len(x) < SMOOTH_FROM:
        return Line(label, x, y)
    return Line(label, x, _running_mean(y, max(5, len(y) // 15)), raw=y)


def _all_or_nothing(metrics) -> bool:
    """Whether the score says nothing beyond success."""
    return all(m.get("rollout/score") == m.get("rollout/success") for m in metrics)


def _evaluated(rounds) -> list[Line]:
    """The shares of each split as dots, with intervals, by step."""
    found: dict[str, list[tuple[int, float, float, float]]] = {}
    for splits in rounds.values():
        for row in success_table({}, splits):
            if row.task_type == OVERALL and row.after is not None:
                step = splits[row.split].get("step", 0)
                point = (step, row.after.share, *row.after.interval)
                found.setdefault(row.split, []).append(point)
    lines = []
    for split, points in sorted(found.items())[::-1]:
        step, share, low, high = np.array(sorted(points)).T
        lines.append(Line(split.replace("_", " "), step, share, low, high, dots=True))
    return lines


def _times(timing) -> Chart:
    steps = np.array([r["step"] for r in timing])
    seconds = np.array([[r.get(part) or 0.0 for r in timing] for part in PARTS])
    share = seconds / np.maximum(seconds.sum(0), 1e-9)
    return chart(
        "time",
        "Where the time goes",
        "Share of each iteration's seconds.",
        [Line(part, steps, row) for part, row in zip(PARTS, share, strict=True)],
        percent=True,
        stacked=True,
    )


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` values around each one; fewer at the ends."""
    kernel = np.ones(window)
    total = np.convolve(values, kernel, "same")
    return total / np.convolve(np.ones_like(values), kernel, "same")
