"""A temporary folder of a session; those of sessions that were killed go."""

import fcntl
import pathlib
import shutil
import tempfile
import time
from typing import TextIO

DAY = 24 * 3600.0


def session_folder(prefix: str) -> tuple[str, TextIO]:
    """Makes a folder; its lock is held as long as the file that comes with it is open.

    The operating system releases it with the process, however that ends, and the next
    session sees by it that nobody lives in there any more.
    """
    root = pathlib.Path(tempfile.gettempdir())
    for old in root.glob(f"{prefix}*"):
        if _deserted(old):
            shutil.rmtree(old, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=prefix)
    lock = open(pathlib.Path(folder) / "lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _deserted(folder: pathlib.Path) -> bool:
    try:
        with open(folder / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:  # its lock is still to come, or it is an old one
        try:
            return time.time() - folder.stat().st_mtime > DAY
        except FileNotFoundError:
            return False
    except OSError:
        return False
