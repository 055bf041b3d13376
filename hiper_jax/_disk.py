"""The disk: what it refuses, in one line; folders that appear whole or not at all.

Whatever is half made lies in a hidden folder beside its place, of a name that follows
from that place: what a killed process left is removed by the next one that comes.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
_SHORT = re.compile(r"\d+ requested and \d+ written")
_OF_STORE = re.compile("(gs|s3):/")
LOCK = ".lock"  # in a folder that is one process's
_MAKING = ".making"
_WAIT = 3600.0  # seconds that another process may take to make the same


def cache_folder(environment: Mapping[str, str] = os.environ) -> pathlib.Path:
    """What is made once lies there: `$HIPER_CACHE`, by default ~/.cache/hiper_jax."""
    return pathlib.Path(
        environment.get("HIPER_CACHE") or "~/.cache/hiper_jax"
    ).expanduser()


class NotHere(OSError):
    """What failed is no disk of this machine."""


def refuse_store(folder) -> None:
    """Raises ValueError for a store's path, which would become a folder of that name.

    A `pathlib.Path` of one has lost a slash.
    """
    if _OF_STORE.match(os.fspath(folder)):
        raise ValueError(
            f"{folder} is a path of a store, and only runs are written there: name a "
            "folder"
        )


@contextlib.contextmanager
def guarded(folder):
    """Says in one line that the disk is full, or may not be written."""
    refuse_store(folder)
    try:
        yield
    except NotHere:
        raise
    except (OSError, ValueError) as error:
        # Orbax's storage layer raises ValueError, the number in its text only; numpy
        # an OSError without one.
        code = getattr(error, "errno", None)
        if code is None and _SHORT.fullmatch(str(error)):
            code = errno.ENOSPC
        for known in (*_FULL, *_CLOSED):
            if code is None and os.strerror(known) in str(error):
                code = known
        where = getattr(error, "filename", None)
        if where is not None and not _below(where, folder):
            raise  # what could not be read, perhaps
        if code in _FULL:
            raise OSError(
                code,
                f"the disk of {folder} is full; what was finished before is whole: "
                "make room and start again (a run with --resume)",
            ) from None
        if code in _CLOSED:
            raise OSError(
                code,
                f"{folder} cannot be written ({os.strerror(code)}); what was finished "
                "before is whole: allow it or name another folder",
            ) from None
        raise


@contextlib.contextmanager
def making(folder) -> Iterator[pathlib.Path]:
    """A place to make a folder at, which then appears; one process at a time.

    Args:
      folder: where it will be; nothing is there yet, or an empty folder.

    Yields:
      A path of the same name at which nothing is yet.

    Raises:
      FileExistsError: something is there, perhaps since this process began to wait.
      OSError: the disk is full, or may not be written.
    """
    folder = pathlib.Path(os.path.abspath(folder))
    with guarded(folder.parent), one_at_a_time(_work(folder)):
        if os.path.lexists(folder) and not (folder.is_dir() and not os.listdir(folder)):
            raise FileExistsError(
                f"{folder} is there already and is not empty: give another folder"
            )
        with _appearing(folder) as place:
            yield place


def made(
    folder, make: Callable[[pathlib.Path], object], mark: str = ""
) -> pathlib.Path:
    """A folder that several runs may want at once: one makes it, the others wait.

    Args:
      folder: where it is, or will be; beside it lie only such folders.
      make: makes it at a path that it is given, where nothing is.
      mark: file by which a whole one is known; one without it is made again.

    Returns:
      The folder.

    Raises:
      OSError: the disk is full, or may not be written; or what `make` raises.
    """
    folder = pathlib.Path(folder)
    if (folder / mark).exists():
        return folder
    with guarded(folder.parent), one_at_a_time(_work(folder)):
        if not (folder / mark).exists():
            with _appearing(folder) as place:
                make(place)
        for left in folder.parent.glob(f".*{_MAKING}"):
            if left != _work(folder):
                with contextlib.suppress(TimeoutError), one_at_a_time(left, wait=0):
                    shutil.rmtree(left, ignore_errors=True)
    return folder


@contextlib.contextmanager
def one_at_a_time(path: pathlib.Path, wait: float = _WAIT) -> Iterator[None]:
    """Waits until no other process is in here for the same path.

    The operating system lets the next one in when a process ends, however it ends.

    Args:
      path: what is to be done alone; a lock's file is beside it meanwhile.
      wait: seconds.

    Raises:
      TimeoutError: another process was in for longer.
    """
    lock = path.with_name(path.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + wait
    while True:
        with open(lock, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(
                        f"another process is at {path}: wait until it ends, or stop it"
                    ) from None
                time.sleep(0.1)
                continue
            if not is_file_at(file, lock):
                continue  # whoever held it has taken it away
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


@contextlib.contextmanager
def _appearing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """`making`, of whoever is alone; what is in the way is replaced."""
    work = _work(folder)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work / folder.name
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(work / folder.name, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _below(path, folder) -> bool:
    """Whether a path lies in a folder, or the folder in it."""
    here, there = os.path.abspath(os.fspath(path)), os.path.abspath(folder)
    return os.path.commonpath([here, there]) in (here, there)


def _work(folder: pathlib.Path) -> pathlib.Path:
    return folder.with_name(f".{folder.name}{_MAKING}")


def is_file_at(file, path: pathlib.Path) -> bool:
    """Whether an open file is the one at the path, which may be gone meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
