"""TrainState, metrics, episodes <-> disk: one folder per run, every file whole.

config.json                what was asked for, and what made the result
metrics.jsonl              a line per iteration; no times: equal runs, equal files
timing.jsonl               a line per iteration: where the seconds went
tensorboard/               both, as event files
episodes/000007.jsonl.gz   every episode of iteration 7, a line each
eval/before-valid_unseen.json
checkpoints/00000007/      Orbax v1: `state` (arrays) and `extra` (JSON)
"""

import contextlib
import errno
import gzip
import json
import logging
import math
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hiper_jax.act.episode import Episode, from_json, to_json
from hiper_jax.workdir import events

PARTIAL = ".partial"


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
        with _disk(run), open(run / f"{name}.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
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
    """The records of a JSON-lines file; a broken last line is left out."""
    path = pathlib.Path(path)
    if not path.is_file():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def truncate_after(run, step: int) -> None:
    """Drops what was written after `step`, so that a resumed run leaves no trace."""
    run = pathlib.Path(run)
    for name in ("metrics", "timing"):
        file = run / f"{name}.jsonl"
        if file.is_file():
            kept = [r for r in read_lines(file) if r["step"] <= step]
            write_text(file, "".join(json.dumps(r) + "\n" for r in kept))
    for file in (run / "tensorboard").glob("events*"):
        if int(file.name.split(".")[3]) > step:
            file.unlink()
    for written, file in episode_files(run).items():
        if written > step:
            file.unlink()


def write_episodes(run, step: int, episodes: Sequence[Episode]) -> pathlib.Path:
    """Writes an iteration's episodes, compressed JSON lines."""
    path = pathlib.Path(run) / "episodes" / f"{step:06d}.jsonl.gz"
    lines = "".join(json.dumps(to_json(e)) + "\n" for e in episodes)
    # A fixed time stamp: equal episodes, equal files.
    write_bytes(path, gzip.compress(lines.encode(), 6, mtime=0))
    return path


def read_episodes(path) -> Iterator[Episode]:
    """Yields the episodes of a file that `write_episodes` wrote."""
    with gzip.open(path, "rt") as file:
        for line in file:
            yield from_json(json.loads(line))


def episode_files(run) -> dict[int, pathlib.Path]:
    """The episode files of a run by iteration, in order."""
    found = (pathlib.Path(run) / "episodes").glob("*.jsonl.gz")
    return {int(p.name.split(".")[0]): p for p in sorted(found)}


def write_bytes(path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    with _disk(path.parent):
        try:
            partial.write_bytes(data)
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def write_text(path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def save(
    run,
    step: int,
    state: Any,
    extra: Any = None,
    *,
    keep: int = 2,
    keep_every: int = 0,
) -> None:
    """Writes a checkpoint, then removes all but the `keep` newest.

    Args:
      run: the run's folder.
      step: updates done; saving a step again replaces it.
      state: a pytree of arrays.
      extra: anything that JSON holds.
      keep: checkpoints kept; 0 keeps all.
      keep_every: steps that are multiples of it stay as well; 0 for none.

    Raises:
      OSError: the disk is full; older checkpoints stay as they were.
    """
    root = pathlib.Path(run).resolve() / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    partial, final = root / f"{step:08d}{PARTIAL}", root / f"{step:08d}"
    _sweep(root)
    try:
        with _disk(root), _orbax() as ocp:
            ocp.save_checkpointables(
                partial, {"state": _leaves(state), "extra": {"json": extra}}
            )
    except BaseException:
        _sweep(root)
        raise
    _remove(final)
    os.replace(partial, final)
    for old in _steps(run)[:-keep] if keep else ():
        if not keep_every or old % keep_every:
            _remove(root / f"{old:08d}")


def latest_step(run) -> int | None:
    """The newest whole checkpoint's step, or None."""
    return max(_steps(run), default=None)


def restore(run, like: Any, step: int | None = None) -> tuple[Any, Any]:
    """Reads a checkpoint into the shape, dtype and sharding of `like`.

    Args:
      run: the run's folder.
      like: a pytree of arrays as saved, or of their `jax.ShapeDtypeStruct`s; one
        without a sharding goes to the first device.
      step: which; None is the newest.

    Returns:
      The state and what was saved beside it.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: it holds other names or shapes, or cannot be read.
    """
    step = latest_step(run) if step is None else step
    if step not in _steps(run):
        raise FileNotFoundError(
            f"{run} holds no checkpoint{'' if step is None else f' of step {step}'}; "
            f"it has {_steps(run) or 'none'}"
        )
    path = pathlib.Path(run).resolve() / "checkpoints" / f"{step:08d}"
    want = _leaves(like)
    with _readable(path), _orbax() as ocp:
        have = ocp.checkpointables_metadata(path).metadata["state"]
    for name in [*want, *(n for n in have if n not in want)]:
        mine = tuple(want[name].shape) if name in want else "nothing"
        saved = tuple(have[name].shape) if name in have else "nothing"
        if mine != saved:
            raise ValueError(
                f"{path} does not fit these settings: {name} is {saved} there and "
                f"{mine} here; use the model and settings the run was started with"
            )
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or first
        )
        for name, leaf in want.items()
    }
    with _readable(path), _orbax() as ocp:
        # One by one: where one fails, Orbax warns of the other.
        extra = ocp.load_checkpointables(path, {"extra": None})["extra"]["json"]
        state = ocp.load_checkpointables(path, {"state": abstract})["state"]
    tree = jax.tree.structure(like)
    return tree.unflatten([state[n] for n in want]), extra


def _leaves(tree: Any) -> dict[str, Any]:
    """A flat mapping from path to array (or abstract array), in the tree's order."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.numpy.asarray(leaf)
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@contextlib.contextmanager
def _orbax():
    """Orbax, silent, with `extra` as plain JSON.

    Left to itself it writes JSON as arrays, which loses None and large integers, and
    logs the traceback of each of its threads when the disk is full.
    """
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.checkpointables.registry = ocp.handlers.local_registry()
    context.checkpointables.registry.add(
        ocp.handlers.JsonHandler, checkpointable_name="extra"
    )
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with context:
            yield ocp
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _readable(path):
    """Says in one line that a checkpoint is damaged."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}); remove that folder to go on "
            "from the checkpoint before it"
        ) from error


def _remove(folder: pathlib.Path) -> None:
    """Removes a checkpoint; killed halfway, it leaves nothing that looks like one."""
    if folder.exists():
        gone = folder.with_name(f"{folder.name}.old{PARTIAL}")
        os.replace(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _sweep(root: pathlib.Path) -> None:
    """Removes what a killed or failed write left; Orbax appends to our name."""
    for leftover in root.glob(f"*{PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _steps(run) -> list[int]:
    root = pathlib.Path(run) / "checkpoints"
    return sorted(int(p.name) for p in root.glob("*") if p.name.isdigit())


def _rounded(value: Any) -> float | int | None:
    value = np.asarray(value).item()
    if isinstance(value, int):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None


@contextlib.contextmanager
def _disk(folder):
    """Says in one line that the disk is full."""
    try:
        yield
    except (OSError, ValueError) as error:
        # Orbax's storage layer raises ValueError; the number is in its text only.
        code = getattr(error, "errno", None)
        if "No space left on device" in str(error):
            code = errno.ENOSPC
        if code not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            code,
            f"the disk of {folder} is full; what was finished before is whole: make "
            "room and go on with --resume",
        ) from None
