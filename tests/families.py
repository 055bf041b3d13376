"""Waits for what several processes do."""

import time
from collections.abc import Callable

from hiper_jax.experiments.bench.kills import Family


def until(family: Family, happened: Callable[[], object], seconds: float = 400) -> None:
    """Waits for it as long as all of them live."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end and all(
            child.poll() is None for child in family.children
        ), family.lines
        time.sleep(0.02)
