"""Episodes <-> compressed JSON lines, a file per iteration."""

import gzip
import json
import pathlib
import re
import zlib
from collections.abc import Iterator, Sequence

from hiper_jax.act.episode import Episode, from_json, to_json
from hiper_jax.hosts import Hosts
from hiper_jax.workdir.atomic import write_bytes

_PART = re.compile(r"(\d+)-(\d{5})-of-(\d{5})\.jsonl\.gz")
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


def write_episodes(
    run, step: int, episodes: Sequence[Episode], *, hosts: Hosts | None = None
) -> pathlib.Path:
    """Writes an iteration's episodes, compressed JSON lines.

    Args:
      run: the run's folder.
      step: iterations done.
      episodes: of this host.
      hosts: where there are several, each writes a file of its own.
    """
    part = ""
    if hosts is not None and hosts.count > 1:
        part = f"-{hosts.index + 1:05d}-of-{hosts.count:05d}"
    path = pathlib.Path(run) / "episodes" / f"{step:06d}{part}.jsonl.gz"
    lines = "".join(json.dumps(to_json(e)) + "\n" for e in episodes)
    # A fixed time stamp: equal episodes, equal files.
    write_bytes(path, gzip.compress(lines.encode(), 6, mtime=0))
    return path


def read_episodes(path) -> Iterator[Episode]:
    """Yields the episodes of a file that `write_episodes` wrote.

    The first file of several hosts stands for all of them.

    Raises:
      ValueError: the file is damaged, or that of another host is gone.
    """
    for file in _parts(pathlib.Path(path)):
        yield from _read(file)


def _parts(path: pathlib.Path) -> list[pathlib.Path]:
    """The files of all hosts, given that of the first; any other file alone."""
    found = _PART.fullmatch(path.name)
    if not found or int(found[2]) != 1:
        return [path]
    count = int(found[3])
    names = [f"{found[1]}-{i + 1:05d}-of-{count:05d}.jsonl.gz" for i in range(count)]
    for name in names:
        if not (path.parent / name).is_file():
            raise ValueError(f"{path.parent / name} is gone: put it back")
    return [path.parent / name for name in names]


def _read(path: pathlib.Path) -> Iterator[Episode]:
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
    """The episode files of a run by iteration, in order; of several hosts the first."""
    found = (pathlib.Path(run) / "episodes").glob("*.jsonl.gz")
    files: dict[int, pathlib.Path] = {}
    for path in sorted(found):
        files.setdefault(int(path.name.split(".")[0].split("-")[0]), path)
    return files
