"""A run as it was after an earlier iteration."""

import json
import pathlib

from hiper_jax.workdir.atomic import write_text
from hiper_jax.workdir.episodes import episode_files
from hiper_jax.workdir.metrics import read_lines


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
    for written in episode_files(run):
        if written > step:
            for file in (run / "episodes").glob(f"{written:06d}[-.]*"):
                file.unlink()
