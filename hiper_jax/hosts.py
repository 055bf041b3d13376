"""The processes of one program, one or more a machine: what they say to each other.

Arrays travel by XLA's collectives, which wait for ever and check nothing. What is said
here goes by the key-value store of JAX's coordination service, so that whoever does not
come is named after a while, and whoever differs at once. One process is one host.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

_POLL = 500  # milliseconds between looks at whether another host has failed
_ROOM = "hiper/"  # of our keys


class HostError(RuntimeError):
    """Another host failed, is lost, or does something else."""


class Hosts:
    """All processes of a program. Every one of them calls the same methods in order.

    Attributes:
      count: how many there are.
      index: which this one is; the first, 0, is the one that writes.
      names: of their machines.
      asked: the signal by which one of them was told to stop, "" if none was.
      received: bytes that the others have said to this one.
    """

    def __init__(self, *, wait: float = 1800.0, among: Any = None):
        """
        Args:
          wait: seconds that the others may take to come to the same place.
          among: (count, index, store), the store as JAX's client has it; None: the
            processes of JAX's distributed runtime.
        """
        known = among or (jax.process_count(), jax.process_index(), None)
        self.count, self.index = known[:2]
        self._store: Any = known[2]
        self.wait, self._calls = wait, 0
        self.asked, self.received = "", 0
        self.names = [platform.node()]
        if self.count > 1:
            self._store = self._store or _client()
            self.names = self.exchange("start", platform.node())

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.index == 0

    def name(self, index: int) -> str:
        """A process as it is told to people."""
        known = index < len(self.names)
        return f"process {index}" + (f" on {self.names[index]}" if known else "")

    def share(self, number: int) -> tuple[int, int]:
        """(begin, end) of this host's part of `number` things, in the hosts' order."""
        return (
            number * self.index // self.count,
            number * (self.index + 1) // self.count,
        )

    def exchange(self, what: str, value: Any) -> list[Any]:
        """Every host's value, in order; waits for all.

        Args:
          what: place in the program, equal on all hosts.
          value: anything that JSON holds; small.

        Raises:
          HostError: a host did not come, failed, or is at another place.
        """
        if self.count == 1:
            return [value]
        self._calls += 1
        room = f"{_ROOM}{self._calls}/"
        self._store.key_value_set(f"{room}{self.index}", json.dumps([what, value]))
        heard = [self._hear(room, i, what) for i in range(self.count)]
        self.received += sum(map(len, heard)) - len(heard[self.index])
        said = [json.loads(text) for text in heard]
        if self._calls > 2:  # who is here has read everything before the last call
            self._store.key_value_delete(f"{_ROOM}{self._calls - 2}/{self.index}")
        for i, (where, _) in enumerate(said):
            if where != said[0][0]:
                raise HostError(
                    f"{self.name(i)} is at {where!r}, {self.name(0)} at "
                    f"{said[0][0]!r}: start all of them with the same command"
                )
        return [value for _, value in said]

    def agree(self, what: str, facts: Mapping[str, Any]) -> None:
        """Raises HostError where a fact, by name, is another than the first host's."""
        said = self.exchange(what, {name: digest(x) for name, x in facts.items()})
        for i, theirs in enumerate(said):
            for name, fact in said[0].items():
                if theirs.get(name) != fact:
                    raise HostError(
                        f"{self.name(i)} has another {name} than {self.name(0)} in "
                        f"{what}: start all of them with the same command and files"
                    )

    def first(self, what: str, work: Callable[[], Any]) -> Any:
        """What `work` returns to the first host, which alone does it; JSON if several.

        Raises:
          HostError: it failed there; the first host raises what `work` raised.
        """
        if self.count == 1:
            return work()
        error, outcome = None, [None, ""]
        if self.writes:
            try:
                outcome = [work(), ""]
            except Exception as caught:
                error, outcome = caught, [None, f"{caught}" or type(caught).__name__]
        result, failed = self.exchange(what, outcome)[0]
        if error is not None:
            raise error
        if failed:
            raise HostError(failed)
        return result

    def after_first(self, what: str) -> None:
        """Waits until the first host has come here, too; for threads.

        Unlike all else it may be called while the main thread is anywhere.

        Args:
          what: place in the program, equal on all hosts; no other call may name it.

        Raises:
          HostError: another host ended, or the first did not come.
        """
        room = f"{_ROOM}{what}/"
        if self.count > 1 and self.writes:
            self._store.key_value_set(f"{room}0", "")
        elif self.count > 1:
            self._hear(room, 0, what)

    def gather(self, what: str, data: bytes) -> list[bytes]:
        """Every host's bytes, in order, by one collective of the devices."""
        if self.count == 1:
            return [data]
        from jax.experimental import multihost_utils

        # Sizes first: now all are there, and the collective waits for nobody.
        sizes = self.exchange(what, len(data))
        # Few sizes, few programs.
        room = 1 << max(max(sizes) - 1, 1).bit_length()
        mine = np.zeros(room, np.uint8)
        mine[: len(data)] = np.frombuffer(data, np.uint8)
        rows = multihost_utils.process_allgather(mine)
        self.received += room * (self.count - 1)
        return [rows[i, :size].tobytes() for i, size in enumerate(sizes)]

    def fail(self, line: str) -> None:
        """Tells the others, wherever they wait, that this host ends, and why."""
        if self.count > 1:
            try:
                self._store.key_value_set(
                    f"{_ROOM}failed", json.dumps([self.index, line])
                )
            except jax.errors.JaxRuntimeError:
                pass  # another was first, or nobody is left to hear it

    def heed(self) -> None:
        """Raises HostError where another host has told that it ends."""
        if self.count > 1:
            self._check_failed()

    def beat(self, value: Any) -> dict[int, Any]:
        """Says that this host lives; what each host said last, by index."""
        self._store.key_value_set(
            f"{_ROOM}alive/{self.index}", json.dumps(value), allow_overwrite=True
        )
        found = self._store.key_value_dir_get(f"{_ROOM}alive/")
        return {int(key.rpartition("/")[2]): json.loads(said) for key, said in found}

    def _hear(self, room: str, index: int, what: str) -> str:
        began = time.monotonic()
        while True:
            try:
                return self._store.blocking_key_value_get(f"{room}{index}", _POLL)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise HostError(
                        f"the coordinator, {self.name(0)}, is lost: see its output"
                    ) from None
            self._check_failed()
            if time.monotonic() - began > self.wait:
                raise HostError(
                    f"{self.name(index)} did not come to {what!r} within "
                    f"{self.wait:.0f} s: see what it waits for, an environment perhaps"
                )

    def _check_failed(self) -> None:
        try:
            found = self._store.key_value_try_get(f"{_ROOM}failed")
        except jax.errors.JaxRuntimeError:
            return
        index, line = json.loads(found)
        raise HostError(f"{self.name(index)} ended: {line}")


def digest(fact: Any) -> str:
    """A short name of anything that JSON, or `str`, tells apart."""
    text = fact if isinstance(fact, bytes) else json.dumps(fact, default=str).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def _client() -> Any:
    # JAX offers this store to nobody but itself and Orbax; there is no public name.
    from jax._src import distributed

    return distributed.global_state.client
