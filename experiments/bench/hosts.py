"""What a host computes and hears as there are more of them, with as much to play each.

Command: `hiper bench hosts --out DIR`.

1, 2, 4 processes of this machine train with the same number of episodes each. Counted
are CPU seconds, since the processes share this machine's cores.

Expected: a host's rollout takes as many CPU seconds whatever the number of hosts;
what it hears of the others grows with their number, as their rows do.
"""

import dataclasses
import json
import pathlib
import shutil
import statistics
from typing import Any

from hiper_jax import workdir
from hiper_jax.accept import Count, Name, check_fields
from hiper_jax.experiments.bench.kills import Family

_RUN = (
    "train quickstart --estimator rloo --samples 2 --learn.kl-coef 0 "
    "--world.max-turns 8 --world.train 64 --world.seen 6 --world.unseen 6 "
    "--eval-episodes 4 --eval-seen-episodes 0 --learn.minibatch 64 --learn.chunk 16"
)


@dataclasses.dataclass(frozen=True)
class HostsBench:
    """Measures what a host computes and hears, by the number of hosts."""

    out: Name = "runs/bench-hosts"
    """Folder for hosts.json and the runs."""
    counts: tuple[Count, ...] = (1, 2, 4)
    """Numbers of hosts."""
    episodes: Count = 8
    """Of each host, an iteration."""
    iterations: Count = 6
    """Of each run; the first, which compiles, is not counted."""

    def __post_init__(self):
        check_fields(self)


def main(asked: HostsBench) -> None:
    """Runs all, prints a table, writes hosts.json.

    Raises:
      RuntimeError: a run failed.
    """
    out = pathlib.Path(asked.out)
    rows = [measured(asked, out, count) for count in asked.counts]
    workdir.write_json(out / "hosts.json", {"rows": rows})
    print(
        "| hosts | CPU s of a host's rollout | against one | KiB heard an iteration |"
    )
    print("| --- | --- | --- | --- |")
    for row in rows:
        share = row["rollout"] / rows[0]["rollout"]
        heard = row["received"] / 1024
        print(f"| {row['hosts']} | {row['rollout']:.2f} | {share:.2f} | {heard:.0f} |")


def measured(asked: HostsBench, out: pathlib.Path, count: int) -> dict[str, Any]:
    """CPU seconds of a host's rollout, and the bytes that the first hears.

    Raises:
      RuntimeError: the run failed.
    """
    place = out / f"{count}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    words = _RUN.split() + ["--num-updates", str(asked.iterations)]
    words += ["--checkpoint-every", str(asked.iterations)]
    for name in ("episodes", "slots"):
        words += [f"--{name}", str(asked.episodes * count)]
    words += ["--mesh.data", str(count), "--world.cache", str(out / "games")]
    family = Family(
        [*words, "--out", str(place / "run")],
        count,
        1,
        program=lambda index: [
            *("-m", "hiper_jax.experiments.bench.host_side"),
            str(place / f"rollouts-{index}.json"),
        ],
    )
    if any(family.wait(1800)):
        raise RuntimeError(f"a run of {count} failed: {family.lines[0][-3:]}")
    spent = [
        # The first iteration's compiles.
        json.loads((place / f"rollouts-{index}.json").read_text())[1:]
        for index in range(count)
    ]
    lines = workdir.read_lines(place / "run" / "timing.jsonl")
    heard = [line.get("received", 0) for line in lines]
    return {
        "hosts": count,
        "rollout": statistics.mean(map(statistics.median, spent)),
        "each": spent,
        "received": (heard[-1] - heard[0]) / (len(heard) - 1),
    }
