"""A run that lies in a store, as a folder of this disk.

Files are written here and sent whole, in the order in which they were last changed, so
that what tells of others arrives after them. Checkpoints stay in the store, where Orbax
writes and reads them: a file in `checkpoints/` says where that is.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

from hiper_jax import _store
from hiper_jax._disk import LOCK, cache_folder, one_at_a_time
from hiper_jax.workdir.atomic import PARTIAL, write_json, write_text
from hiper_jax.workdir.checked_store import AT

_CHECKPOINTS = "checkpoints/"
_INDEX = "index.json"  # beside the folder
COMING = f"coming{PARTIAL}"
_SENT = "sent"  # for a token, until the store has said its own

Keep = Callable[[str], bool]


class Mirror:
    """A folder and the path of a store that it is a copy of."""

    def __init__(self, url: str, folder: pathlib.Path):
        self.url, self.folder = _store.named(url), folder
        self._there: dict[str, _store.Object] = {}  # as last seen
        self._here: dict[str, tuple[int, int]] = {}  # size, time: as last sent or got

    def pull(self, keep: Keep = lambda name: True) -> None:
        """Brings the folder up to date; what was changed here, and not sent, stays."""
        listed = _store.listed(self.url)
        if any(name.startswith(_CHECKPOINTS) for name in listed):
            self.point()
        there = {n: o for n, o in listed.items() if not _is_state(n) and keep(n)}
        new = {n: o for n, o in there.items() if not self._has(n, o)}
        coming = self.folder.parent / COMING
        shutil.rmtree(coming, ignore_errors=True)
        _store.receive(self.url, new, coming)
        for name in new:
            place = self.folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(coming / name, place)
            self._there[name] = there[name]
            if state := _state(place):
                self._here[name] = state
        shutil.rmtree(coming, ignore_errors=True)
        for name in [n for n in self._there if keep(n) and n not in there]:
            if _state(self.folder / name) == self._here.pop(name, None):
                (self.folder / name).unlink(missing_ok=True)
            del self._there[name]

    def push(self) -> None:
        """Sends what was written here, then removes there what was removed here."""
        found = {}
        for place in self.folder.rglob("*"):
            name = str(place.relative_to(self.folder))
            if not _is_sent(name) or place.is_dir():
                continue
            state = _state(place)
            if state is not None:
                found[name] = state
        new = [name for name, state in found.items() if self._here.get(name) != state]
        for name in sorted(new, key=lambda name: (found[name][1], name)):
            _store.send(self.url, {name: self.folder / name})
            self._here[name] = found[name]
            self._there[name] = _store.Object(found[name][0], _SENT)
        gone = [name for name in self._here if name not in found and _is_sent(name)]
        _store.remove(self.url, gone)
        for name in gone:
            del self._here[name]
            self._there.pop(name, None)

    def _has(self, name: str, there: _store.Object) -> bool:
        """Whether a file is here as it is there."""
        known = self._there.get(name)
        if known == there._replace(token=_SENT):  # nobody else writes what we have sent
            self._there[name] = there
        return self._there.get(name) == there

    def point(self) -> None:
        """Says where the checkpoints are, to whoever has the folder only."""
        place = self.folder / _CHECKPOINTS / AT
        if not place.exists():
            write_text(place, f"{self.url}/{_CHECKPOINTS.rstrip('/')}\n")

    def told(self, path: pathlib.Path) -> str:
        """Where a file of the folder is in the store."""
        return f"{self.url}/{path.relative_to(self.folder)}"

    def save_index(self) -> None:
        """Writes down what is here, for the next process."""
        index = {
            name: [*one, *self._here[name]]
            for name, one in self._there.items()
            if name in self._here and one.token != _SENT
        }
        write_json(self.folder.parent / _INDEX, index)

    def read_index(self) -> None:
        """Reads what the last process wrote down; damaged, it counts as nothing."""
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
            text = (self.folder.parent / _INDEX).read_text()
            for name, (size, token, length, when) in json.loads(text).items():
                if _state(self.folder / name) == (length, when):
                    self._there[name] = _store.Object(size, token)
                    self._here[name] = length, when


@contextlib.contextmanager
def copied(
    path, keep: Keep = lambda name: True
) -> Iterator[tuple[pathlib.Path, Callable[[], None]]]:
    """`here`, for whoever writes there as well.

    Yields:
      The folder, and what sends that which was written; of a folder of this disk it
      does nothing.
    """
    if not _store.is_remote(path):
        yield pathlib.Path(path), lambda: None
        return
    with _kept(path, keep) as mirror:
        yield mirror.folder, mirror.push


def here(path, keep: Keep = lambda name: True) -> pathlib.Path:
    """A run or a data set as a folder of this disk, brought up to date if it is a copy.

    Args:
      path: a folder, which is handed back, or a path of a store.
      keep: which files are wanted, by their names in it.

    Raises:
      FileNotFoundError: nothing lies there.
      ValueError, ImportError, OSError: one line that says what is wrong with a store.
    """
    with copied(path, keep) as (folder, _):
        return folder


def here_if_run(path) -> pathlib.Path | None:
    """The settings and numbers of a run in a store, as a folder; its episodes stay.

    Returns:
      None where it is a folder of this disk, or no run's.
    """
    if not _store.is_remote(path):
        return None
    folder = here(path, _is_of_settings)
    return folder if (folder / "metrics.jsonl").is_file() else None


@contextlib.contextmanager
def _kept(url: str, keep: Keep) -> Iterator[Mirror]:
    url = _store.named(url)
    place = cache_folder() / "mirrors" / key_of(url)
    place.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(place / "copy"):
        mirror = Mirror(url, place / url.rpartition("/")[2])
        mirror.folder.mkdir(exist_ok=True)
        mirror.read_index()
        mirror.pull(keep)
        if not any(mirror.folder.iterdir()):
            raise FileNotFoundError(f"nothing lies at {url}: name what does")
        try:
            yield mirror
        finally:
            mirror.save_index()


def key_of(url: str) -> str:
    return hashlib.sha256(_store.named(url).encode()).hexdigest()[:16]


def _is_state(name: str) -> bool:
    """Whether a file is of a checkpoint, of which no copy is made."""
    return "checkpoints" in name.split("/")[:-1]


def _is_of_settings(name: str) -> bool:
    return name in ("config.json", "metrics.jsonl")


def _is_sent(name: str) -> bool:
    """Whether a file goes to the store; what W&B keeps on a disk goes to W&B."""
    if PARTIAL in name or name.rpartition("/")[2] == LOCK:
        return False
    return not _is_state(name) and not name.startswith("wandb/")


def _state(place: pathlib.Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        told = place.stat()
        return told.st_size, told.st_mtime_ns
    return None
