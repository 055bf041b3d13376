"""A program that says in a file how many CPU seconds each of its rollouts took.

python -m hiper_jax.experiments.bench.host_side FILE COMMAND...

Runs `hiper COMMAND...`; FILE holds a list of seconds, of the process and of the
environments' workers. Processes whose files are in one folder play in turn.
"""

import fcntl
import functools
import json
import os
import pathlib
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

from hiper_jax.experiments import draws


def cpu_seconds() -> float:
    """CPU time of this process and of its children that live; Linux."""
    ticks = 0
    for task in pathlib.Path("/proc/self/task").iterdir():
        for child in _read(task / "children").split():
            # After the name, which may hold anything, fields 14 and 15.
            fields = _read(pathlib.Path("/proc", child, "stat")).rpartition(")")[2]
            ticks += sum(map(int, fields.split()[11:13]))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just ended
        return ""


def alone(function: Callable[..., Any], file: pathlib.Path) -> Callable[..., Any]:
    """The function, one process at a time, with its CPU seconds added to a list.

    Processes that share cores and caches would make each other slower. What is wrapped
    must not wait for another process.

    Args:
      function: what to measure.
      file: where the list is written; files in one folder take turns.
    """
    found: list[float] = []

    @functools.wraps(function)
    def measured(*args: Any, **keywords: Any) -> Any:
        with (file.parent / "turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # until it is closed
            began = cpu_seconds()
            result = function(*args, **keywords)
            found.append(cpu_seconds() - began)
        file.write_text(json.dumps(found))
        return result

    return measured


def main() -> None:
    """See above."""
    file, *words = sys.argv[1:]
    draws.act = alone(draws.act, pathlib.Path(file))
    sys.argv[1:] = words
    runpy.run_module("hiper_jax.experiments.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
