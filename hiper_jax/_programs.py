"""Compiled functions that say how many programs they were traced into.

jax counts a compiled function's programs for itself only. What is public is that a
function's Python body runs once for each program it is traced into: that is counted.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax


class CountedJit:
    """`jax.jit` of a function, and how often it was traced."""

    def __init__(self, function: Callable[..., Any], **options: Any):
        """Compiles nothing yet.

        Args:
          function: what to compile.
          **options: of `jax.jit`.
        """
        self._traces = 0

        @functools.wraps(function)
        def traced(*args: Any, **keywords: Any) -> Any:
            self._traces += 1
            return function(*args, **keywords)

        # Profiles show it; a partial has no name of its own.
        traced.__name__ = getattr(function, "func", function).__name__
        self._compiled = jax.jit(traced, **options)

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self._compiled(*args, **keywords)

    def lower(self, *args: Any, **keywords: Any) -> Any:
        """The function for some arguments or their shapes, see `jax.stages.Lowered`."""
        return self._compiled.lower(*args, **keywords)

    def programs(self) -> int:
        """How many programs there are: one per shape, type and static argument.

        Equal arguments that lie on another device compile again without being traced,
        and are not counted.
        """
        return self._traces
