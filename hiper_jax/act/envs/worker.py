"""The process on the other side of a pool: holds environments, answers requests.

The first message is a `link.Parcel`, which is answered as a request is. Then a request
is a list of items (slot, name, argument), see `local.Local`; each is answered by
itself, in order, as (slot, None, result) or (slot, (error type, text), None).

The process ends when the pool's end of the connection closes, also in mid-step.
"""

import os
import pickle
import queue
import runpy
import signal
import sys
import threading
import traceback
import types
from multiprocessing.connection import Connection

from hiper_jax.act.envs.answers import Fault
from hiper_jax.act.envs.link import WORKER
from hiper_jax.act.envs.local import Local


def main(descriptor: int) -> None:
    """Serves the connection with this file descriptor until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[WORKER] = str(os.getpid())
    connection = Connection(descriptor)
    parcel = connection.recv()
    try:
        if parcel.main is not None:
            _import_main(*parcel.main)
        environments = Local(pickle.loads(parcel.make_env), parcel.limits)
    except BaseException as error:  # a script may well call sys.exit
        _answer(connection, (None, (type(error).__name__, str(error)), None))
        return
    _answer(connection, (None, None, None))
    requests: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, requests), daemon=True).start()
    while True:
        for slot, name, argument in requests.get():
            try:
                answer = (slot, None, environments.play(slot, name, argument))
            except Exception as error:
                answer = (slot, _describe(error), None)
            _answer(connection, answer)


def _import_main(kind: str, name: str) -> None:
    """Imports the parent's main module, as `multiprocessing` does: not as `__main__`.

    Args:
      kind: "path" or "module".
      name: the script's path, or the module's name of `python -m`.
    """
    if kind == "path":
        content = runpy.run_path(name, run_name="__mp_main__")
    else:
        content = runpy.run_module(name, run_name="__mp_main__", alter_sys=True)
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def _answer(connection, answer) -> None:
    """Sends an answer, and ends the process if nobody is there to take it."""
    try:
        connection.send(answer)
    except OSError:
        os._exit(0)
    except Exception as error:  # whatever pickling an answer's parts may raise
        fault = Fault(f"the answer cannot be sent ({type(error).__name__}: {error})")
        _answer(connection, (answer[0], None, fault))


def _listen(connection, requests) -> None:
    """Takes requests in at once; the pool never waits for a busy worker to read."""
    try:
        while True:
            requests.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


def _describe(error) -> tuple[str, str]:
    kind = type(error).__name__
    if isinstance(error, ValueError | OSError | RuntimeError):
        return kind, str(error)
    return kind, "".join(traceback.format_exception(error)).strip()
