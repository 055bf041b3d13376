"""A program that says in a file how many CPU seconds each of its phases took.

python -m hiper_jax.experiments.bench.host_side FILE COMMAND...

Runs `hiper COMMAND...`; FILE holds a list of [phase, seconds], one for each time that
a phase was entered. Seconds are of the process and of the environments' workers.
"""

import json
import os
import pathlib
import runpy
import sys
import threading
import time

from hiper_jax.experiments.bench.phases import phase_of

_LOOK = 0.01  # seconds between two looks at the stack


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


def watch(thread: int, file: pathlib.Path) -> None:
    """Writes the phases of a thread and their CPU seconds, whenever one is over."""
    found: list[tuple[str, float]] = []
    at, began = "", cpu_seconds()
    while True:
        phase = phase_of(sys._current_frames().get(thread))
        if phase != at:
            now = cpu_seconds()
            found.append((at, now - began))
            at, began = phase, now
            file.write_text(json.dumps(found[1:]))
        time.sleep(_LOOK)


def main() -> None:
    """See above."""
    file, *words = sys.argv[1:]
    given = threading.get_ident(), pathlib.Path(file)
    threading.Thread(target=watch, args=given, daemon=True).start()
    sys.argv[1:] = words
    runpy.run_module("hiper_jax.experiments.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
