"""Object stores, gs:// and s3://: what lies there, and how it comes here.

An object appears whole or not at all, and replaces one of its name. Nothing can be
added to one, no folder exists but as the beginning of names, and none can be renamed.
So whoever needs a file system gets a copy on this disk.

The stores are those that `etils.epath` knows, by the packages that it takes: gcsfs and
s3fs. Orbax writes through the same.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hiper_jax._disk import NotHere, cache_folder, guarded, made

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # scheme -> package, extra
_WAITS = (1.0, 5.0)  # seconds before trying again; the packages try for longer
_TOKENS = ("crc32c", "md5Hash", "ETag", "etag", "generation", "mtime", "created")
_FINAL = (FileNotFoundError, FileExistsError, ImportError, MemoryError)


class Object(NamedTuple):
    """What a store says of an object: another token, another object."""

    size: int  # bytes
    token: str


def is_remote(path) -> bool:
    """Whether a path is that of a store, or of anything that looks like one."""
    return isinstance(path, str) and _SCHEME.match(path) is not None


def named(url: str) -> str:
    """A store's path in the one form in which it is compared.

    Raises:
      ValueError: it is that of no store that is known, or names no bucket.
    """
    found = _SCHEME.match(url)
    scheme, rest = (found[1], url[found.end() :].rstrip("/")) if found else ("", "")
    parts = rest.split("/")
    if scheme not in _PACKAGES or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(
            f"{url} is no folder, and no path of a store that is known: write "
            "gs://BUCKET/PATH, s3://BUCKET/PATH or a folder"
        )
    return f"{scheme}://{rest}"


def file_system(url: str) -> Any:
    """The fsspec file system of a path, the very one through which Orbax writes.

    Raises:
      ValueError: see `named`.
      ImportError: its package is missing.
    """
    scheme = named(url).partition(":")[0]
    package, extra = _PACKAGES[scheme]
    try:
        __import__(package)
        from etils.epath import backend
    except ImportError as error:
        raise ImportError(
            f"{url} needs the package {error.name or package}: install it with `pip "
            f"install 'hiper-jax[{extra}]'`"
        ) from None
    system = patiently(url, "reached", lambda: backend.fsspec_backend.fs(url))
    # A listing that is remembered hides what another thread, or host, writes after it:
    # Orbax then misses the metadata of the checkpoint that it is writing.
    system.dircache.use_listings_cache = False
    system.invalidate_cache()
    return system


def patiently(
    url: str,
    done: str,
    work: Callable[[], Any],
    waits: Sequence[float] | None = None,
) -> Any:
    """Does something with a store, again where that may help.

    Args:
      url: with which path.
      done: what it is that is done to it, for the message.
      work: does it.
      waits: seconds before each further try; None: the usual ones.

    Raises:
      FileNotFoundError, FileExistsError: the store says so.
      OSError: it did not answer as it should; the path and its words are in it.
    """
    for wait in (*(_WAITS if waits is None else waits), None):
        try:
            return work()
        except _FINAL:
            raise
        except Exception as error:
            if _of_this_disk(error):
                raise
            said = " ".join(str(error).split())[:300]
            closed = isinstance(error, PermissionError | ValueError)
            if wait is not None and not closed and "Forbidden" not in said:
                time.sleep(wait)
                continue
            raise NotHere(
                f"{url} cannot be {done} ({type(error).__name__}: {said}); see whether "
                "the bucket is there, who may read and write it, and whether this "
                "machine has credentials for it"
            ) from None
    raise AssertionError


def _of_this_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
    )


def check(url: str) -> None:
    """Refuses, before anything expensive, a store that cannot be reached.

    Raises:
      ValueError, ImportError, OSError: one line that says what to do.
    """
    listed(url)


def listed(url: str) -> dict[str, Object]:
    """The objects below a path, each by the rest of its name; sorted.

    Raises:
      OSError: see `patiently`; a bucket that is not there is one of them.
      ValueError: a name would lie outside of a folder.
    """
    url = named(url)
    system = file_system(url)

    above = url.partition("://")[2] + "/"

    def find() -> dict[str, Any] | None:
        try:
            return system.find(url, detail=True)
        except FileNotFoundError:
            return {} if system.exists(above.partition("/")[0]) else None

    found, known = {}, patiently(url, "listed", find)
    if known is None:
        raise NotHere(f"{url} cannot be listed: there is no such bucket")
    for name, info in sorted(known.items()):
        rest = name.removeprefix(above)
        if rest == name or not rest or rest.endswith("/"):
            continue  # a mark that some tools write for a folder
        if info.get("type") == "directory":
            continue
        if {"", ".", ".."} & set(rest.split("/")):
            raise ValueError(f"{url} holds {rest!r}, which is no name of a file")
        token = next((str(info[key]) for key in _TOKENS if info.get(key)), "")
        found[rest] = Object(int(info["size"]), token)
    return found


def read(url: str) -> bytes:
    """An object's bytes.

    Raises:
      FileNotFoundError: there is none.
      OSError: see `patiently`.
    """
    system = file_system(url)
    return patiently(url, "read", lambda: system.cat_file(url))


def write(url: str, data: bytes, *, new: bool = False) -> None:
    """Writes an object.

    Args:
      url: which.
      data: its bytes.
      new: refuse to replace one.

    Raises:
      FileExistsError: with `new`, there is one.
      OSError: see `patiently`.
    """
    system = file_system(url)
    how = {"mode": "create"} if new else {}
    patiently(url, "written", lambda: system.pipe_file(url, data, **how))


def send(url: str, files: Mapping[str, pathlib.Path]) -> None:
    """Writes files as objects below a path, one after the other, in order."""
    system = file_system(url)
    for name, file in files.items():
        to = f"{named(url)}/{name}"
        patiently(to, "written", lambda a=str(file), b=to: system.put_file(a, b))


def remove(url: str, names: Sequence[str]) -> None:
    """Removes objects below a path; those that are gone already do not matter."""
    if not names:
        return
    system = file_system(url)
    full = [f"{named(url)}/{name}" for name in names]

    def gone() -> None:
        try:
            system.rm(full)
        except FileNotFoundError:
            for one in full:
                with contextlib.suppress(FileNotFoundError):
                    system.rm_file(one)

    patiently(url, "cleared", gone)


def receive(url: str, objects: Mapping[str, Object], folder: pathlib.Path) -> None:
    """Copies objects into a folder, whose files are then as long as the store says.

    Raises:
      OSError: the disk has no room for them, which is seen before the first; or see
        `patiently`.
    """
    system, url = file_system(url), named(url)
    needed = sum(one.size for one in objects.values())
    with guarded(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        places = {name: folder / name for name in objects}
        for place in places.values():
            place.parent.mkdir(parents=True, exist_ok=True)

    def get() -> None:
        system.get(
            [f"{url}/{name}" for name in objects], [str(p) for p in places.values()]
        )
        for name, one in objects.items():
            if (size := places[name].stat().st_size) != one.size:
                raise OSError(f"{size} bytes of the {one.size} of {name} came")

    if objects:
        try:
            patiently(url, "read", get)
        except OSError as error:
            if not _of_this_disk(error):
                raise
            with guarded(folder):
                raise


def fetched(
    url: str,
    keep: Callable[[str], bool] = lambda name: True,
    environment: Mapping[str, str] = os.environ,
) -> pathlib.Path:
    """A copy on this disk of what lies below a path now, made once.

    Whoever asks again for the same objects finds it; where one has changed, another
    copy is made, and the old one stays for whoever reads it.

    Args:
      url: the path.
      keep: of which names.
      environment: see `_disk.cache_folder`.

    Returns:
      The folder.

    Raises:
      FileNotFoundError: nothing lies there.
      OSError: see `receive`.
    """
    url = named(url)
    objects = {name: one for name, one in listed(url).items() if keep(name)}
    if not objects:
        raise FileNotFoundError(f"nothing lies at {url}: name what does")
    digest = hashlib.sha256(repr((url, sorted(objects.items()))).encode()).hexdigest()
    folder = cache_folder(environment) / "fetched"
    folder /= f"{url.rpartition('/')[2]}-{digest[:16]}"
    with guarded(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    return made(folder, lambda place: receive(url, objects, place))
