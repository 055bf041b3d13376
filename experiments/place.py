"""Where a run is written: a folder, or a copy of what lies in a store.

With --out gs://BUCKET/RUN each host writes into a folder of its own disk and sends what
is new once an iteration, before a checkpoint can follow. So a checkpoint in the store
means that all before it is there too, and another machine can go on.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from hiper_jax import _store, workdir
from hiper_jax._disk import LOCK
from hiper_jax.experiments import config as configs
from hiper_jax.hosts import Hosts


class Place:
    """A run's folder."""

    def __init__(self, folder: pathlib.Path, mirror: workdir.Mirror | None = None):
        self.folder = folder
        self._mirror = mirror

    def push(self) -> None:
        """Sends to the store what this host has written, if it lies in one.

        Raises:
          ValueError: somebody else has taken the run over.
          OSError: the store does not take it.
        """
        if self._mirror is not None:
            self._mirror.push()

    def check(self) -> None:
        """Raises ValueError where somebody else has taken the run over."""

    def pull(self) -> None:
        """Brings what other hosts have sent, if they have other disks."""
        if self._mirror is not None:
            self._mirror.pull(_wanted)

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Has what is raised name the store rather than a copy."""
        try:
            yield
        except (ValueError, OSError) as error:
            line = str(error)
            if self._mirror is None or str(self.folder) not in line:
                raise
            line = line.replace(str(self.folder), self._mirror.url)
            raise type(error)(line) from None

    def told(self, path: pathlib.Path) -> str:
        """A file of the run by the name under which others find it."""
        return str(path) if self._mirror is None else self._mirror.told(path)


class _Leased(Place):
    """The place of the host that holds the lock of a store."""

    def __init__(self, folder: pathlib.Path, mirror: workdir.Mirror, lease: Any):
        super().__init__(folder, mirror)
        self._lease = lease

    def check(self) -> None:
        self._lease.check()

    def push(self) -> None:
        self.check()
        super().push()


def default_folder(config: configs.Train, name: str) -> str:
    """Where a run goes that names no folder."""
    other = "" if config.estimator == "hae" else f"-{config.estimator}"
    other += "" if config.reading.format == "plan" else "-flat"
    return f"runs/{name}{other}-{config.seed}"


@contextlib.contextmanager
def opened(
    hosts: Hosts, where: str, say: Callable[[str], Any] = print
) -> Iterator[Place]:
    """Holds a run's folder for all hosts; the first one's process holds the lock.

    Args:
      hosts: of the run.
      where: a folder, or a path of a store.
      say: is told if it has to be waited.

    Raises:
      ValueError: another process holds it, who is named.
      OSError: it cannot be written.
    """
    held: list[Any] = []
    with contextlib.ExitStack() as stack:

        def hold() -> None:
            if _store.is_remote(where):
                held.append(stack.enter_context(workdir.leased(where, say=say)))
            else:
                stack.enter_context(workdir.locked(where))

        hosts.first("the lock", hold)
        if not _store.is_remote(where):
            yield Place(pathlib.Path(where))
            return
        mirror = stack.enter_context(workdir.spool(where))
        mirror.pull(_wanted)
        if held:
            yield _Leased(mirror.folder, mirror, held[0])
        else:
            yield Place(mirror.folder, mirror)


def _wanted(name: str) -> bool:
    return name != LOCK
