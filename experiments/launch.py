"""`hiper launch`: several processes of one command on this machine, to try it.

hiper launch --processes 2 --devices-per-process 2 train quickstart --mesh.data 4
"""

import contextlib
import dataclasses
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import tyro

from hiper_jax.accept import Count, Name, Positive, check_fields

_PROGRAM = ("-m", "hiper_jax.experiments.cli")
_FAKE = "--xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True)
class Launch:
    """Starts a command in several processes of this machine, on its CPU."""

    command: Annotated[Name, tyro.conf.Positional, tyro.conf.arg(metavar="COMMAND ...")]
    """What each of them runs, such as `train quickstart` and its flags."""
    processes: Count = 2
    """How many."""
    devices_per_process: Count = 1
    """Fake devices of each."""
    grace: Positive = 120.0
    """Seconds that the others have to end by themselves once one has failed."""

    def __post_init__(self):
        check_fields(self)


def split(argv: Sequence[str]) -> list[str]:
    """The words of `launch` with the command that it is to start as one word."""
    flags = [
        f"--{field.name}".replace("_", "-") for field in dataclasses.fields(Launch)
    ]
    at = 1
    while at < len(argv) and argv[at].startswith("-"):
        takes_value = argv[at] in flags
        at += 2 if takes_value else 1
    rest = list(argv[at:])
    return [*argv[:at], *([shlex.join(rest)] if rest else [])]


def main(asked: Launch) -> None:
    """Runs the command in all processes; output is marked by process.

    Raises:
      SystemExit: one of them failed; with its code. All end then.
    """
    words = shlex.split(asked.command)
    children = start(words, asked.processes, asked.devices_per_process)
    readers = [
        threading.Thread(target=_show, args=(index, child), daemon=True)
        for index, child in enumerate(children)
    ]
    for reader in readers:
        reader.start()
    with _forwarded(children):
        failed = _wait(children, asked.grace)
    for reader in readers:
        reader.join(5)
    if failed is not None:
        index, code = failed
        said = f"signal {-code}" if code < 0 else f"code {code}"
        print(f"hiper: process {index} ended first, by {said}", file=sys.stderr)
        raise SystemExit(code if code > 0 else 128 - code)


def start(
    words: Sequence[str],
    processes: int,
    devices: int,
    program: Callable[[int], Sequence[str]] = lambda index: _PROGRAM,
) -> list[subprocess.Popen]:
    """Starts a command in several processes that find each other.

    Args:
      words: of the command, without `hiper`.
      processes: how many.
      devices: fake ones of each.
      program: index -> what Python is to run with those words.

    Returns:
      The processes in order; output and errors of each come through its pipe.
    """
    coordinator = f"localhost:{_free_port()}"
    return [
        subprocess.Popen(
            [
                *(sys.executable, *program(index), *words),
                *("--coordinator", coordinator),
                *("--processes", str(processes), "--process", str(index)),
            ],
            env=_environment(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C comes from us, once
        )
        for index in range(processes)
    ]


def _wait(children: Sequence[subprocess.Popen], grace: float) -> tuple[int, int] | None:
    """Waits for all; once one has failed the others are given `grace` seconds.

    Returns:
      The first that failed and its code; None if none did.
    """
    first, until = None, 0.0
    while any(child.poll() is None for child in children):
        for index, child in enumerate(children):
            if child.poll() and first is None:
                first, until = (index, child.returncode), time.monotonic() + grace
        if first is not None and time.monotonic() > until:
            _send(children, signal.SIGKILL)
        time.sleep(0.05)
    for index, child in enumerate(children):
        if child.returncode and first is None:
            first = index, child.returncode
    return first


@contextlib.contextmanager
def _forwarded(children: Sequence[subprocess.Popen]):
    """Ctrl-C and SIGTERM go to the first process, which tells the others."""

    def forward(number, frame):
        _send(children[:1], number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, forward) for number in numbers]
    try:
        yield
    finally:
        _send(children, signal.SIGKILL)
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)


def _send(children: Sequence[subprocess.Popen], number: int) -> None:
    for child in children:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                # Its workers, too, where it is killed; else it ends them itself.
                send = os.killpg if number == signal.SIGKILL else os.kill
                send(child.pid, number)


def _show(index: int, child: subprocess.Popen) -> None:
    assert child.stdout is not None
    with child.stdout as said:
        for line in said:
            print(f"[{index}] {line.rstrip()}", flush=True)


def _environment(devices: int) -> dict[str, str]:
    """Of a process with fake devices on the CPU."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags = re.sub(rf"{_FAKE}=\d+", "", flags)
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{flags} {_FAKE}={devices}".strip(),
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("PJRT_NPROC", None)  # it follows from the devices
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
