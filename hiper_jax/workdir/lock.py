"""One process to a run's folder, for as long as it lives."""

import contextlib
import fcntl
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import TextIO

from hiper_jax._disk import LOCK, is_file_at, refuse_store


@contextlib.contextmanager
def locked(run) -> Iterator[None]:
    """Holds a folder for this process; made if need be, removed if it stays empty.

    The operating system releases it when the process ends, however it ends. Reading a
    folder needs no lock.

    Args:
      run: the run's folder.

    Raises:
      ValueError: another process holds it, who is named; or it is a store's path.
      OSError: the folder cannot be made or written.
    """
    folder = pathlib.Path(run)
    refuse_store(folder)
    with contextlib.ExitStack() as stack:
        while (file := _opened(stack, folder)) is None:
            pass
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise ValueError(
                f"{run} is in use by {holder}: wait until it ends, or name another "
                "--out"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where nothing was written


def _opened(stack: contextlib.ExitStack, folder: pathlib.Path) -> TextIO | None:
    """The lock's file; None if whoever held it took it away meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = stack.enter_context(open(folder / LOCK, "a+", encoding="utf-8"))
    except FileNotFoundError:
        return None
    return file if is_file_at(file, folder / LOCK) else None
