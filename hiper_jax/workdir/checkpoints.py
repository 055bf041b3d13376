"""TrainState <-> Orbax checkpoints: whole, exact, onto any placement."""

import contextlib
import errno
import functools
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from hiper_jax import _store
from hiper_jax.hosts import Hosts
from hiper_jax.workdir import checked, checked_store
from hiper_jax.workdir.atomic import PARTIAL, guarded

_BESIDE = 1 << 17  # bytes of metadata and what else is beside the state
_SEALED = "sealed"  # beside the state: a manifest was written


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
      ValueError: a number of the state is not finite.
    """
    leaves = _leaves(state)
    _check_finite(run, step, leaves)
    root, first = _root(run), _first(hosts)
    # In a store nothing can be renamed: what has no manifest yet counts as not there.
    partial = _in(root, f"{step:08d}{'' if isinstance(root, str) else PARTIAL}")
    final = _in(root, f"{step:08d}")

    def begin() -> None:
        _sweep(root)
        if isinstance(root, str):
            return checked_store.remove(str(final))
        with guarded(root):
            root.mkdir(parents=True, exist_ok=True)
            _check_room(root, leaves)

    def finish() -> None:
        if isinstance(final, str):
            checked_store.seal(final)
        else:
            with guarded(root):
                checked.seal(partial)
                _remove(final)
                os.replace(partial, final)
        for old in _steps(run)[:-keep] if keep else ():
            if not keep_every or old % keep_every:
                _remove(_in(root, f"{old:08d}"))

    try:
        first("a checkpoint's folder", begin)
        with _writing(root), _orbax(in_store=isinstance(root, str)) as ocp:
            beside = {"json": extra, _SEALED: True}
            ocp.save_checkpointables(partial, {"state": leaves, "extra": beside})
        first("a checkpoint's end", finish)
    except BaseException:
        if hosts is None or hosts.writes:
            _sweep(root)
        raise


def latest_step(run) -> int | None:
    """The newest whole checkpoint's step, or None."""
    return max(_steps(run), default=None)


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
    if step not in _steps(run):
        raise FileNotFoundError(
            f"{run} holds no checkpoint{'' if step is None else f' of step {step}'}; "
            f"it has {_steps(run) or 'none'}"
        )
    path = _in(_root(run), f"{step:08d}")
    want = _leaves(like)
    sealed = _checked(path, hosts)
    with _readable(path), _orbax() as ocp:
        have = ocp.checkpointables_metadata(path).metadata["state"]
    _check_shapes(path, want, have)
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or first
        )
        for name, leaf in _parts(want, only).items()
    }
    with _readable(path), _orbax() as ocp:
        # One by one: where one fails, Orbax warns of the other.
        beside = ocp.load_checkpointables(path, {"extra": None})["extra"]
        extra = beside["json"]
        if beside.get(_SEALED) and not sealed:
            raise checked.Damaged(f"{path} is damaged: {checked.MANIFEST} is gone")
        state = ocp.load_checkpointables(path, {"state": abstract})["state"]
    leaves = [state.get(name, leaf) for name, leaf in want.items()]
    return jax.tree.structure(like).unflatten(leaves), extra


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
    first = _first(hosts)
    for step in first("the checkpoints", lambda: _steps(run))[::-1] or [None]:
        try:
            found = restore(run, like, step, only=only, hosts=hosts)
        except checked.Damaged as error:
            assert step is not None
            damaged.append(step)
            say(f"{error}; looking at the one before it")
            continue
        if set_aside:
            first("damaged checkpoints", functools.partial(_set_aside, run, damaged))
        return found
    raise checked.Damaged(
        f"{run} is damaged: none of its checkpoints is whole; begin again in another "
        "folder"
    )


def _first(hosts: Hosts | None) -> Callable[[str, Callable[[], Any]], Any]:
    """`Hosts.first`; of one host it is the work itself."""
    return (lambda what, work: work()) if hosts is None else hosts.first


def _checked(path: pathlib.Path | str, hosts: Hosts | None) -> bool:
    """`checked.check` by the first host for all; raises `Damaged` on all."""

    def look() -> list[Any]:
        try:
            if isinstance(path, str):
                return [checked_store.check(path), ""]
            return [checked.check(path), ""]
        except checked.Damaged as error:
            return [False, str(error)]

    sealed, line = _first(hosts)("a manifest", look)
    if line:
        raise checked.Damaged(line)
    return sealed


def _set_aside(run, damaged: Sequence[int]) -> None:
    for bad in damaged:
        folder = _in(_root(run), f"{bad:08d}")
        if isinstance(folder, str):
            checked_store.set_aside(folder)
            continue
        aside = folder.with_name(folder.name + ".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)


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


def _leaves(tree: Any) -> dict[str, Any]:
    """A flat mapping from path to array (or abstract array), in the tree's order."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@contextlib.contextmanager
def _orbax(in_store: bool = False) -> Iterator[Any]:
    """Orbax, silent, with `extra` as plain JSON; reads what is asked for only.

    Left to itself it writes JSON as arrays, which loses None and large integers, and
    logs the traceback of each of its threads when the disk is full.
    """
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.pytree.loading.partial_load = True
    context.checkpointables.registry = ocp.handlers.local_registry()
    context.checkpointables.registry.add(
        ocp.handlers.JsonHandler, checkpointable_name="extra"
    )
    if in_store:  # a rename there would copy, object by object
        context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    # After an error it stays silent: Orbax's other threads have yet to fail.
    with context:
        yield ocp
    log.setLevel(level)


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


def _remove(folder: pathlib.Path | str) -> None:
    """Removes a checkpoint; killed halfway, it leaves nothing that looks like one."""
    if isinstance(folder, str):
        return checked_store.remove(folder)
    if folder.exists():
        gone = folder.with_name(f"{folder.name}.old{PARTIAL}")
        os.replace(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _sweep(root: pathlib.Path | str) -> None:
    """Removes what a killed or failed write left; Orbax appends to our name."""
    if isinstance(root, str):
        return checked_store.sweep(root)
    for leftover in root.glob(f"*{PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _steps(run) -> list[int]:
    root = _root(run)
    if isinstance(root, str):
        return checked_store.steps(root)
    return sorted(int(p.name) for p in root.glob("*") if p.name.isdecimal())


def _root(run) -> pathlib.Path | str:
    """Where a run's checkpoints are: in its folder, or in a store."""
    if _store.is_remote(run):
        return f"{_store.named(run)}/checkpoints"
    root = pathlib.Path(run).resolve() / "checkpoints"
    try:
        at = (root / checked_store.AT).read_text()
    except OSError:
        return root
    return _store.named(at.strip())


def _in(root: pathlib.Path | str, name: str) -> Any:
    return f"{root}/{name}" if isinstance(root, str) else root / name


@contextlib.contextmanager
def _writing(root: pathlib.Path | str) -> Iterator[None]:
    """`guarded`; of a store, says in one line which did not take what is written."""
    if not isinstance(root, str):
        with guarded(root):
            yield
        return
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise OSError(
            f"a checkpoint cannot be written to {root} ({type(error).__name__}: "
            f"{said}); what was finished before is whole: go on with --resume"
        ) from error
