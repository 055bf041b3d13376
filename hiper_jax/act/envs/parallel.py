"""One function over many jobs on worker processes: in order, no endless wait."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any


@contextlib.contextmanager
def mapper(workers: int, *, timeout: float = 300.0) -> Iterator[Callable]:
    """Gives `map_all(function, jobs)`, which yields results in the order of the jobs.

    Args:
      workers: processes; 1 does the work in this process.
      timeout: seconds to wait for one result.

    Raises:
      RuntimeError: from the iteration, if a process dies or a result does not come; it
        names the job. What a job raises is raised as it is.
    """
    if workers == 1:
        yield map
        return
    executor = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin
    )
    others = set(multiprocessing.active_children())
    finished = False
    try:
        yield functools.partial(_map_all, executor, timeout)
        finished = True
    finally:
        executor.shutdown(wait=finished, cancel_futures=True)
        if not finished:  # nobody waits for a job that may never end
            for process in set(multiprocessing.active_children()) - others:
                process.kill()


def _begin():
    # A Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """Workers hold both ends of their queue: they do not notice a killed parent."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)


def _map_all(executor, timeout: float, function: Callable, jobs: Iterable[Any]):
    futures = [(job, executor.submit(function, job)) for job in jobs]
    for job, future in futures:
        try:
            yield future.result(timeout)
        except concurrent.futures.BrokenExecutor:
            raise RuntimeError(
                f"a worker process died at or before {_short(job)}; from a notebook or "
                "standard input, which processes cannot import, use workers=1"
            ) from None
        except concurrent.futures.TimeoutError:
            if future.done():  # the job's own
                raise
            raise RuntimeError(
                f"no result in {timeout:.0f} s from the worker on {_short(job)}"
            ) from None


def _short(job: Any) -> str:
    text = str(job)
    return text if len(text) <= 200 else text[:200] + "..."
