"""Episodes <-> compressed JSON lines, a file per iteration."""

import gzip
import json
import pathlib
from collections.abc import Iterator, Sequence

from hiper_jax.act.episode import Episode, from_json, to_json
from hiper_jax.workdir.atomic import write_bytes


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
