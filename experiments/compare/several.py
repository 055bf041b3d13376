"""`hiper report A B ...`: runs that were made one by one, on one page.

Runs that differ in nothing but the seed, and in what changes no result, are seeds of
one variant. A variant is called by its estimator and by what else sets it apart.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from hiper_jax import workdir
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import folder as folders
from hiper_jax.experiments import games, listing
from hiper_jax.experiments.compare import figures, outcomes, page
from hiper_jax.experiments.report import report
from hiper_jax.experiments.report.episode_page import text
from hiper_jax.experiments.settings import replaced

LONGEST = 80  # letters of a variant's name


def write(runs: Sequence[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Writes report.html, runs.csv, curves.csv and the charts of several runs.

    Args:
      runs: their folders, finished or not.
      out: folder to write.

    Returns:
      The page.

    Raises:
      ValueError: a run is named twice, cannot be read, or has no iteration.
    """
    places = [run.resolve() for run in runs]
    for place, run in zip(places, runs, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{run} is named twice")
    records = [folders.read(run) for run in runs]
    labels = variants(records)
    listed = [listing.read(run) for run in runs]
    done = []
    for run, line, label, record in zip(runs, listed, labels, records, strict=True):
        if not line.done:
            raise ValueError(f"{run} has no iteration yet: leave it out")
        config = settings(run, record)
        sizes = {"episodes": config.episodes, "siblings": config.siblings}
        seed = record.get("seed", 0)
        done.append(outcomes.read(run, label, seed, **sizes))
    workdir.write_text(
        out / "runs.csv", outcomes.to_csv([listing.record(line) for line in listed])
    )
    workdir.write_text(out / "curves.csv", outcomes.curves_csv(done))
    charts = figures.draw(done)
    for one in charts:
        workdir.write_text(out / f"{one.name}.svg", one.file)
    body = [
        f"<header><h1>{len(runs)} runs side by side</h1></header>",
        _notes(listed),
        _table(listed, labels),
        report.gallery(charts, wide=True),
    ]
    workdir.write_text(out / "report.html", report.page_of("Runs side by side", body))
    return out / "report.html"


def variants(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name of each run's variant.

    Args:
      records: config.json of each run.
    """
    flat = [
        {
            name: json.dumps(value, ensure_ascii=False)
            for name, value in folders.flat(record)
            if name not in folders.FREE and name not in ("seed", "estimator")
        }
        for record in records
    ]
    estimators = [str(record.get("estimator", "hae")) for record in records]
    names = []
    for one, estimator in zip(flat, estimators, strict=True):
        alike = [f for f, e in zip(flat, estimators, strict=True) if e == estimator]
        parts = [
            f"{name}={one.get(name, 'unset')}"
            for name in sorted({name for other in alike for name in other})
            if len({other.get(name) for other in alike}) > 1
        ]
        whole = ":".join(filter(None, (estimator, ",".join(parts))))
        names.append(whole.replace('"', ""))
    return [_shortened(name, names) for name in names]


def settings(run: pathlib.Path, record: Mapping[str, Any]) -> configs.Train:
    """The settings of a run.

    Raises:
      ValueError: they are not those of a run of today.
    """
    kept = {name: v for name, v in record.items() if name not in folders.APART}
    try:
        kept["world"] = games.recorded(kept["world"])
        return replaced(configs.Train(), kept)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{run}/config.json: {error}") from None


def _shortened(name: str, names: Sequence[str]) -> str:
    """The name, or where it is long its beginning and which of the names it is."""
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 6]}... {list(dict.fromkeys(names)).index(name) + 1}"


def _notes(listed: Sequence[listing.Listed]) -> str:
    unfinished = [
        f"{run.folder.name}: {run.done} of {run.planned} iterations, {run.status}"
        for run in listed
        if run.status != "finished"
    ]
    if not unfinished:
        return ""
    items = "".join(f"<li>{text(note)}</li>" for note in unfinished)
    return (
        '<div class="note">Not all runs are finished; a variant\'s line ends where its '
        f"shortest run ends.<ul>{items}</ul></div>"
    )


def _table(listed: Sequence[listing.Listed], labels: Sequence[str]) -> str:
    head = ("run", "variant", "seed", "status", "iterations", "success", "hours")
    lines = []
    for run, label in zip(listed, labels, strict=True):
        name, _, _, seed, *rest = listing.cells(run, run.folder.parent)
        lines.append([(cell, "") for cell in (name, label, seed, *rest)])
    about = (
        "Games won after training with 95 % Wilson intervals, or in the last rollouts. "
        "Hours are those of rollouts and updates."
    )
    return page.table("Runs", about, head, lines)
