"""Calls timed side by side: in turn, so that a busy machine is busy for all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

import jax


def interleaved(
    calls: Mapping[str, Callable],
    rounds: int,
    often: Callable[[str], int] = lambda name: 1,
) -> dict[str, list[float]]:
    """Seconds of each call, in turn, `rounds` times; each once before, unmeasured.

    Under "NAME, CPU" stand the seconds of all cores: on a busy machine they tell more.

    Args:
      calls: by name; arrays that a call returns are waited for.
      rounds: how often all of them are gone through.
      often: from a name to how many times in a row it is called, for quick ones.
    """
    seconds: dict[str, list[float]] = {
        key: [] for name in calls for key in (name, f"{name}, CPU")
    }
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(often(name)):
                began, worked = time.perf_counter(), time.process_time()
                jax.block_until_ready(call())
                seconds[name].append(time.perf_counter() - began)
                seconds[f"{name}, CPU"].append(time.process_time() - worked)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each list."""
    return {name: statistics.median(times) for name, times in seconds.items()}
