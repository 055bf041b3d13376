"""Numbers of an iteration -> a line in two files, and TensorBoard's events."""

import contextlib
import errno
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from hiper_jax.workdir import events
from hiper_jax.workdir.atomic import guarded, write_bytes

_PLAIN = (int, float, type(None), list)


def append_metrics(
    run, step: int, metrics: Mapping[str, Any], timing: Mapping[str, Any]
) -> None:
    """Adds one iteration to both files and to TensorBoard.

    Numbers are rounded to seven digits; what is not finite becomes null, and the
    line gets a field `not_finite` that names it.
    """
    run = pathlib.Path(run)
    for name, values in (("metrics", metrics), ("timing", timing)):
        line = {"step": step, **{k: _rounded(v) for k, v in values.items()}}
        broken = [k for k, v in line.items() if v is None]
        if broken:
            line["not_finite"] = broken
        with guarded(run):
            _append(run / f"{name}.jsonl", json.dumps(line) + "\n")
    shown = {**metrics, **{f"timing/{k}": v for k, v in timing.items()}}
    shown = {k: float(v) for k, v in shown.items()}
    now = time.time()
    # A file a step, so that a resumed run can drop the later ones; named by step, since
    # TensorBoard reads a folder's files in the order of their names.
    write_bytes(
        run / "tensorboard" / f"events.out.tfevents.{step:010d}.hiper",
        events.encode(step, {k: v for k, v in shown.items() if math.isfinite(v)}, now),
    )


def read_lines(path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file, up to the first line that is none.

    A record has a whole number of 0 or more as its `step`, and plain values by name.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            if type(record["step"]) is not int or record["step"] < 0:
                break
            if not all(isinstance(value, _PLAIN) for value in record.values()):
                break
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            break
        records.append(record)
    return records


def _append(path: pathlib.Path, line: str) -> None:
    """Adds a line, all of it or nothing."""
    with open(path, "ab", buffering=0) as file:
        size, data = file.tell(), line.encode()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


def _rounded(value: Any) -> float | int | None:
    value = np.asarray(value).item()
    if isinstance(value, int):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None
