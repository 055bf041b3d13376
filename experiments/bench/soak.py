"""Long and loaded: many environments whose workers are killed, and many iterations.

Command: `hiper bench soak --out DIR` (some six minutes on two idle cores).

First a pool of 512 environments plays 200 turns each while its workers are killed at
random. Every observation names its episode, its turn and a digest of all actions so
far, so that a turn that is lost, played twice or given to another slot is seen. Then a
run of 200 small iterations is watched from outside: memory and open files of its
process and of its workers, at every iteration.

Expected: every turn accounted for, and figures that stay where they were once the run
is warm.
"""

import contextlib
import csv
import dataclasses
import io
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from hiper_jax import workdir
from hiper_jax.accept import Count, Name, Positive, Seed, check_fields
from hiper_jax.act.envs.pool import Pool
from hiper_jax.experiments import progress
from hiper_jax.experiments.bench.ledger import ACTIONS, Ledger, after

FIELDS: tuple[str, ...] = ("iteration", "who", "pid", "rss_mb", "open_files")
RUN = (
    "train quickstart --num-updates {iterations} --episodes 4 --slots 4 "
    "--world.max-turns 4 --world.no-in-process --world.workers 2 --world.train 24 "
    "--world.seen 6 --world.unseen 6 --eval-episodes 4 --eval-seen-episodes 0 "
    "--learn.minibatch 16 --checkpoint-every 20"
)


@dataclasses.dataclass(frozen=True)
class Soak:
    """Kills workers under load, and watches memory and files of a long run."""

    out: Name = "runs/soak"
    """Folder for soak.json, soak.csv, soak.png and the run."""
    envs: Count = 512
    """Environments that are played at once."""
    turns: Count = 200
    """Turns of each."""
    workers: Count = 4
    """Processes that play them."""
    kill_every: Positive = 1.0
    """Seconds between two kills, on average."""
    iterations: Count = 200
    """Of the run that is watched."""
    seed: Seed = 0
    """Of actions and kills."""

    def __post_init__(self):
        check_fields(self)


def play(
    *, envs: int, turns: int, workers: int, kill_every: float, seed: int
) -> dict[str, Any]:
    """Plays all turns while workers are killed; counts what came back.

    Returns:
      turns, wrong (answers that name another turn than was played), kills, restarts
      and seconds.
    """
    rng, slots = random.Random(seed), range(envs)
    began = killed_at = time.monotonic()
    wrong = kills = 0
    with Pool(Ledger, envs, workers=workers) as pool:
        tasks = [f"episode-{i}" for i in slots]
        answers: list[Any] = pool.reset(slots, tasks)
        digests = [answer[0].split()[2] for answer in answers]
        bar = progress.bar("soak: turns played under kills", "turns")
        for turn in range(1, turns + 1):
            actions = [rng.choice(ACTIONS) for _ in slots]
            pool.send_step(slots, actions)
            if time.monotonic() - killed_at > kill_every * rng.uniform(0.5, 1.5):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(pool.pids()), signal.SIGKILL)
                    kills += 1
                killed_at = time.monotonic()
            seen: dict[int, str] = {}
            while pool.pending:
                seen |= {slot: answer[0] for slot, answer in pool.recv()}
            digests = [after(d, a) for d, a in zip(digests, actions, strict=True)]
            wrong += sum(
                seen.get(slot) != f"{tasks[slot]} {turn} {digests[slot]}"
                for slot in slots
            )
            bar(turn, turns)
        return {
            "turns": envs * turns,
            "wrong": wrong,
            "kills": kills,
            "restarts": pool.restarts,
            "seconds": round(time.monotonic() - began, 1),
        }


def watch(out: pathlib.Path, iterations: int) -> list[dict[str, Any]]:
    """Runs `hiper train` and looks at its processes whenever an iteration ended.

    Returns:
      A row of FIELDS for each process and iteration.

    Raises:
      RuntimeError: the run failed, or made no progress for ten minutes.
    """
    words = RUN.format(iterations=iterations).split()
    words += ["--out", str(out / "run"), "--world.cache", str(out / "games")]
    log, metrics = out / "run.log", out / "run" / "metrics.jsonl"
    rows: list[dict[str, Any]] = []
    bar = progress.bar("soak: iterations watched", "iterations")
    with open(log, "w") as file:
        run = subprocess.Popen(
            [sys.executable, "-m", "hiper_jax.experiments.cli", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        done, moved = 0, time.monotonic()
        try:
            while run.poll() is None:
                time.sleep(0.02)
                now = _lines(metrics)
                if now > done:
                    done, moved = now, time.monotonic()
                    rows += [
                        {"iteration": done, **_figures(pid, who)}
                        for pid, who in _family(run.pid)
                    ]
                    bar(done, iterations)
                if time.monotonic() - moved > 600:
                    raise RuntimeError(f"no iteration in ten minutes; see {log}")
        finally:
            run.kill()
            run.wait()
    if run.returncode:
        raise RuntimeError(f"the run ended with {run.returncode}; see {log}")
    return rows


def growth(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By who: medians of the second and of the last quarter of the iterations."""
    last = max(row["iteration"] for row in rows)
    found: dict[str, dict[str, float]] = {}
    for who in sorted({row["who"] for row in rows}):
        mine = [row for row in rows if row["who"] == who]
        early = [r for r in mine if last / 4 < r["iteration"] <= last / 2]
        late = [r for r in mine if r["iteration"] > 3 * last / 4]
        if early and late:
            found[who] = {
                f"{name}_{when}": float(statistics.median(r[name] for r in part))
                for name in ("rss_mb", "open_files")
                for when, part in (("early", early), ("late", late))
            }
    return found


def main(asked: Soak) -> None:
    """Plays, watches, and writes soak.json, soak.csv and soak.png."""
    out = pathlib.Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    played = play(
        envs=asked.envs,
        turns=asked.turns,
        workers=asked.workers,
        kill_every=asked.kill_every,
        seed=asked.seed,
    )
    rows = watch(out, asked.iterations)
    result = {"played": played, "growth": growth(rows)}
    text = io.StringIO()
    table = csv.DictWriter(text, FIELDS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    workdir.write_text(out / "soak.csv", text.getvalue())
    workdir.write_json(out / "soak.json", result)
    workdir.write_bytes(out / "soak.png", picture(rows))
    print(
        f"{played['turns']:,} turns, {played['kills']} workers killed, "
        f"{played['wrong']} turns wrong or lost, {played['seconds']} s"
    )
    for who, of in result["growth"].items():
        print(
            f"{who}: {of['rss_mb_early']:.0f} -> {of['rss_mb_late']:.0f} MB, "
            f"{of['open_files_early']:.0f} -> {of['open_files_late']:.0f} open files"
        )


def picture(rows: list[dict[str, Any]]) -> bytes:
    """Memory and open files over the iterations, a line a process, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, name, label in zip(
        figure.subplots(1, 2),
        ("rss_mb", "open_files"),
        ("memory, MB", "open files"),
        strict=True,
    ):
        for who in sorted({row["who"] for row in rows}):
            mine = [row for row in rows if row["who"] == who]
            axes.plot(
                [r["iteration"] for r in mine], [r[name] for r in mine], label=who
            )
        axes.set(xlabel="iteration", ylabel=label, ylim=(0, None))
        axes.legend(frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    return data.getvalue()


def _lines(path: pathlib.Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes().count(b"\n")
    return 0


def _family(pid: int) -> Iterator[tuple[int, str]]:
    """A process and its children, in the order in which they were started."""
    yield pid, "run"
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    with contextlib.suppress(OSError):
        for number, child in enumerate(children.read_text().split(), 1):
            yield int(child), f"worker {number}"


def _figures(pid: int, who: str) -> dict[str, Any]:
    rss, files = 0.0, 0
    with contextlib.suppress(OSError):
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
        rss = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        files = len(os.listdir(f"/proc/{pid}/fd"))
    return {"who": who, "pid": pid, "rss_mb": round(rss, 1), "open_files": files}
