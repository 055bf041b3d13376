"""One run to a path of a store: an object says who writes there, and that they live.

No store tells when a process ends. Whoever holds the path writes the object again every
few seconds; where that has stopped for a while, the next one takes over. The holder
looks whose it is each time, and ends once it is not theirs.
"""

import contextlib
import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from hiper_jax import _store
from hiper_jax._disk import LOCK

BEAT = 15.0  # seconds between two signs of life
SILENT = 4  # beats without one, after which a holder counts as gone
_SETTLE = 1.0  # seconds in which somebody else may be taking over, too
_TEXT = re.compile(r"process (\d+) on (.*)\nbeat (\d+\.\d+)\n")


class Lease:
    """What a run holds a path by."""

    def __init__(self, url: str, beat: float):
        self.object = f"{url}/{LOCK}"
        self.beat = beat
        self.taken = ""  # by whom, once somebody else has
        self._key = secrets.token_hex(8)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def check(self) -> None:
        """Raises ValueError where somebody else has taken over."""
        if self.taken:
            raise ValueError(
                f"{self.object} is now of {self.taken}, who took this run for dead: "
                "nothing more is written here"
            )

    def take(self, say: Callable[[str], Any]) -> None:
        """Takes the path; see `leased`."""
        with contextlib.suppress(FileExistsError):
            _store.write(self.object, self._text(), new=True)
            return
        before = self._read()
        if self._key in before:
            return  # the store's answer was lost, and it was asked again
        if _lives(before):
            wait = SILENT * self.beat
            say(
                f"{self.object} is of {holder(before)}: waiting {wait:.0f} s for a "
                "sign of life"
            )
            until = time.monotonic() + wait
            while (now := self._read()) == before and time.monotonic() < until:
                time.sleep(min(self.beat / 4, 5.0))
            if now and now != before:
                raise ValueError(
                    f"{self.object} says that {holder(now)} is at work here: wait "
                    "until it ends, or name another --out"
                )
        _store.write(self.object, self._text())
        time.sleep(_SETTLE)
        if self._key not in (now := self._read()):
            raise ValueError(
                f"{self.object} was taken by {holder(now)} at the same moment: wait "
                "until it ends, or name another --out"
            )

    def keep(self) -> None:
        """Begins to write the object again and again, until `give_back`."""
        self._thread.start()

    def _keep(self) -> None:
        while not self._ended.wait(self.beat):
            with contextlib.suppress(OSError):  # the next beat may come through
                if self._key not in (now := self._read()):
                    self.taken = holder(now)
                    return
                _store.write(self.object, self._text())

    def give_back(self) -> None:
        """Ends `keep` and removes the object."""
        self._ended.set()
        self._thread.join(SILENT * BEAT)
        with contextlib.suppress(OSError):
            if self._key in self._read():
                url, _, name = self.object.rpartition("/")
                _store.remove(url, [name])

    def _text(self) -> bytes:
        who = f"process {os.getpid()} on {platform.node()}"
        return f"{who}\nbeat {time.time():.3f}\n{self._key}\n".encode()

    def _read(self) -> str:
        try:
            return _store.read(self.object).decode(errors="replace")
        except FileNotFoundError:
            return ""


@contextlib.contextmanager
def leased(
    url: str, *, beat: float = BEAT, say: Callable[[str], Any] = lambda line: None
) -> Iterator[Lease]:
    """Holds a path of a store for this process, as long as it gives signs of life.

    Args:
      url: the path.
      beat: seconds between two signs.
      say: is told where it has to be waited for a holder that may be dead.

    Raises:
      ValueError: another process holds it, who is named.
      OSError: the store cannot be written.
    """
    lease = Lease(_store.named(url), beat)
    lease.take(say)
    lease.keep()
    try:
        yield lease
    finally:
        lease.give_back()


def holder(text: str) -> str:
    """Who is named in a lock, in words."""
    return text.partition("\n")[0].strip()[:200] or "another process"


def beats(text: str, now: float) -> bool | None:
    """Whether a lock's text tells of a holder that lives; None: of no store."""
    found = _TEXT.match(text)
    return None if found is None else now - float(found[3]) < 2 * SILENT * BEAT


def _lives(text: str) -> bool:
    """Whether a holder may live: not where it was on this machine and is gone."""
    found = _TEXT.match(text)
    if not found or found[2].strip() != platform.node():
        return bool(text)
    try:
        os.kill(int(found[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
