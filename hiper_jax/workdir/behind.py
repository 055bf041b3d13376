"""Work that goes on behind a program's back, on all of its hosts at once."""

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import Any

from hiper_jax.hosts import HostError, Hosts

_POLL = 0.5  # seconds between looks at whether another host has failed
_GRACE = 2.0  # seconds in which work ends that was done when another host failed


class Behind:
    """Work in a thread of its own, begun at once.

    The work of a host must not wait for the main thread of another, and says nothing by
    the devices: these are the program's.
    """

    def __init__(self, what: str, work: Callable[[], Any], hosts: Hosts | None = None):
        """
        Args:
          what: is done, for the message if it is not done in time.
          work: does it.
          hosts: those that do it together; None: this one alone.
        """
        self._what, self._hosts = what, hosts
        self._outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        # A daemon: a disk that never answers must not keep the process from ending.
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether the work is over on this host, well or not."""
        return self._outcome.done()

    def check(self) -> None:
        """Raises what the work has raised on this host; waits for nothing."""
        if self.done:
            self._outcome.result()

    def wait(self, seconds: float) -> None:
        """Waits for the end of the work, and raises what it raised.

        Raises:
          HostError: another host has failed.
          TimeoutError: it took longer.
        """
        until = time.monotonic() + seconds
        while not self._done_in(_POLL):
            try:
                if self._hosts is not None:
                    self._hosts.heed()
            except HostError:
                if self._done_in(_GRACE):
                    break
                raise
            if time.monotonic() > until:
                raise TimeoutError(
                    f"{self._what} is not done after {seconds:.0f} s: see whether its "
                    "disk still answers; what was finished before is whole"
                )
        self._outcome.result()

    def _done_in(self, seconds: float) -> bool:
        return bool(concurrent.futures.wait([self._outcome], seconds).done)

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._outcome.set_result(work())
        except BaseException as error:
            self._outcome.set_exception(error)
