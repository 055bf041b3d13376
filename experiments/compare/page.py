"""A comparison on one page, which needs no other file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hiper_jax.experiments.compare import figures
from hiper_jax.experiments.compare.outcomes import LEVELS, Outcome
from hiper_jax.experiments.compare.plan import Compare, Planned
from hiper_jax.experiments.compare.standings import (
    COLLAPSED,
    Speed,
    Standing,
    median,
)
from hiper_jax.experiments.compare.statistics import DRAWS, WINDOW, Interval
from hiper_jax.experiments.report import report
from hiper_jax.experiments.report.charts import Chart
from hiper_jax.experiments.report.episode_page import text

FINAL = (
    "Games won after training, mean over seeds; s.d. of the seeds' shares; in "
    f"brackets 95 % intervals of a bootstrap over seeds and games ({DRAWS:,} draws, "
    "the same for all): what a game does under all seeds stays together. Differences "
    "are taken seed by seed and game by game, and coloured where their interval leaves "
    "out 0. Few seeds say little of seeds."
)
WAYS = (
    "Medians over seeds; a seed that never came there counts as last. A level is "
    "reached at the first iteration whose moving mean of training success, over it "
    f"and the {WINDOW - 1} before, is at or above it. Minutes are those of rollouts "
    "and updates on the machine at hand, compiling included."
)
PLANNER = (
    f"Means of the first and of the last {WINDOW} iterations. Collapsed: seeds whose "
    f"switch rate ends outside of {COLLAPSED[0]:g} to {COLLAPSED[1]:g}."
)


def page(
    asked: Compare,
    plan: Sequence[Planned],
    done: Sequence[Outcome],
    rows: Sequence[Standing],
    speeds: Sequence[Speed],
    records: Mapping[str, Mapping[str, Any]],
) -> tuple[str, list[Chart]]:
    """The page and its charts.

    Args:
      asked: what was to be compared.
      plan: all runs.
      done: those that are finished.
      rows: final success.
      speeds: how fast each estimator learned.
      records: from a finished run's folder to its config.json.
    """
    title = f"{asked.preset}: estimators side by side"
    pictures = figures.draw(done)
    body = [
        f"<header><h1>{text(title)}</h1>{_origin(asked, records)}</header>",
        _notes(plan, done, records),
        *(_results(split, rows) for split in dict.fromkeys(r.split for r in rows)),
        _ways(speeds),
        _planner(speeds),
        report.gallery(pictures, wide=True),
        _settings(plan),
    ]
    return report.page_of(title, body), pictures


def percent(share: Interval) -> str:
    """A share with its interval."""
    return f"{100 * share.mean:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def points(gain: Interval) -> str:
    """A difference of shares with its interval, in points of a hundred."""
    shown = f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    return shown.replace("-", "−")


def _origin(asked: Compare, records: Mapping[str, Mapping[str, Any]]) -> str:
    seeds = f"seeds {asked.first_seed} to {asked.first_seed + asked.seeds - 1}"
    facts = [seeds if asked.seeds > 1 else f"seed {asked.first_seed}"]
    origins = [record.get("provenance", {}) for record in records.values()]
    commits = sorted({str(o.get("commit") or "unknown") for o in origins})
    facts += [f"commit {commit}" for commit in commits]
    facts += sorted({f"jax {o.get('versions', {}).get('jax')}" for o in origins})
    return f'<p class="soft">{text(" · ".join(facts))}</p>'


def _notes(plan, done: Sequence[Outcome], records) -> str:
    """What a reader must know ahead of the numbers."""
    notes, there = [], {(run.label, run.seed) for run in done}
    missing = [r for r in plan if (r.variant.label, r.seed) not in there]
    if missing:
        names = ", ".join(f"{r.variant.label} {r.seed}" for r in missing)
        notes.append(
            f"{len(missing)} of {len(plan)} runs are not finished (estimator and "
            f"seed): {names}. Means are of the others."
        )
    commits = {str(r.get("provenance", {}).get("commit")) for r in records.values()}
    if len(commits) > 1:
        notes.append("The runs were made by different states of the code.")
    if any(record.get("changes") for record in records.values()):
        notes.append("Settings of some runs were changed on the way, as they record.")
    if any(commit.endswith("+") for commit in commits):
        notes.append("Some runs were made by code that was not committed.")
    items = "".join(f"<li>{text(note)}</li>" for note in notes)
    return f'<div class="note"><ul>{items}</ul></div>' if notes else ""


def _results(split: str, rows: Sequence[Standing]) -> str:
    lines, first = [], rows[0].label
    for row in (r for r in rows if r.split == split):
        spread = "" if row.deviation is None else f"{100 * row.deviation:.1f}"
        gain = "" if row.gain is None else points(row.gain)
        if row.gain is not None and row.gain_seeds < len(row.seeds):
            gain += f" ({row.gain_seeds} seeds)"
        sure = row.gain is not None and (row.gain.low > 0 or row.gain.high < 0)
        kind = "" if row.gain is None or not sure else _side(row.gain.mean)
        lines.append(
            (
                (row.label, ""),
                (str(len(row.seeds)), ""),
                (f"{100 * row.before:.1f} %", ""),
                (percent(row.final), ""),
                (spread, ""),
                (gain, kind),
            )
        )
    games = next(r.games for r in rows if r.split == split)
    head = ("estimator", "seeds", "before", "after", "s.d.", f"over {first}, points")
    title = f"Final success: {games} games of {split.replace('_', ' ')}"
    return table(title, FINAL, head, lines)


def _ways(speeds: Sequence[Speed]) -> str:
    head = ["estimator", "minutes in all"]
    for level in LEVELS:
        head += [f"to {100 * level:.0f} %: seeds", "episodes", "minutes"]
    lines = []
    for speed in speeds:
        cells = [speed.label, f"{speed.minutes:.1f}"]
        for level in LEVELS:
            ways = speed.reached[level]
            _, episodes, minutes = median(ways, speed.seeds)
            cells += [
                f"{len(ways)} of {speed.seeds}",
                "" if episodes is None else f"{episodes:,.0f}",
                "" if minutes is None else f"{minutes:.1f}",
            ]
        lines.append([(cell, "") for cell in cells])
    return table("The way there", WAYS, head, lines)


def _planner(speeds: Sequence[Speed]) -> str:
    head = ("estimator", "switch rate", "collapsed", "turns per episode")
    lines = []
    for speed in speeds:
        rates = " → ".join(f"{100 * rate:.0f} %" for rate in speed.switches)
        turns = " → ".join(f"{number:.1f}" for number in speed.turns)
        cells = (speed.label, rates, f"{speed.collapsed} of {speed.seeds}", turns)
        lines.append([(cell, "") for cell in cells])
    return table("The planner", PLANNER, head, lines)


def _side(gain: float) -> str:
    return "up" if gain > 0 else "down"


def table(
    title: str,
    about: str,
    head: Sequence[str],
    lines: Sequence[Sequence[tuple[str, str]]],
) -> str:
    """A titled table as HTML; a cell is its text and its class."""
    if not lines:
        return ""
    names = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = ""
    for line in lines:
        cells = zip(line, head, strict=True)
        body += "<tr>" + "".join(
            f'<td class="rate {kind}" data-when="{text(name)}">{text(cell)}</td>'
            for (cell, kind), name in cells
        )
        body += "</tr>"
    return (
        f'<h2>{text(title)}</h2><p class="soft">{text(about)}</p>'
        f'<div class="card scroll"><table><thead><tr>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _settings(plan: Sequence[Planned]) -> str:
    """The settings of each estimator's first run."""
    firsts = {run.variant.label: run for run in reversed(plan)}
    folds = []
    for label in dict.fromkeys(run.variant.label for run in plan):
        record = dataclasses.asdict(firsts[label].config)
        shown = json.dumps(record, indent=1, ensure_ascii=False, default=str)
        folds.append(
            f'<details class="fold"><summary>{text(label)}</summary>'
            f"<div><pre>{text(shown)}</pre></div></details>"
        )
    return f"<h2>Settings</h2>{''.join(folds)}"
