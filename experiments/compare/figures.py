"""Curves of several estimators in one picture, with bands over seeds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hiper_jax.experiments.compare.outcomes import Outcome, grouped
from hiper_jax.experiments.compare.statistics import WINDOW, band, moving_mean
from hiper_jax.experiments.report.curves import COLOURS, INK, Picture, axes, png

SIZE = (7.2, 3.6)  # inches
BAND = "Lines: means over seeds; bands: one standard deviation of seeds to each side."


def draw(outcomes: Sequence[Outcome]) -> list[Picture]:
    """The pictures of a comparison, in reading order; [] without a finished run."""
    by_label = grouped(outcomes)
    if not by_label:
        return []

    def smooth(run: Outcome) -> Sequence[float]:
        return [*moving_mean(run.success)]

    return [
        Picture(
            "success",
            "Success in training",
            f"Share of an iteration's episodes won, moving mean over {WINDOW} "
            f"iterations. {BAND}",
            _lines(by_label, smooth, percent=True),
        ),
        Picture(
            "success-minutes",
            "Success by minutes",
            "The same over minutes of training: rollouts and updates, compiling "
            "included, evaluations not.",
            _lines(by_label, smooth, percent=True, minutes=True),
        ),
        Picture(
            "switch_rate",
            "Switch rate",
            "Share of turns, the first of an episode apart, that replace the subgoal. "
            f"{BAND}",
            _lines(by_label, lambda run: run.switches, percent=True),
        ),
        Picture(
            "turns",
            "Turns per episode",
            f"Fewer at equal success: a better plan. {BAND}",
            _lines(by_label, lambda run: run.turns, percent=False),
        ),
    ]


def _lines(
    by_label: Mapping[str, Sequence[Outcome]],
    series: Callable[[Outcome], Sequence[float]],
    *,
    percent: bool,
    minutes: bool = False,
) -> bytes:
    figure, ax = axes(percent, SIZE)
    scale = 100.0 if percent else 1.0
    for n, (label, runs) in enumerate(by_label.items()):
        mean, spread = band([series(run) for run in runs])
        at = np.arange(1, len(mean) + 1)
        if minutes:
            spent, _ = band([np.cumsum(run.seconds) / 60 for run in runs])
            at = spent[: len(mean)]
        colour = COLOURS[n % len(COLOURS)]
        style = "-" if n < len(COLOURS) else "--"
        marker = "o" if np.isfinite(mean).sum() == 1 else None
        shown = label.replace("$", r"\$")  # matplotlib would read a formula
        ax.plot(
            at, scale * mean, style, color=colour, lw=1.8, label=shown, marker=marker
        )
        if len(runs) > 1:
            low, high = scale * (mean - spread), scale * (mean + spread)
            ax.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
    if minutes:
        ax.set_xlabel("minutes", color=INK, fontsize=9.5)
    if percent:
        ax.set_ylim(-3, 103)
    ax.legend(
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    return png(figure)
