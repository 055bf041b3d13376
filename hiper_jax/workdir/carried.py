"""Checkpoints of a store that Orbax cannot write to, by way of a folder of this disk.

Orbax takes folders and gs://. To any other store a checkpoint is written here and sent
file by file, and it comes here whole before it is read. So one process saves it; any
number of them may read it.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from hiper_jax import _store
from hiper_jax._disk import cache_folder
from hiper_jax.hosts import Hosts
from hiper_jax.workdir.atomic import PARTIAL

_TAKEN = "gs"  # the store that Orbax writes to by itself


def is_carried(place) -> bool:
    """Whether a path is one of a store that Orbax cannot write to."""
    return _store.is_remote(place) and not place.startswith(f"{_TAKEN}://")


def check_writers(where, hosts: Hosts | None) -> None:
    """Refuses several processes where one has to write all of a checkpoint.

    Raises:
      ValueError: one line that says what to do.
    """
    if hosts is not None and hosts.count > 1 and is_carried(where):
        raise ValueError(
            f"{where} takes the checkpoints of one process, and there are "
            f"{hosts.count}: Orbax writes several processes' to gs:// or to a folder "
            "that all of them share, so name one of these, such as a mount of the "
            "bucket"
        )


def stage(run) -> pathlib.Path:
    """The folder of this disk in which such a checkpoint of a run lies for a while."""
    if _store.is_remote(run):
        return cache_folder() / "carried" / _store.named(run).replace("/", "-")
    return pathlib.Path(run).resolve() / "checkpoints"


def send(folder: pathlib.Path, place: str) -> None:
    """Sends all that lies in a folder."""
    files = {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    _store.send(place, files)


@contextlib.contextmanager
def brought(run, place) -> Iterator[pathlib.Path | str]:
    """Where Orbax can read a checkpoint: the place itself, or a copy on this disk.

    Raises:
      OSError: the disk is full, or the store does not answer as it should.
    """
    if not is_carried(place):
        yield place
        return
    copy = stage(run) / f"{place.rpartition('/')[2]}-{os.getpid()}{PARTIAL}"
    shutil.rmtree(copy, ignore_errors=True)
    try:
        _store.receive(place, _store.listed(place), copy)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)
