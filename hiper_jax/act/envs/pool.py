"""Environments in worker processes: many slots, few processes, nothing lost.

Text engines are slow, single-threaded and may crash or hang, so they run in processes
of their own. A pool has `size` slots; slot i lives in worker i mod `workers`. A worker
that dies or makes no progress is killed and started again, and the episodes it held are
played again from their recorded actions (environments must be deterministic).

With no workers the slots live in this process: for environments that a notebook
defines, and to see where one fails. Nothing is killed or started again then.
"""

import builtins
import dataclasses
import os
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing import connection as connections
from typing import Any

from hiper_jax.act.envs.answers import LIMITS, Fault, Limits
from hiper_jax.act.envs.env import MakeEnv
from hiper_jax.act.envs.link import Child, pack
from hiper_jax.act.envs.local import Local

_RESTARTS = 2


class PoolError(RuntimeError):
    """Workers cannot load the environment, or fail again and again on one task."""


class Pool:
    """A fixed number of environment slots over a few worker processes.

    `reset` and `step` wait for all their slots. `send_reset`, `send_step` and `recv`
    are the same in two halves: while the workers play, the caller does something else.
    A slot has at most one request open. In place of an answer that cannot be used, see
    `answers`, stands a `Fault`, and the slot's episode is over.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        size: int,
        *,
        workers: int | None = None,
        reset_timeout: float = 120.0,
        step_timeout: float = 60.0,
        limits: Limits = LIMITS,
    ):
        """
        Args:
          make_env: makes one environment; sent by its name, called in the workers. A
            script's own are taken, as by `multiprocessing`: what the script does must
            then stand under `if __name__ == "__main__":`.
          size: how many slots.
          workers: how many processes; by default one for each core, at most `size`.
            0: all slots are played in this process, one after the other, without
            limits of time.
          reset_timeout: seconds that one reset may take.
          step_timeout: seconds that one step may take.
          limits: on what the environments answer.

        Raises:
          ValueError: `make_env` cannot be sent to workers, or a number is too small.
        """
        if size < 1:
            raise ValueError(f"A pool needs at least one slot, not {size}.")
        if workers is not None and workers < 0:
            raise ValueError(f"A pool has 0 workers or more, not {workers}.")
        if min(reset_timeout, step_timeout) <= 0:
            raise ValueError("reset_timeout and step_timeout are seconds above 0.")
        self.size = size
        self._answers: list[tuple[int, Any]] = []  # taken in, not yet handed out
        self._timeout = {"reset": reset_timeout, "step": step_timeout}
        self._slots = [_Slot(i) for i in range(size)]
        self._here = Local(make_env, limits) if workers == 0 else None
        self._to_play: deque[int] = deque()  # slots with a request, in this process
        self._homes: dict[str, int] = {}  # task -> the worker that last began it
        self._workers: list[Child] = []
        if workers != 0:
            parcel = pack(make_env, limits)
            count = min(workers or os.cpu_count() or 1, size)
            self._workers = [Child(i, parcel) for i in range(count)]
            for worker in self._workers:
                worker.start()
                self._restart_clock(worker)

    @property
    def pending(self) -> list[int]:
        """The slots that wait for an answer."""
        return [slot.index for slot in self._slots if slot.request is not None]

    @property
    def restarts(self) -> int:
        """How many times a worker was started again."""
        return sum(worker.starts - 1 for worker in self._workers)

    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def choose_slots(self, free: Sequence[int], tasks: Sequence[str]) -> list[int]:
        """A slot of `free` for each task, where its game is loaded if one can be had.

        Environments keep what they have loaded for the others of their process: a task
        goes to the worker that last began it, and equal tasks to one worker, as long as
        that has free slots. `free` are at least as many as the tasks.
        """
        left, homes = list(free), dict(self._homes)
        chosen: dict[int, int] = {}
        known = [place for place, task in enumerate(tasks) if task in homes]
        rest = [place for place, task in enumerate(tasks) if task not in homes]
        for place in known + rest:
            home = homes.get(tasks[place])
            at_home = (slot for slot in left if self._number(slot) == home)
            chosen[place] = slot = next(at_home, left[0])
            homes.setdefault(tasks[place], self._number(slot))
            left.remove(slot)
        return [chosen[place] for place in range(len(tasks))]

    def reset(self, slots: Sequence[int], tasks: Sequence[str]) -> list[Any]:
        """Starts a task in each slot; a `Reset` or a `Fault` each, in their order."""
        self.send_reset(slots, tasks)
        return self._wait(slots)

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Any]:
        """Plays an action in each slot; a `Step` or a `Fault` each, in their order."""
        self.send_step(slots, actions)
        return self._wait(slots)

    def send_reset(self, slots: Sequence[int], tasks: Sequence[str]) -> None:
        """Asks for a reset of each slot; `recv` gives (observation, info)."""
        self._send(slots, "reset", tasks)

    def send_step(self, slots: Sequence[int], actions: Sequence[str]) -> None:
        """Asks for a step of each slot; `recv` gives the five-tuple."""
        self._send(slots, "step", actions)

    def recv(self) -> list[tuple[int, Any]]:
        """Waits for the next answers.

        Returns:
          (slot, result) for each answer that is there, at least one.

        Raises:
          PoolError: the workers cannot load the environment, or one failed three
            times on the same request.
          Exception: what the environment raised, with the slot and the task named.
        """
        if not self.pending and not self._answers:
            raise RuntimeError("No slot waits for an answer: send a request first.")
        if self._here is not None and not self._answers:
            self._play_here()
        while not self._answers:
            busy = [worker for worker in self._workers if worker.queue]
            left = min(worker.deadline for worker in busy) - time.monotonic()
            ready = connections.wait(
                [worker.connection for worker in busy], max(0.0, left)
            )
            for worker in busy:
                if worker.connection in ready:
                    self._read(worker)
                elif time.monotonic() > worker.deadline:
                    self._recover(worker, "did not answer in time")
        answers, self._answers = self._answers, []
        return answers

    def close(self) -> None:
        """Ends all workers; the pool cannot be used afterwards."""
        if self._here is not None:
            self._here.close()
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.end()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _number(self, slot: int) -> int:
        return slot % max(1, len(self._workers))

    def _worker(self, slot: int) -> Child:
        return self._workers[self._number(slot)]

    def _send(self, slots, name, arguments) -> None:
        if len(slots) != len(arguments) or len(set(slots)) != len(slots):
            raise ValueError("Give one task or action for each slot, each slot once.")
        for index in slots:
            slot = self._slots[index]
            if slot.request is not None:
                raise RuntimeError(f"Slot {index} still waits for an answer: recv it.")
            if name == "step" and slot.task is None:
                raise RuntimeError(f"Slot {index} plays no episode: reset it first.")
        batches: dict[int, list] = {}
        for index, argument in zip(slots, arguments, strict=True):
            slot = self._slots[index]
            slot.request = (name, argument)
            if name == "reset":
                slot.task, slot.actions = argument, []
                self._homes[argument] = self._number(index)
            if self._here is not None:
                self._to_play.append(index)
                continue
            batch = batches.setdefault(self._number(index), [])
            batch.append((index, name, argument))
        for number, batch in batches.items():
            self._post(self._workers[number], batch)

    def _post(self, worker, batch) -> None:
        idle = not worker.queue
        worker.queue.extend(batch)
        if idle:
            self._restart_clock(worker)
        worker.send(batch)

    def _play_here(self) -> None:
        """Answers the oldest request in this process; what goes wrong is raised."""
        assert self._here is not None
        slot = self._slots[self._to_play.popleft()]
        name, argument = slot.request
        try:
            result = self._here.play(slot.index, name, argument)
        except Exception as error:
            error.add_note(f"slot {slot.index}, {name} of {slot.task}")
            slot.request = slot.task = None
            raise
        slot.finish(result)
        self._answers.append((slot.index, result))

    def _wait(self, slots) -> list:
        """Takes the answers of `slots`; an error is raised when all have answered."""
        results: dict[int, Any] = {}
        others, failure = [], None
        while any(self._slots[index].request for index in slots) or self._answers:
            try:
                for index, result in self.recv():
                    if index in slots:
                        results[index] = result
                    else:
                        others.append((index, result))
            except PoolError:
                raise
            except Exception as error:
                failure = failure or error
        self._answers = others
        if failure is not None:
            raise failure
        return [results[index] for index in slots]

    def _restart_clock(self, worker) -> None:
        """Gives the request at the head of the queue its time from now on."""
        if worker.queue:
            _, name, argument = worker.queue[0]
            if name == "start":
                allowed = self._timeout["reset"]
            elif name == "replay":
                allowed = self._timeout["reset"]
                allowed += len(argument[1]) * self._timeout["step"]
            else:
                allowed = self._timeout[name]
            worker.deadline = time.monotonic() + allowed

    def _read(self, worker) -> None:
        """Takes in all answers that are there."""
        while worker.queue:
            try:
                if not worker.connection.poll():
                    return
                index, error, result = worker.connection.recv()
            except (EOFError, OSError):
                self._recover(worker, "died")
                return
            except Exception as unread:  # an answer's parts are of a kind unknown here
                index, error = worker.queue[0][0], None
                result = Fault(f"the answer cannot be read ({type(unread).__name__})")
            _, name, _ = worker.queue.popleft()
            self._restart_clock(worker)
            if name == "start":
                self._check_start(worker, error)
                continue
            slot = self._slots[index]
            if isinstance(result, Fault):
                result = dataclasses.replace(result, worker=worker.index)
            if error is not None:
                self._raise(worker, slot, name, error)
            elif name == "replay":
                self._check_replay(worker, slot, result)
            else:
                slot.finish(result)
                self._answers.append((index, result))

    def _check_start(self, worker, error) -> None:
        worker.failures = 0
        if error is None:
            return
        self.close()
        kind, text = error
        raise PoolError(
            f"worker processes cannot load the environment ({kind}: {text}): let "
            "make_env be something that a module defines, or play in this process "
            "(workers=0; of a run, world.in_process)."
        )

    def _check_replay(self, worker, slot, observation) -> None:
        if observation != slot.observation:
            raise PoolError(
                f"Worker {worker.index} played slot {slot.index} again and came to "
                f"another state: the environment is not deterministic ({slot.task})."
            )

    def _raise(self, worker, slot, name, error) -> None:
        where = f"(slot {slot.index}, worker {worker.index}, {name} of {slot.task})"
        slot.request = slot.task = None
        kind = getattr(builtins, error[0], RuntimeError)
        if kind in (ValueError, FileNotFoundError, RuntimeError):
            raise kind(f"{error[1]} {where}")
        raise RuntimeError(f"{error[0]}: {error[1]} {where}")

    def _recover(self, worker, what) -> None:
        """Starts a worker again, plays its episodes again, repeats its requests."""
        index, name, _ = worker.queue[0]
        culprit = worker if name == "start" else self._slots[index]
        culprit.failures += 1
        if culprit.failures > _RESTARTS:
            raise PoolError(self._given_up(worker, what))
        worker.end(kill=True)
        waiting = [i for i in worker.queue if i[1] not in ("start", "replay")]
        starting = {i for i, item, _ in waiting if item == "reset"}
        replays = [
            (slot.index, "replay", (slot.task, tuple(slot.actions)))
            for slot in self._slots
            if slot.task is not None
            and slot.index not in starting
            and self._worker(slot.index) is worker
        ]
        worker.queue.clear()
        worker.start()
        self._restart_clock(worker)
        if replays or waiting:
            self._post(worker, replays + waiting)

    def _given_up(self, worker, what) -> str:
        index, name, argument = worker.queue[0]
        if name == "start":
            return (
                f"Worker {worker.index} {what} {worker.failures} times before it could "
                "play: see what it wrote above."
            )
        slot = self._slots[index]
        doing = f"action {argument!r}" if name == "step" else name
        return (
            f"Worker {worker.index} {what} {slot.failures} times at slot {index}, "
            f"{doing}, turn {len(slot.actions)} of task {slot.task}: take this task "
            "out of the run."
        )


class _Slot:
    """What the pool knows of one slot: enough to play its episode again."""

    def __init__(self, index):
        self.index = index
        self.task = None  # None: no episode is under way
        self.actions = []
        self.observation = None
        self.request: Any = None  # ("reset" or "step", its argument)
        self.failures = 0

    def finish(self, result) -> None:
        name, argument = self.request
        self.request, self.failures = None, 0
        if isinstance(result, Fault):
            self.task = None
            return
        self.observation = result[0]
        if name == "step":
            self.actions.append(argument)
            if result[2] or result[3]:
                self.task = None
