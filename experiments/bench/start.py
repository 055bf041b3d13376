"""From a command to its first iteration, with and without compiled programs on disk.

Command: `hiper bench start` (quickstart; some three minutes a round on two idle cores).

Each round starts a run twice: with an empty folder of compiled programs, then with what
the first left there. Both compile, or read, everything before the first iteration
(`--precompile`), and play one game before; the games are made before all that.

Expected: a second start waits at most 0.4 of what the first waits (C17), and asks the
compiler for nothing.
"""

import dataclasses
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time
from typing import Any

from hiper_jax import workdir
from hiper_jax.accept import Count, Name, check_fields
from hiper_jax.experiments import progress
from hiper_jax.experiments.bench import models
from hiper_jax.experiments.bench.timing import medians
from hiper_jax.experiments.games import games_folder
from hiper_jax.experiments.provenance import commit
from hiper_jax.experiments.recipes import recipe

WANTED = "at most 0.40"  # C17
RUN = (
    "train {preset} --precompile --num-updates 1 --eval-episodes 1 "
    "--eval-seen-episodes 0 --world.cache {games} --out {out}"
)
# All programs are kept, also those that compile within a second, as a run has it.
KEPT = {
    "JAX_ENABLE_COMPILATION_CACHE": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
LIMIT = 1800  # seconds that a start may take


@dataclasses.dataclass(frozen=True)
class Start:
    """Times a run's start with and without compiled programs."""

    preset: Name = "quickstart"
    """Which run."""
    rounds: Count = 5
    """Pairs of starts."""
    out: Name = "runs/bench-start"
    """Folder for bench_start.json, the games and the runs."""

    def __post_init__(self):
        check_fields(self)


def main(asked: Start) -> dict[str, Any]:
    """Prints C17 and writes bench_start.json.

    Raises:
      ValueError: there is no such preset.
      RuntimeError: a run failed.
      subprocess.TimeoutExpired: one took half an hour.
    """
    out = pathlib.Path(asked.out)
    world = dataclasses.replace(recipe(asked.preset).world, cache=str(out / "games"))
    games_folder(world, print)
    starts: dict[str, list[dict[str, float]]] = {"first": [], "second": []}
    bar = progress.bar("starts", "starts")
    for i in range(asked.rounds):
        kept = out / "programs"
        shutil.rmtree(kept, ignore_errors=True)
        for done, rows in enumerate(starts.values(), start=1):
            rows.append(start(asked.preset, out, kept))
            bar(2 * i + done, 2 * asked.rounds)
    waits = {
        which: medians({name: [row[name] for row in rows] for name in rows[0]})
        for which, rows in starts.items()
    }
    ratio = waits["second"]["to iteration 1"] / waits["first"]["to iteration 1"]
    result = {
        "preset": asked.preset,
        "commit": commit(),
        "cores": os.cpu_count(),
        "medians": waits,
        "starts": starts,
        "C17": ratio,
    }
    what = f"wait for {asked.preset}'s first iteration, second start over first"
    print(models.table([("C17", what, ratio, WANTED)]))
    print(models.write(asked.out, "bench_start", result))
    return result


def start(preset: str, out: pathlib.Path, kept: pathlib.Path) -> dict[str, float]:
    """Runs one iteration, and looks at the clock.

    Args:
      preset: which run.
      out: folder with the games; the run is made there anew.
      kept: folder of compiled programs.

    Returns:
      seconds from the command to the first iteration, to its end, and to the run's;
      and those of all cores, of the whole run.

    Raises:
      RuntimeError: the run failed.
      subprocess.TimeoutExpired: it took half an hour.
    """
    run, log = out / "run", out / "run.log"
    shutil.rmtree(run, ignore_errors=True)
    words = RUN.format(preset=preset, games=out / "games", out=run).split()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    with open(log, "wb") as file:
        code = subprocess.run(
            [sys.executable, "-m", "hiper_jax.experiments.cli", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **KEPT, "JAX_COMPILATION_CACHE_DIR": str(kept)},
            timeout=LIMIT,
        ).returncode
    ended, after = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise RuntimeError(f"the run failed; what it said is in {log}")
    lines = run / "timing.jsonl"  # written as the iteration ends
    through = lines.stat().st_mtime - began
    return {
        "to iteration 1": through - workdir.read_lines(lines)[0]["seconds"],
        "through iteration 1": through,
        "whole run": ended - began,
        "of all cores": sum(after[:2]) - sum(before[:2]),
    }
