"""A worker process as a pool sees it: the connection, and what is not yet answered."""

import os
import pickle
import socket
import subprocess
import sys
from collections import deque
from multiprocessing import connection as connections
from typing import Any, NamedTuple

from hiper_jax.act.envs.answers import Limits
from hiper_jax.act.envs.env import MakeEnv

_BOOT = """
import sys
sys.path[:] = {path!r}
from hiper_jax.act.envs import worker
worker.main({descriptor})
"""
WORKER = "HIPER_JAX_WORKER"  # in a worker's environment: its process id
_HERE = "or play in this process (workers=0; of a run, world.in_process)"


class Parcel(NamedTuple):
    """What a worker process is sent before anything else."""

    main: tuple[str, str] | None  # how to import the main module, if it must be
    make_env: bytes  # pickled
    limits: Limits  # on what the environments answer


def pack(make_env: MakeEnv, limits: Limits) -> Parcel:
    """Makes an environment's maker ready for sending.

    What a script defines is taken: worker processes import the script, as those of
    `multiprocessing` do.

    Raises:
      ValueError: it cannot be sent; one line that says what to do.
      RuntimeError: this is a worker process itself.
    """
    if os.environ.get(WORKER) == str(os.getpid()):
        raise RuntimeError(
            "a worker process imports the script and must not start workers itself: "
            'put what the script does under `if __name__ == "__main__":`'
        )
    try:
        pickled = pickle.dumps(make_env)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"make_env cannot be sent to a worker ({reason}): give a function or class "
            f"that a module defines, or a functools.partial of one, {_HERE}."
        ) from None
    if b"__main__" not in pickled:
        return Parcel(None, pickled, limits)
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None:
        return Parcel(("module", name), pickled, limits)
    path = getattr(main, "__file__", None)
    if path is None or not os.path.isfile(path):
        raise ValueError(
            "make_env is defined in a notebook or on standard input, which worker "
            f"processes cannot import: move it to a file and import it, {_HERE}."
        )
    return Parcel(("path", os.path.abspath(path)), pickled, limits)


class Child:
    """A worker process, the connection to it, and the items it has not answered."""

    def __init__(self, index: int, parcel: Parcel):
        self.index = index
        self.queue: deque[tuple[int | None, str, Any]] = deque()
        self.deadline = 0.0
        self.starts = 0
        self.failures = 0  # of starts, one after another
        self._parcel = parcel

    def start(self) -> None:
        """Starts a process; the first item is answered when it can play."""
        ours, theirs = socket.socketpair()
        code = _BOOT.format(path=sys.path, descriptor=theirs.fileno())
        # Own session: a Ctrl-C in the terminal is the pool's to handle, not theirs.
        # Fixed hash seed: no set's order may differ when an episode is played again.
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self.connection = connections.Connection(ours.detach())
        self.starts += 1
        self.queue.append((None, "start", None))
        self.send(self._parcel)

    def send(self, message: Any) -> None:
        """Sends, unless the process is dead: whoever reads from it finds that out."""
        try:
            self.connection.send(message)
        except OSError:
            return

    def end(self, *, kill: bool = False) -> None:
        """Waits for the process to end, and kills it if it does not."""
        self.connection.close()
        try:
            if not kill:
                self.process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            kill = True
        if kill:
            self.process.kill()
            self.process.wait()
