"""`hiper compare`: the same world, start and episodes; only the estimator differs.

Every run is a run as `hiper train` makes it, in a folder of its own; what is finished
is used again, what was begun is resumed. Tables are written as each run ends.
"""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from hiper_jax import workdir
from hiper_jax.experiments import folder, games, progress, starts
from hiper_jax.experiments.compare import kept, outcomes, page, runs, standings
from hiper_jax.experiments.compare.plan import Compare, Planned, planned
from hiper_jax.experiments.report import tables
from hiper_jax.experiments.visible import visible


def main(asked: Compare, say: Callable[[str], Any] = print) -> pathlib.Path:
    """Carries out what is left of a comparison.

    Args:
      asked: what to compare.
      say: where progress goes.

    Returns:
      The page, compare.html.

    Raises:
      ValueError, FileNotFoundError: something cannot work, or a folder holds another
        run; nothing has been started then.
    """
    plan = planned(asked)
    games.check_data(plan[0].config.world)
    for run in plan:
        starts.check_model(run.config)
    states = {run.folder: runs.state_of(run, asked.kept) for run in plan}
    left = [run for run in plan if states[run.folder] != "finished"]
    say(f"{len(plan)} runs in {asked.out}: {len(plan) - len(left)} are finished")
    spent: list[float] = []
    found = [] if left else write(asked, plan)
    for n, run in enumerate(left):
        again = " (resumed)" if states[run.folder] == "begun" else ""
        say(
            f"run {len(plan) - len(left) + n + 1} of {len(plan)}: "
            f"{run.variant.label}, seed {run.seed}{again}; "
            f"{_left(plan, spent, len(left) - n)}"
        )
        began = time.monotonic()
        runs.carry_out(run, f"{asked.preset} {run.variant.label}")
        if states[run.folder] == "absent":
            spent.append(time.monotonic() - began)
        found = write(asked, plan)
    say(text_table(found))
    return pathlib.Path(asked.out) / "compare.html"


def write(asked: Compare, plan: Sequence[Planned]) -> list[standings.Standing]:
    """Writes tables, curves and the page of all runs that are finished so far."""
    finished = [run for run in plan if runs.state_of(run) == "finished"]
    for run in finished if asked.kept else ():
        kept.pack(run.folder, kept.file_of(asked.kept, run.folder))
    done = [
        outcomes.read(
            run.folder,
            run.variant.label,
            run.seed,
            episodes=run.config.episodes,
            siblings=run.config.siblings,
        )
        for run in finished
    ]
    order = {run.variant.label: None for run in plan}
    done.sort(key=lambda o: list(order).index(o.label))
    rows, speeds = standings.standings(done), standings.speeds(done)
    out = pathlib.Path(asked.out)
    workdir.write_text(out / "runs.csv", outcomes.runs_csv(done))
    workdir.write_text(out / "curves.csv", outcomes.curves_csv(done))
    records = [standings.record(row, speeds) for row in rows]
    workdir.write_text(out / "table.csv", outcomes.to_csv(records))
    made = {str(run.folder): folder.read(run.folder) for run in finished}
    html, pictures = page.page(asked, plan, done, rows, speeds, made)
    for picture in pictures:
        workdir.write_text(out / f"{picture.name}.svg", picture.file)
    workdir.write_text(out / "compare.html", html)
    return rows


def text_table(rows: Sequence[standings.Standing]) -> str:
    """Final success for a terminal."""
    head = ("split", "estimator", "seeds", "won", "s.d.", "over the first")
    lines: list[tuple[str, ...]] = [head]
    for row in rows:
        spread = "" if row.deviation is None else f"{100 * row.deviation:.1f}"
        gain = "" if row.gain is None else page.points(row.gain)
        lines.append(
            (
                *(visible(x, one_line=True) for x in (row.split, row.label)),
                *(str(len(row.seeds)), page.percent(row.final), spread, gain),
            )
        )
    return tables.aligned(lines)


def _left(plan: Sequence[Planned], spent: Sequence[float], number: int) -> str:
    """How long the runs that are left will take, by those that are finished."""
    seconds = list(spent)
    if not seconds:
        for run in plan:
            lines = workdir.read_lines(run.folder / "timing.jsonl")
            if len(lines) == run.config.num_updates:
                seconds.append(sum(line.get("seconds") or 0.0 for line in lines))
    if not seconds:
        return f"{number} to go"
    mean = sum(seconds) / len(seconds)
    return f"{number} to go, about {progress.span(mean * number)}"
