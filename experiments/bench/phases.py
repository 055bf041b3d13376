"""A program that says in a file what it is at, and may kill itself there.

python -m hiper_jax.experiments.bench.phases FILE PHASE COUNT SECONDS COMMAND...

Runs `hiper COMMAND...`. SIGKILL ends it SECONDS after PHASE began for the COUNT-th
time, or after its start where PHASE is `any`; PHASE `none` lets it live.
"""

import os
import pathlib
import runpy
import signal
import sys
import threading
import time
from types import FrameType

# The outermost of these on the stack says what the program is at.
PHASES = {
    ("train.py", "prepare"): "start",
    ("train.py", "examine"): "evaluation",
    ("draws.py", "act"): "rollout",
    ("train.py", "keep"): "save",
    ("meeting.py", "agree"): "wait",
    ("meeting.py", "together"): "wait",
    ("meeting.py", "stacked"): "stack",
    ("meeting.py", "joined"): "stack",
    ("meeting.py", "compiled"): "compilation",
    ("meeting.py", "write"): "write",
}
_LOOK = 0.004  # seconds between two looks at the stack


def phase_of(frame: FrameType | None) -> str:
    """What a stack, given by its innermost frame, is at.

    In the training loop, and in nothing that has a name of its own, it is "update".
    """
    found, loop = "", False
    while frame is not None:
        code = frame.f_code
        place = pathlib.PurePath(code.co_filename).name, code.co_name
        found = PHASES.get(place, found)
        loop |= place == ("train.py", "loop")
        frame = frame.f_back
    return found or ("update" if loop else "start or end")


def watch(thread: int, file: str, aim: str, count: int, seconds: float) -> None:
    """Writes a thread's phase down whenever it changes; kills the process group.

    Args:
      thread: whose stack is looked at.
      file: where the phase is written.
      aim: the phase to be killed in; "any" or "none".
      count: how often it must have begun.
      seconds: after that.
    """
    began, at = time.monotonic(), ""
    until = began + seconds if aim == "any" else float("inf")
    while True:
        phase = phase_of(sys._current_frames().get(thread))
        if phase != at:
            at = phase
            pathlib.Path(file).write_text(phase)
            count -= phase == aim
            if phase == aim and not count:
                until = time.monotonic() + seconds
        if time.monotonic() >= until:
            os.killpg(os.getpgid(0), signal.SIGKILL)
        time.sleep(_LOOK)


def main() -> None:
    """See above."""
    file, aim, count, seconds, *words = sys.argv[1:]
    given = threading.get_ident(), file, aim, int(count), float(seconds)
    threading.Thread(target=watch, args=given, daemon=True).start()
    sys.argv[1:] = words
    runpy.run_module("hiper_jax.experiments.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
