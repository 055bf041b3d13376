"""TrainState -> Orbax checkpoints, written while the program goes on.

The program waits until a state has been copied off the devices. Then threads write it,
on every host its part. The last thing that happens is what makes it count: a manifest
and a name, given by the first host once all parts are there. Hosts agree on that by
barriers of JAX's coordination service, which no collective of the devices disturbs.
"""

import contextlib
import errno
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hiper_jax.hosts import Hosts
from hiper_jax.workdir import carried, checked, checked_store
from hiper_jax.workdir.atomic import PARTIAL, guarded
from hiper_jax.workdir.behind import Behind
from hiper_jax.workdir.checkpoint_folder import (
    SEALED,
    Root,
    first_of,
    hush,
    inside,
    leaves_of,
    orbax,
    remove,
    root_of,
    steps_of,
    sweep,
    writing,
)

_BESIDE = 1 << 17  # bytes of metadata and what else is beside the state
_WAIT = 1800.0  # seconds that a checkpoint may take, where no hosts say another number


def save(
    run,
    step: int,
    state: Any,
    extra: Any = None,
    *,
    keep: int = 2,
    keep_every: int = 0,
    hosts: Hosts | None = None,
) -> None:
    """Writes a checkpoint, then removes all but the `keep` newest.

    Args:
      run: the run's folder.
      step: updates done; saving a step again replaces it.
      state: a pytree of arrays.
      extra: anything that JSON holds.
      keep: checkpoints kept; 0 keeps all.
      keep_every: steps that are multiples of it stay as well; 0 for none.
      hosts: the processes that hold the state together, all of which save it; each
        writes its own parts, so that the folder must be on a disk that all share.

    Raises:
      OSError: the disk is full; older checkpoints stay as they were.
      ValueError: a number of the state is not finite; or see `check_writers`.
    """
    saver = Saver(run, extra, keep=keep, keep_every=keep_every, hosts=hosts)
    saver.begin(step, state)
    saver.wait()


class Saver:
    """Writes the checkpoints of a run, one at a time, while the run goes on."""

    def __init__(
        self,
        run,
        extra: Any = None,
        *,
        keep: int = 2,
        keep_every: int = 0,
        hosts: Hosts | None = None,
        check: Callable[[], Any] = lambda: None,
    ):
        """
        Args:
          run, extra, keep, keep_every, hosts: see `save`.
          check: raises where the run's folder is no longer this program's; asked by the
            first host before a checkpoint counts.
        """
        carried.check_writers(root_of(run), hosts)
        self._run, self._extra, self._hosts, self._check = run, extra, hosts, check
        self._keep, self._keep_every = keep, keep_every
        self._wait = _WAIT if hosts is None else hosts.wait
        self._now: Behind | None = None
        self.step: int | None = None
        """Of the checkpoint that was begun last."""

    def begin(self, step: int, state: Any) -> None:
        """Copies a state off the devices and begins to write it; all hosts call it.

        Waits first for the checkpoint before it. The state may change or be donated as
        soon as this has returned.

        Raises:
          See `save`, and `wait`, of the checkpoint before it.
        """
        self.wait()
        leaves = leaves_of(state)
        _check_finite(self._run, step, leaves)
        root = root_of(self._run)
        carries = carried.is_carried(root)
        here = carried.stage(self._run) if carries else root  # where Orbax writes it
        # In a store nothing can be renamed: what has no manifest yet counts as not
        # there.
        in_place = isinstance(here, str)
        final = inside(root, f"{step:08d}")
        partial = final if in_place else inside(here, f"{step:08d}{PARTIAL}")
        beside = {"json": self._extra, SEALED: True}
        try:
            name = first_of(self._hosts)(
                "a checkpoint's folder", lambda: _clear(root, final, here, leaves)
            )
            speak = hush()
            with writing(root), orbax(in_place, self._wait) as ocp:
                written = ocp.save_checkpointables_async(
                    partial, {"state": leaves, "extra": beside}
                )
        except BaseException:
            self._sweep(root, here)
            raise

        def work() -> None:
            try:
                with writing(root):
                    written.result()
                    if carries:
                        carried.send(partial, final)
                if self._writes:
                    self._finish(root, partial, final)
                if self._hosts is not None:
                    self._hosts.after_first(name)
            except BaseException:
                self._sweep(root, here)
                raise
            if carries:
                sweep(here)
            speak()

        what = f"the checkpoint of step {step} in {root}"
        self._now, self.step = Behind(what, work, self._hosts), step

    def check(self) -> None:
        """Raises what went wrong with the checkpoint that is being written, if any."""
        if self._now is not None:
            self._now.check()

    def wait(self) -> None:
        """Waits until the checkpoint that is being written counts.

        Raises:
          OSError: it cannot be written, or not in time; older ones stay as they were.
          HostError: another host has failed.
        """
        if self._now is None:
            return
        try:
            self._now.wait(self._wait)
        except Exception:
            self._now = None  # over, or given up
            raise
        self._now = None

    def settle(self) -> None:
        """`wait`, for whoever has failed already: raises nothing of it."""
        with contextlib.suppress(Exception):
            self.wait()

    @property
    def _writes(self) -> bool:
        return self._hosts is None or self._hosts.writes

    def _finish(self, root: Root, partial: Any, final: Any) -> None:
        """Has the checkpoint count, once all of it is written; then old ones may go."""
        self._check()
        if isinstance(final, str):
            checked_store.seal(final)
        else:
            with guarded(root):
                checked.seal(partial)
                remove(final)
                os.replace(partial, final)
        for old in steps_of(self._run)[: -self._keep] if self._keep else ():
            if not self._keep_every or old % self._keep_every:
                remove(inside(root, f"{old:08d}"))

    def _sweep(self, *roots: Root) -> None:
        if self._writes:
            sweep(*roots)


def _clear(root: Root, final: Any, here: Root, leaves: Mapping[str, Any]) -> str:
    """Makes room for a checkpoint; returns a name that no other has."""
    sweep(root, here)
    if isinstance(root, str):
        checked_store.remove(str(final))
    if not isinstance(here, str):
        with guarded(here):
            here.mkdir(parents=True, exist_ok=True)
            _check_room(here, leaves)
    return f"a checkpoint's end {secrets.token_hex(8)}"


def _check_room(root: pathlib.Path, leaves: Mapping[str, Any]) -> None:
    """Raises OSError where a checkpoint cannot be written, or not all of it.

    Once one of its writes has failed, Orbax leaves threads behind that wait for that
    one for minutes, and keep the process from ending.
    """
    probe = root / f"probe-{os.getpid()}{PARTIAL}"
    probe.mkdir()
    probe.rmdir()
    needed = sum(leaf.nbytes for leaf in leaves.values())  # of all hosts
    with contextlib.suppress(FileNotFoundError):  # no folder of this machine's
        if shutil.disk_usage(root).free < needed + _BESIDE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _check_finite(run, step: int, leaves: Mapping[str, Any]) -> None:
    """Raises ValueError where a number of the state is not finite."""
    floats = {k: v for k, v in leaves.items() if jnp.issubdtype(v.dtype, jnp.inexact)}
    finite = jax.device_get({name: _all_finite(leaf) for name, leaf in floats.items()})
    if broken := [name for name, fine in finite.items() if not fine]:
        raise ValueError(
            f"the state after step {step} is not saved in {run}: {broken[0]} and "
            f"{len(broken) - 1} other parts are not finite; go on from the checkpoint "
            "before it"
        )


@jax.jit
def _all_finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()
