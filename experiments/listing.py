"""`hiper runs`: what lies in a folder of runs, and how far each is.

running    a process that lives holds the folder's lock
finished   all iterations are done, and the evaluation after them
stopped    neither
damaged    a file cannot be read; what can be is told
"""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from hiper_jax import workdir
from hiper_jax._disk import LOCK
from hiper_jax.experiments.report import tables
from hiper_jax.experiments.visible import visible
from hiper_jax.workdir.lease import beats

DEPTH = 3  # folders below the one that is listed
Status = Literal["running", "finished", "stopped", "damaged"]
HEAD = (
    "run",
    "preset",
    "estimator",
    "seed",
    "status",
    "iterations",
    "success",
    "hours",
)
_HOLDER = re.compile(r"process (\d+) on (.*)")


class Listed(NamedTuple):
    """A run as a line."""

    folder: pathlib.Path
    preset: str
    estimator: str
    seed: str
    status: Status
    done: int  # iterations
    planned: int | None
    split: str  # that the success is of; "" for the rollouts of the last iteration
    rate: tables.Rate | None  # of the evaluation after training
    rollout: float | None  # share won in the last iteration
    hours: float  # of training; evaluations are not counted
    fault: str  # what is damaged; "" if nothing is


def find(folder: pathlib.Path) -> list[pathlib.Path]:
    """The runs in a folder, sorted; the folder itself may be one.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; name one that holds runs"
        )
    return sorted(_below(folder, DEPTH))


def is_run(folder: pathlib.Path) -> bool:
    """Whether a folder is a run's: a model's has a config.json, too."""
    if (folder / "metrics.jsonl").is_file() or (folder / "checkpoints").is_dir():
        return True
    try:
        record = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and "num_updates" in record


def read(folder: pathlib.Path) -> Listed:
    """One run; what cannot be read is named and not raised."""
    faults = []
    try:
        config = json.loads((folder / "config.json").read_bytes())
        if not isinstance(config, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError, RecursionError):
        config = {}
        faults.append("config.json")
    lines = {}
    for name in ("metrics", "timing"):
        file = folder / f"{name}.jsonl"
        lines[name] = workdir.read_lines(file)
        whole = file.read_bytes().splitlines() if file.is_file() else []
        if len(lines[name]) < len(whole):
            faults.append(file.name)
    metrics, rounds = lines["metrics"], {}
    try:
        rounds = tables.evaluations(folder)
    except ValueError:
        faults.append("eval")
    split, rate = _after(rounds)
    planned = config.get("num_updates")
    planned = planned if type(planned) is int else None
    done = metrics[-1]["step"] if metrics else 0
    status: Status = "stopped"
    if is_running(folder):  # it may be writing the very file that seems damaged
        status, faults = "running", []
    elif faults:
        status = "damaged"
    elif rate is not None and done == planned:
        status = "finished"
    origin = config.get("provenance")
    preset = origin.get("preset") if isinstance(origin, dict) else None
    last = metrics[-1].get("rollout/success") if metrics else None
    seconds = [line.get("seconds") for line in lines["timing"]]
    return Listed(
        folder=folder,
        preset=str(preset or ""),
        estimator=str(config.get("estimator", "hae") if config else ""),
        seed=str(config.get("seed", "")),
        status=status,
        done=done,
        planned=planned,
        split=split,
        rate=rate,
        rollout=last if isinstance(last, float | int) else None,
        hours=sum(s for s in seconds if isinstance(s, float | int)) / 3600,
        fault=", ".join(faults),
    )


def is_running(folder: pathlib.Path) -> bool:
    """Whether a process that lives holds the lock; asking disturbs no run.

    Of a process on another machine only the lock itself tells; in a store, when it was
    last written.
    """
    try:
        said = (folder / LOCK).read_text(errors="replace")
    except OSError:
        return False
    if (lives := beats(said, time.time())) is not None:
        return lives
    held = _HOLDER.match(said)
    if held and held[2].strip() == platform.node():
        try:
            os.kill(int(held[1]), 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError):
            pass
        return True
    with contextlib.suppress(OSError), open(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def text(listed: Sequence[Listed], above: pathlib.Path) -> str:
    """Aligned columns for a terminal."""
    return tables.aligned([HEAD, *(cells(run, above) for run in listed)])


def cells(run: Listed, above: pathlib.Path) -> tuple[str, ...]:
    """A run in the columns of `HEAD`."""
    name = run.folder.relative_to(above) if run.folder != above else run.folder.name
    words = (name, run.preset, run.estimator, run.seed)
    status = f"{run.status}: {run.fault}" if run.fault else run.status
    planned = "?" if run.planned is None else run.planned
    return (
        *(visible(word, one_line=True) or "-" for word in words),
        status,
        f"{run.done}/{planned}",
        success(run),
        f"{run.hours:.2f}",
    )


def success(run: Listed) -> str:
    """The share won after training with its interval, else in the last rollout."""
    if run.rate is not None:
        return f"{run.rate} {visible(run.split, one_line=True)}"
    return "-" if run.rollout is None else f"{100 * run.rollout:.1f} % in rollouts"


def record(run: Listed) -> dict[str, Any]:
    """A run as plain values for CSV; shares in [0, 1], "" for what is not known."""
    low, high = run.rate.interval if run.rate else ("", "")
    return {
        "run": visible(run.folder, one_line=True),
        "preset": visible(run.preset, one_line=True),
        "estimator": visible(run.estimator, one_line=True),
        "seed": visible(run.seed, one_line=True),
        "status": run.status,
        "fault": run.fault,
        "iterations": run.done,
        "planned": "" if run.planned is None else run.planned,
        "split": visible(run.split, one_line=True),
        "won": run.rate.won if run.rate else "",
        "games": run.rate.games if run.rate else "",
        "success": _short(run.rate.share) if run.rate else "",
        "low": _short(low),
        "high": _short(high),
        "rollout_success": "" if run.rollout is None else _short(run.rollout),
        "hours": _short(run.hours),
    }


def _short(number: float | str) -> str:
    return number if isinstance(number, str) else f"{number:.6g}"


def _below(folder: pathlib.Path, depth: int) -> Iterator[pathlib.Path]:
    if is_run(folder):
        yield folder
    elif depth:
        with contextlib.suppress(OSError):
            for inner in folder.iterdir():
                if inner.is_dir() and not inner.is_symlink():
                    yield from _below(inner, depth - 1)


def _after(rounds: Mapping[str, Mapping[str, Any]]) -> tuple[str, tables.Rate | None]:
    """The first split of the evaluation after training, and its share."""
    for row in tables.success_table({}, rounds.get("after", {})):
        if row.task_type == tables.OVERALL and row.after is not None:
            return row.split, row.after
    return "", None


def is_listed(name: str) -> bool:
    """Whether a file below a folder of runs is one that a list is made from."""
    *above, last = name.split("/")
    if len(above) > DEPTH + 1 or {"model", "checkpoints"} & set(above):
        return False
    known = ("config.json", "metrics.jsonl", "timing.jsonl", LOCK)
    return last in known or above[-1:] == ["eval"]
