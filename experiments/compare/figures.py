"""Curves of several estimators in one picture, with bands over seeds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hiper_jax.experiments.compare.outcomes import Outcome, grouped
from hiper_jax.experiments.compare.statistics import WINDOW, band, moving_mean
from hiper_jax.experiments.report.charts import WIDE, Chart, Line, chart

BAND = "Lines: means over seeds; bands: one standard deviation of seeds to each side."


def draw(outcomes: Sequence[Outcome]) -> list[Chart]:
    """The charts of a comparison, in reading order; [] without a run."""
    by_label = grouped(outcomes)
    if not by_label:
        return []

    def smooth(run: Outcome) -> Sequence[float]:
        return [*moving_mean(run.success)]

    return [
        one
        for one in (
            _chart(
                "success",
                "Success in training",
                f"Share of an iteration's episodes won, moving mean over {WINDOW} "
                f"iterations. {BAND}",
                by_label,
                smooth,
                percent=True,
            ),
            _chart(
                "success-minutes",
                "Success by minutes",
                "The same over minutes of training: rollouts and updates, compiling "
                "included, evaluations not.",
                by_label,
                smooth,
                percent=True,
                minutes=True,
            ),
            _chart(
                "switch_rate",
                "Switch rate",
                "Share of turns, the first of an episode apart, that replace the "
                f"subgoal. {BAND}",
                by_label,
                lambda run: run.switches,
                percent=True,
            ),
            _chart(
                "turns",
                "Turns per episode",
                f"Fewer at equal success: a better plan. {BAND}",
                by_label,
                lambda run: run.turns,
            ),
        )
        if one is not None
    ]


def _chart(
    name: str,
    title: str,
    caption: str,
    by_label: Mapping[str, Sequence[Outcome]],
    series: Callable[[Outcome], Sequence[float]],
    *,
    percent: bool = False,
    minutes: bool = False,
) -> Chart | None:
    """A line per label, with a band over its seeds; None without a value."""
    lines = []
    for label, runs in by_label.items():
        mean, spread = band([series(run) for run in runs])
        at = np.arange(1, len(mean) + 1)
        if minutes:
            spent, _ = band([np.cumsum(run.seconds) / 60 for run in runs])
            mean, spread = mean[: len(spent)], spread[: len(spent)]
            at = spent[: len(mean)]
        if not np.isfinite(mean).any():
            continue
        ends = (mean - spread, mean + spread) if len(runs) > 1 else (None, None)
        lines.append(Line(label, at, mean, *ends))
    along = "minutes" if minutes else "iteration"
    if not lines:
        return None
    return chart(name, title, caption, lines, percent=percent, along=along, size=WIDE)
