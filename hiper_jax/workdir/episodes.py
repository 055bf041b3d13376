"""Episodes <-> compressed JSON lines, a file per iteration."""

import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator, Sequence

from hiper_jax.act.episode import Episode, from_json, to_json
from hiper_jax.workdir.atomic import write_bytes

MAX_LINE = 500_000_000  # characters of an episode; what is longer was not written here
_DAMAGED = (
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def write_episodes(run, step: int, episodes: Sequence[Episode]) -> pathlib.Path:
    """Writes an iteration's episodes, compressed JSON lines."""
    path = pathlib.Path(run) / "episodes" / f"{step:06d}.jsonl.gz"
    lines = "".join(json.dumps(to_json(e)) + "\n" for e in episodes)
    # A fixed time stamp: equal episodes, equal files.
    write_bytes(path, gzip.compress(lines.encode(), 6, mtime=0))
    return path


def read_episodes(path) -> Iterator[Episode]:
    """Yields the episodes of a file that `write_episodes` wrote.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            while line := file.readline(MAX_LINE):
                yield from_json(json.loads(line))
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}): remove it"
        ) from error


def episode_files(run) -> dict[int, pathlib.Path]:
    """The episode files of a run by iteration, in order."""
    found = (pathlib.Path(run) / "episodes").glob("*.jsonl.gz")
    return {int(p.name.split(".")[0]): p for p in sorted(found)}
