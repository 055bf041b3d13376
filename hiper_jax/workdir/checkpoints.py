"""Orbax checkpoints -> TrainState: whole, exact, onto any placement."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

from hiper_jax.hosts import Hosts
from hiper_jax.workdir import carried, checked, checked_store
from hiper_jax.workdir.checkpoint_folder import (
    SEALED,
    first_of,
    inside,
    leaves_of,
    orbax,
    put_aside,
    root_of,
    steps_of,
)


def latest_step(run) -> int | None:
    """The newest whole checkpoint's step, or None."""
    return max(steps_of(run), default=None)


def restore(
    run,
    like: Any,
    step: int | None = None,
    *,
    only: Collection[str] | None = None,
    hosts: Hosts | None = None,
) -> tuple[Any, Any]:
    """Reads a checkpoint, or parts of it, into the shape, dtype and sharding of `like`.

    Args:
      run: the run's folder.
      like: a pytree of arrays as saved, or of their `jax.ShapeDtypeStruct`s; one
        without a sharding goes to the first device.
      step: which; None is the newest.
      only: the parts to read, such as "actor"; nothing is read or allocated for the
        others, whose leaves stay those of `like`. None: all.
      hosts: the processes among which `like` is divided, all of which restore it; they
        may be others, and more or fewer, than those that saved it.

    Returns:
      The state and what was saved beside it.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: it holds other names or shapes, or `like` has no such part.
      Damaged: it is not there as it was written.
    """
    step = latest_step(run) if step is None else step
    if step not in steps_of(run):
        raise FileNotFoundError(
            f"{run} holds no checkpoint{'' if step is None else f' of step {step}'}; "
            f"it has {steps_of(run) or 'none'}"
        )
    path = inside(root_of(run), f"{step:08d}")
    want = leaves_of(like)
    sealed = _checked(path, hosts)
    with carried.brought(run, path) as place:
        state, extra = _read(path, place, want, only, sealed)
    leaves = [state.get(name, leaf) for name, leaf in want.items()]
    return jax.tree.structure(like).unflatten(leaves), extra


def _read(
    path,
    place,
    want: dict[str, Any],
    only: Collection[str] | None,
    sealed: bool,
) -> tuple[Mapping[str, Any], Any]:
    """The leaves of a checkpoint, by name, and what was saved beside them.

    Args:
      path: the checkpoint, for messages.
      place: where Orbax reads it.
      want: all leaves of the state, or what they look like.
      only: see `restore`.
      sealed: whether it has a manifest.
    """
    with _readable(path), orbax() as ocp:
        have = ocp.checkpointables_metadata(place).metadata["state"]
    _check_shapes(path, want, have)
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or first
        )
        for name, leaf in _parts(want, only).items()
    }
    with _readable(path), orbax() as ocp:
        # One by one: where one fails, Orbax warns of the other.
        beside = ocp.load_checkpointables(place, {"extra": None})["extra"]
        if beside.get(SEALED) and not sealed:
            raise checked.Damaged(f"{path} is damaged: {checked.MANIFEST} is gone")
        state = ocp.load_checkpointables(place, {"state": abstract})["state"]
    return state, beside["json"]


def restore_newest(
    run,
    like: Any,
    *,
    only: Collection[str] | None = None,
    set_aside: bool = True,
    say: Callable[[str], Any] = lambda line: None,
    hosts: Hosts | None = None,
) -> tuple[Any, Any]:
    """Reads the newest checkpoint that is whole; see `restore`.

    Args:
      run: the run's folder.
      like, only: see `restore`.
      set_aside: whether damaged ones that are newer get another name, for whoever goes
        on with the run comes to their steps again.
      say: is told of each that is damaged.
      hosts: see `restore`.

    Raises:
      FileNotFoundError, ValueError: see `restore`.
      Damaged: none is whole.
    """
    damaged: list[int] = []
    first = first_of(hosts)
    for step in first("the checkpoints", lambda: steps_of(run))[::-1] or [None]:
        try:
            found = restore(run, like, step, only=only, hosts=hosts)
        except checked.Damaged as error:
            assert step is not None
            damaged.append(step)
            say(f"{error}; looking at the one before it")
            continue
        if set_aside:
            first("damaged checkpoints", functools.partial(put_aside, run, damaged))
        return found
    raise checked.Damaged(
        f"{run} is damaged: none of its checkpoints is whole; begin again in another "
        "folder"
    )


def _checked(path: pathlib.Path | str, hosts: Hosts | None) -> bool:
    """`checked.check` by the first host for all; raises `Damaged` on all."""

    def look() -> list[Any]:
        try:
            if isinstance(path, str):
                return [checked_store.check(path), ""]
            return [checked.check(path), ""]
        except checked.Damaged as error:
            return [False, str(error)]

    sealed, line = first_of(hosts)("a manifest", look)
    if line:
        raise checked.Damaged(line)
    return sealed


def _check_shapes(path, want: Mapping[str, Any], have: Mapping[str, Any]) -> None:
    """Raises ValueError where names or shapes differ."""
    for name in [*want, *(n for n in have if n not in want)]:
        mine = tuple(want[name].shape) if name in want else "nothing"
        saved = tuple(have[name].shape) if name in have else "nothing"
        if mine != saved:
            raise ValueError(
                f"{path} does not fit these settings: {name} is {saved} there and "
                f"{mine} here; use the model and settings the run was started with"
            )


def _parts(leaves: dict[str, Any], only: Collection[str] | None) -> dict[str, Any]:
    """The leaves whose names begin with one of the parts."""
    if only is None:
        return leaves
    known = {name.split(".")[0] for name in leaves}
    if strange := sorted(set(only) - known):
        raise ValueError(
            f"the state has no part {strange[0]!r}; choose {', '.join(sorted(known))}"
        )
    return {k: leaf for k, leaf in leaves.items() if k.split(".")[0] in only}


@contextlib.contextmanager
def _readable(path):
    """Says in one line that a checkpoint is damaged."""
    try:
        yield
    except checked.Damaged:
        raise
    except Exception as error:
        raise checked.Damaged(
            f"{path} is damaged ({type(error).__name__} where it is read)"
        ) from error
