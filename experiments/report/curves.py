"""Metrics and times of a run -> small pictures that read well on light and dark."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiper_jax.experiments.report.tables import OVERALL, success_table

INK = "#7d8794"  # legible on white and on near-black
COLOURS = (
    *("#3b82f6", "#f07a2b", "#2fa866", "#a065e8", "#d9466f"),
    *("#8c6d31", "#14a3b8", "#b0b31f", "#e377c2", "#6b7280"),
)
SMOOTH_FROM = 30  # iterations; shorter runs are shown as they are


class Picture(NamedTuple):
    """One curve or several over the iterations."""

    name: str  # of the file
    title: str
    caption: str
    png: bytes


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
) -> list[Picture]:
    """Draws what there is to draw; a picture without data is left out.

    Args:
      metrics: the lines of metrics.jsonl.
      timing: the lines of timing.jsonl.
      rounds: evaluations, from tag to split to record.

    Returns:
      Pictures in reading order.
    """
    pictures = []
    for plan in _PLANS:
        lines = [(label, _series(metrics, names)) for label, names in plan.lines]
        lines = [(label, xy) for label, xy in lines if len(xy[0])]
        if plan.name == "score" and _all_or_nothing(metrics):
            continue
        dots = _evaluated(rounds) if plan.name == "success" else {}
        if lines or dots:
            png = _lines(lines, dots, plan.percent)
            pictures.append(Picture(plan.name, plan.title, plan.caption, png))
    if timing:
        caption = "Share of each iteration's seconds."
        pictures.append(Picture("time", "Where the time goes", caption, _times(timing)))
    return pictures


def _all_or_nothing(metrics) -> bool:
    """Whether the score says nothing beyond success."""
    return all(m.get("rollout/score") == m.get("rollout/success") for m in metrics)


def _series(records, names) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the first of `names` that is recorded at all."""
    for name in names:
        found = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        if found:
            steps, values = zip(*found, strict=True)
            return np.array(steps), np.array(values, float)
    return np.array([]), np.array([])


def _evaluated(rounds) -> dict[str, list[tuple[int, float, float, float]]]:
    """From split to (step, share, low, high), by step."""
    found: dict[str, list] = {}
    for splits in rounds.values():
        for row in success_table({}, splits):
            if row.task_type == OVERALL and row.after is not None:
                step = splits[row.split].get("step", 0)
                point = (step, row.after.share, *row.after.interval)
                found.setdefault(row.split, []).append(point)
    return {split: sorted(points) for split, points in sorted(found.items())[::-1]}


def _lines(lines, dots, percent: bool) -> bytes:
    figure, ax = axes(percent)
    scale = 100.0 if percent else 1.0
    colours = iter(COLOURS)
    for label, (steps, values) in lines:
        colour, smooth = next(colours), len(steps) >= SMOOTH_FROM
        style: dict[str, Any] = dict(
            color=colour, marker="o" if len(steps) == 1 else None
        )
        ax.plot(
            steps,
            scale * values,
            **style,
            lw=1.0 if smooth else 1.8,
            alpha=0.35 if smooth else 1.0,
            label=None if smooth else label,
        )
        if smooth:
            mean = scale * _running_mean(values, max(5, len(values) // 15))
            ax.plot(steps, mean, color=colour, lw=2.0, label=label)
    for split, points in dots.items():
        steps, share, low, high = np.array(points).T
        ax.errorbar(
            steps,
            scale * share,
            yerr=(scale * (share - low), scale * (high - share)),
            fmt="o",
            ms=4,
            lw=1.4,
            capsize=2.5,
            color=next(colours),
            label=split,
        )
    if percent:
        ax.set_ylim(-3, 103)
    if len(lines) + len(dots) > 1:
        ax.legend(frameon=False, fontsize=9.5, labelcolor=INK)
    return png(figure)


def _times(timing) -> bytes:
    figure, ax = axes(percent=True)
    steps = np.array([r["step"] for r in timing])
    seconds = np.array([[r.get(part) or 0.0 for r in timing] for part in PARTS])
    share = 100 * seconds / np.maximum(seconds.sum(0), 1e-9)
    if len(steps) == 1:  # a stack over one point has no width
        steps, share = np.array([steps[0] - 0.5, steps[0] + 0.5]), share.repeat(2, 1)
    ax.stackplot(
        steps, share, labels=PARTS, colors=(*COLOURS[:3], INK), alpha=0.85, lw=0
    )
    ax.set_ylim(0, 100)
    ax.legend(
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        ncols=4,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        columnspacing=1.0,
        handlelength=1.0,
    )
    return png(figure)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` values around each one; fewer at the ends."""
    kernel = np.ones(window)
    total = np.convolve(values, kernel, "same")
    return total / np.convolve(np.ones_like(values), kernel, "same")


def axes(percent: bool, size: tuple[float, float] = (4.2, 2.5)):
    """A figure of that many inches and its axes, iterations to the right."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=9.5, length=0)
    axes.grid(color=INK, alpha=0.25, lw=0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlabel("iteration", color=INK, fontsize=9.5)
    if percent:
        axes.yaxis.set_major_formatter("{x:.0f} %")
    return figure, axes


def png(figure) -> bytes:
    """A figure as a file; equal numbers, equal bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", transparent=True, metadata={"Software": None})
    return out.getvalue()
