"""One program on several machines: how its processes find and watch one another.

hiper train PRESET --coordinator HOST:PORT --processes N --process I
hiper train PRESET --distributed auto       on a TPU slice, under SLURM or MPI
"""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal, NoReturn

from hiper_jax.accept import Count, Positive, SettingError, Whole, check_fields

_BEAT = 1.0  # seconds between two signs of life
_LINGER = 10.0  # seconds that one that ends waits for the others to say so of theirs


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Where the other processes are, if there are several."""

    distributed: Literal["off", "auto"] = "off"
    """auto: several processes, which JAX finds by itself on a TPU slice, under SLURM
    and under MPI."""
    coordinator: str = ""
    """HOST:PORT of process 0, where JAX finds nothing by itself."""
    processes: Count = 1
    """How many processes there are, with a coordinator."""
    process: Whole = 0
    """Which of them this is."""
    join_timeout: Positive = 300.0
    """Seconds that a process waits for all others to start."""
    lost_after: Positive = 100.0
    """Seconds without a sign of life after which a process counts as lost."""
    wait: Positive = 1800.0
    """Seconds that a process may come later than the others to where they meet, once
    an iteration; in an environment that hangs, say."""
    notice: str = ""
    """Where this machine hears that it will be taken away: a file that appears, or an
    http address that answers with anything but nothing, FALSE or NONE. All processes
    then end as by SIGTERM."""

    def __post_init__(self):
        check_fields(self)
        if self.process >= self.processes:
            raise SettingError(
                type(self),
                "process",
                f"must be below processes, {self.processes}, got {self.process}",
            )
        if self.processes > 1 and not self.coordinator and self.distributed == "off":
            raise SettingError(
                type(self),
                "coordinator",
                "must be HOST:PORT of process 0 where there are several processes",
            )
        host, _, port = self.coordinator.rpartition(":")
        if self.coordinator and not (host and port.isdecimal()):
            raise SettingError(
                type(self), "coordinator", f"must be HOST:PORT, got {self.coordinator}"
            )


@contextlib.contextmanager
def joined(asked: Hosts) -> Iterator[Any]:
    """Joins the other processes, before anything touches a device; then watches them.

    Yields:
      A `hiper_jax.hosts.Hosts`; of this process alone where there are no others.

    Raises:
      RuntimeError: not all processes came in time.
    """
    if asked.distributed == "off" and asked.processes == 1:
        from hiper_jax import hosts

        alone = hosts.Hosts()
        listen(alone, asked.notice)
        yield alone
        return
    _initialize(asked)
    import jax

    from hiper_jax import hosts

    found = hosts.Hosts(wait=asked.wait)
    pulse = Pulse(found, asked.lost_after)
    listen(found, asked.notice)
    try:
        yield found
    except BaseException as error:
        if _of_a_device(error):
            # A collective broke off, for a process died perhaps: the pulse says which.
            _say(f"a program broke off ({str(error)[:200]}); looking for who is lost")
            time.sleep(asked.lost_after + 3 * _BEAT)
        found.fail(" ".join(str(error).split()) or type(error).__name__)
        if pulse.stop(_LINGER, "failed"):
            jax.distributed.shutdown()  # no coordinator is gone before the others are
        raise
    found.exchange("end", None)
    pulse.stop(_LINGER)
    jax.distributed.shutdown()


def listen(hosts: Any, notice: str) -> None:
    """Looks once a second for the notice that a machine is taken away.

    A rollout looks at `hosts.asked` after each turn, however many turns it has, and the
    pulse tells it to the others: unlike JAX's own point of preemption, which all
    processes must come to equally often.

    Args:
      hosts: those to be told.
      notice: see `Hosts`; "" for none.
    """

    def run() -> None:
        while not hosts.asked:
            if noticed(notice):
                _say(f"{hosts.name(hosts.index)} is to be taken away, says {notice}")
                hosts.asked = hosts.asked or "SIGTERM"
            time.sleep(_BEAT)

    if notice:
        threading.Thread(target=run, daemon=True).start()


def noticed(notice: str) -> bool:
    """Whether a file is there, or an address says something; see `Hosts.notice`."""
    if not notice.startswith(("http://", "https://")):
        return os.path.exists(notice)
    import urllib.request

    # Google's metadata server wants to be asked so; others do not mind.
    asked = urllib.request.Request(notice, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(asked, timeout=_BEAT) as answer:
            said = answer.read(100).decode(errors="replace").strip().upper()
    except OSError:  # not there, or not yet: Amazon's says 404 until it has something
        return False
    return said not in ("", "FALSE", "NONE")


def leave(code: int) -> NoReturn:
    """Ends this process; at once, if it did not part from others in order.

    At exit JAX would wait for those that are lost.
    """
    import jax

    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class Pulse:
    """Says once a second that this process lives, and ends it when another does not."""

    def __init__(self, hosts: Any, lost_after: float):
        self._hosts, self._lost_after = hosts, lost_after
        self._state = "here"  # or "end", where all end, or "failed"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self, linger: float, state: str = "end") -> bool:
        """Says that this process ends, and waits for the others to say so of theirs.

        Returns:
          Whether all did, so that they can part in order. One that goes while others
          watch is lost to them, and JAX aborts them if it is the coordinator.
        """
        self._state = state
        self._thread.join(3 * _BEAT)
        until = time.monotonic() + linger
        while time.monotonic() < until:
            try:
                said = self._hosts.beat([state, 0, ""])
            except Exception:
                return False  # the coordinator is gone
            states = [value[0] for value in said.values()]
            if len(states) == self._hosts.count and "here" not in states:
                return True
            time.sleep(0.1)
        return False

    def _run(self) -> None:
        hosts, count = self._hosts, 0
        seen: dict[int, tuple[Any, float]] = {}
        while True:
            count += 1
            state = self._state
            try:
                said = hosts.beat([state, count, hosts.asked])
            except Exception:
                return  # the coordinator is gone: JAX ends this process, and says so
            if state != "here":
                return
            now = time.monotonic()
            for i in range(hosts.count):
                value = said.get(i)
                if i not in seen or seen[i][0] != value:
                    seen[i] = value, now
                hosts.asked = hosts.asked or (value[2] if value else "")
                silent, state = now - seen[i][1], (value or ["here"])[0]
                if silent > self._lost_after and state != "end":
                    why = f"is lost: no sign of life for {silent:.0f} s"
                    why = why if state == "here" else "has failed: see its output"
                    _say(f"{hosts.name(i)} {why}; mend it and go on with --resume")
                    os._exit(2)
            time.sleep(_BEAT)


def _say(line: str) -> None:
    print(f"hiper: {' '.join(line.split())}", file=sys.stderr, flush=True)


def _initialize(asked: Hosts) -> None:
    """Joins JAX's distributed runtime."""
    import jax

    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Signals are ours: all processes stop at one iteration, and save it.
    jax.config.update("jax_enable_preemption_service", False)
    given: dict[str, Any] = {}
    if asked.distributed == "off":
        given = {
            "coordinator_address": asked.coordinator,
            "num_processes": asked.processes,
            "process_id": asked.process,
        }
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=round(asked.join_timeout),
            # Ours comes first, and says who is lost in one line.
            heartbeat_timeout_seconds=round(2 * asked.lost_after) + 10,
            shutdown_timeout_seconds=30,
        )
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(_why(asked, error)) from None


def _why(asked: Hosts, error: Exception) -> str:
    line = " ".join(str(error).split())[:300]
    if asked.distributed == "auto":
        return (
            f"JAX found no other processes ({line}): name them with --coordinator, "
            "--processes and --process"
        )
    who = "the others did not come" if asked.process == 0 else "process 0 is not there"
    return (
        f"process {asked.process} of {asked.processes} cannot join at "
        f"{asked.coordinator} within {asked.join_timeout:.0f} s: {who} ({line})"
    )


def _of_a_device(error: BaseException) -> bool:
    import jax

    return isinstance(error, jax.errors.JaxRuntimeError)
