"""Files that appear in a folder together, once all of them are written."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


@contextlib.contextmanager
def staged(folder, replacing: str = "") -> Iterator[pathlib.Path]:
    """A folder whose files then move into another one, all of them or none.

    Args:
      folder: where to; made if need be.
      replacing: pattern of files that go where they are not written again.

    Raises:
      OSError: they could not be written; the folder is as it was.
    """
    folder = pathlib.Path(folder)
    new = not folder.is_dir()
    work = folder / ".partial"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield work
        _move_in(work, folder, replacing)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where nothing was written


def _move_in(work: pathlib.Path, folder: pathlib.Path, replacing: str) -> None:
    folder.mkdir(exist_ok=True)
    entries = sorted(work.iterdir())
    stale = set(folder.glob(replacing)) if replacing else set()
    for entry in entries:
        if entry.is_dir():
            _move_in(entry, folder / entry.name, replacing)
        else:
            os.replace(entry, folder / entry.name)
    for file in stale - {folder / entry.name for entry in entries}:
        file.unlink()
