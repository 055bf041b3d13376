"""A run over several processes whose processes are killed, again and again.

Command: `hiper bench kills --out DIR` (20 kills; each costs a start).

A small run goes to its end undisturbed. Then the same run is started, one of its
processes kills itself by SIGKILL while it plays, stacks, updates or saves, or at any
moment, the others are waited for, and it is resumed; after some kills it may come to
its end; and again, until there were enough kills.

Expected: the others always end by themselves, a line names the process that was lost,
and every run that was resumed left the files of the one that was not disturbed.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from typing import Any

from hiper_jax import workdir
from hiper_jax.accept import Count, Name, Positive, Seed, check_fields
from hiper_jax.experiments import launch, progress

RUN = (
    "train quickstart --estimator rloo --samples 2 --learn.kl-coef 0 "
    "--num-updates {iterations} --episodes 4 --slots 4 "
    "--world.max-turns 4 --world.train 24 --world.seen 6 --world.unseen 6 "
    "--eval-episodes 4 --eval-seen-episodes 0 --learn.minibatch 16 --learn.chunk 8 "
    "--checkpoint-every 1"
)
# Where a process is to be killed, in turn, and within how many seconds of its begin.
AIMS = {"rollout": 1.0, "stack": 0.0, "update": 1.0, "save": 0.2, "any": 0.0}
# What equal runs share, bit for bit.
_SAME = ("metrics.jsonl", "model/*.safetensors", "model/critic/*.safetensors", "eval/*")


@dataclasses.dataclass(frozen=True)
class Kills:
    """Kills processes of a run at random, and compares what is resumed."""

    out: Name = "runs/kills"
    """Folder for kills.json and the runs."""
    kills: Count = 20
    """How many."""
    in_a_row: Count = 5
    """Of one run, before it may come to its end."""
    processes: Count = 2
    """Of the run."""
    devices: Count = 2
    """Fake ones of each process."""
    iterations: Count = 4
    """Of the run."""
    lost_after: Positive = 10.0
    """Seconds after which a process counts as lost."""
    seed: Seed = 0
    """Of moments and processes."""

    def __post_init__(self):
        check_fields(self)


class Family:
    """The processes of one call of `hiper train`, and what they say."""

    def __init__(self, words: list[str], processes: int, devices: int, **options):
        self.lines: list[list[str]] = [[] for _ in range(processes)]
        self.children = launch.start(words, processes, devices, **options)
        self._readers = [
            threading.Thread(target=self._read, args=(i, child), daemon=True)
            for i, child in enumerate(self.children)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, index: int, child: subprocess.Popen) -> None:
        assert child.stdout is not None
        with child.stdout as said:
            for line in said:
                self.lines[index].append(line.rstrip())

    def signal(self, index: int, number: int) -> None:
        """Sends one process a signal; its workers, too, where it is killed."""
        send = os.killpg if number == signal.SIGKILL else os.kill
        send(self.children[index].pid, number)

    def wait(self, seconds: float) -> list[int]:
        """Exit codes of all.

        Raises:
          RuntimeError: one of them does not end; all are killed then.
        """
        until = time.monotonic() + seconds
        try:
            for child in self.children:
                child.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            raise RuntimeError(
                f"a process did not end within {seconds:.0f} s; it said last: "
                f"{[said[-1:] for said in self.lines]}"
            ) from None
        finally:
            for child in self.children:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        for reader in self._readers:
            reader.join(5)
        return [child.returncode for child in self.children]

    def named(self, index: int) -> str:
        """The line in which another process says that this one is lost; "" if none.

        Of process 0, the coordinator, it is JAX's own.
        """
        words = rf"process {index}\b.* is lost|the coordinator.* is lost"
        if index == 0:
            words += "|leader task was preempted/died"
        for i, said in enumerate(self.lines):
            for line in said if i != index else ():
                if re.search(words, line):
                    return line
        return ""


def prints(run) -> dict[str, str]:
    """Digests of what equal runs share, by file; and of their episodes."""
    run = pathlib.Path(run)
    files = sorted(file for pattern in _SAME for file in run.glob(pattern))
    found = {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
    for step, file in workdir.episode_files(run).items():
        text = json.dumps([str(e) for e in workdir.read_episodes(file)])
        found[f"episodes {step}"] = hashlib.sha256(text.encode()).hexdigest()
    return found


def main(asked: Kills) -> None:
    """Kills, resumes, compares; writes kills.json.

    Raises:
      RuntimeError: a process did not end, or a run failed without being killed.
    """
    out, rng = pathlib.Path(asked.out), random.Random(asked.seed)
    words = RUN.format(iterations=asked.iterations).split()
    words += ["--mesh.data", str(asked.processes * asked.devices)]
    words += ["--lost-after", str(asked.lost_after)]
    words += ["--world.cache", str(out / "games"), "--out"]
    began = time.monotonic()
    family = Family([*words, str(out / "whole")], asked.processes, asked.devices)
    if any(family.wait(3600)):
        raise RuntimeError(f"the run failed: {family.lines[0][-3:]}")
    length, expected = time.monotonic() - began, prints(out / "whole")
    rows: list[dict[str, Any]] = []
    bar, runs, equal = progress.bar("kills", "kills"), 0, 0
    while len(rows) < asked.kills:
        place, here = out / f"killed-{runs}", 0
        shutil.rmtree(place, ignore_errors=True)
        over = False
        while not over:
            enough = here == asked.in_a_row or len(rows) == asked.kills
            aim = "none" if enough else [*AIMS][len(rows) % len(AIMS)]
            row = _killed(words, place, rng, length, asked, aim)
            over = row is None
            if row is not None:
                here, rows = here + 1, [*rows, row]
                workdir.write_json(out / "kills.json", {"moments": rows})
                bar(len(rows), asked.kills)
        runs, equal = runs + 1, equal + (prints(place) == expected)
    record = {
        "kills": len(rows),
        "by_phase": dict(collections.Counter(row["phase"] for row in rows)),
        "named": sum(bool(row["line"]) for row in rows),
        "seconds_until_others_ended": max(row["seconds"] for row in rows),
        "runs": runs,
        "equal": equal,
        "moments": rows,
    }
    workdir.write_json(out / "kills.json", record)
    told = {name: value for name, value in record.items() if name != "moments"}
    print(f"{told}; {out / 'kills.json'}")


def _killed(
    words: list[str],
    place: pathlib.Path,
    rng: random.Random,
    length: float,
    asked: Kills,
    aim: str,
) -> dict[str, Any] | None:
    """Starts or resumes a run, one of whose processes is killed; None if it ended."""
    victim = rng.randrange(asked.processes)
    seconds = rng.uniform(0, length if aim == "any" else AIMS.get(aim, 0.0))
    count = rng.choice((1, 1, 2))
    file = place.parent / "phase"
    file.unlink(missing_ok=True)
    here = ("-m", "hiper_jax.experiments.bench.phases", str(file), aim, str(count))

    def program(index: int) -> list[str]:
        beside = [*here[:2], f"{file}-other", "none", "1", "0"]
        return [*here, str(seconds)] if index == victim else beside

    resumed = workdir.latest_step(place) is not None
    family = Family(
        [*words, str(place), *(["--resume"] if resumed else [])],
        asked.processes,
        asked.devices,
        program=program,
    )
    child = family.children[victim]
    while child.poll() is None and any(c.poll() is None for c in family.children):
        time.sleep(0.05)
    killed = time.monotonic()
    codes = family.wait(10 * asked.lost_after + 60)
    if not any(codes):
        return None
    if codes[victim] != -signal.SIGKILL:
        raise RuntimeError(f"the run failed: {[said[-3:] for said in family.lines]}")
    return {
        "process": victim,
        "aim": aim,
        "phase": file.read_text(),
        "iterations": len(workdir.read_lines(place / "metrics.jsonl")),
        "seconds": round(time.monotonic() - killed, 1),
        "codes": codes,
        "line": family.named(victim),
    }
