"""`--profile-steps 3:5`: where the time of some iterations goes, for xprof.

RUN/profile/plugins/profile/DATE/HOST.xplane.pb, which `xprof RUN/profile` shows.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from hiper_jax.experiments.config import Train
from hiper_jax.experiments.settings import profiled_steps


class Profile:
    """Traces the iterations that were asked for, and nothing between them."""

    def __init__(
        self,
        config: Train,
        run: pathlib.Path,
        told: Callable[[pathlib.Path], Any] = str,
    ):
        """Begins nothing yet; `run` is the run's folder, `told` what others call it."""
        self._told = told
        self._steps = profiled_steps(config.profile_steps)
        self._folder = run / "profile"
        self._on = False
        self._mark: Any = None

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, step: int) -> None:
        """Iteration `step` begins, counted from 1."""
        if step not in self._steps:
            return
        if not self._on:
            options = jax.profiler.ProfileOptions()
            # Every call of Python's, of minutes of games, would be gigabytes.
            options.python_tracer_level = 0
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._on = True
        self._mark = jax.profiler.StepTraceAnnotation("iteration", step_num=step)
        self._mark.__enter__()

    def stop(self, step: int) -> None:
        """Iteration `step` has ended; the trace is written after the last."""
        if step + 1 not in self._steps:
            self.close()
        elif self._mark is not None:
            self._mark.__exit__(None, None, None)
            self._mark = None

    def close(self) -> None:
        """Writes what was traced, if a trace is going on."""
        if self._mark is not None:
            self._mark.__exit__(None, None, None)
            self._mark = None
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
            where = self._told(self._folder)
            print(f"profile: {where} (xprof {where})")
