"""Where the checkpoints of a run lie, and how Orbax is asked for them."""

import contextlib
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from hiper_jax import _store
from hiper_jax.hosts import Hosts
from hiper_jax.workdir import checked_store
from hiper_jax.workdir.atomic import PARTIAL, guarded

SEALED = "sealed"  # beside the state: a manifest was written

Root = pathlib.Path | str  # a folder of this disk, or a path of a store


def root_of(run) -> Root:
    """Where a run's checkpoints are: in its folder, or in a store."""
    if _store.is_remote(run):
        return f"{_store.named(run)}/checkpoints"
    root = pathlib.Path(run).resolve() / "checkpoints"
    try:
        at = (root / checked_store.AT).read_text()
    except OSError:
        return root
    return _store.named(at.strip())


def inside(root: Root, name: str) -> Any:
    """What lies there under a name."""
    return f"{root}/{name}" if isinstance(root, str) else root / name


def steps_of(run) -> list[int]:
    """The steps of the checkpoints that count, in order."""
    root = root_of(run)
    if isinstance(root, str):
        return checked_store.steps(root)
    return sorted(int(p.name) for p in root.glob("*") if p.name.isdecimal())


def remove(place: Root) -> None:
    """Removes a checkpoint; killed halfway, it leaves nothing that looks like one."""
    if isinstance(place, str):
        return checked_store.remove(place)
    if place.exists():
        gone = place.with_name(f"{place.name}.old{PARTIAL}")
        os.replace(place, gone)
        shutil.rmtree(gone, ignore_errors=True)


def sweep(*roots: Root) -> None:
    """Removes what a killed or failed write left; Orbax appends to our name."""
    for root in dict.fromkeys(roots):
        if isinstance(root, str):
            checked_store.sweep(root)
            continue
        for leftover in root.glob(f"*{PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)


def put_aside(run, damaged: Sequence[int]) -> None:
    """Gives damaged checkpoints another name."""
    for bad in damaged:
        place = inside(root_of(run), f"{bad:08d}")
        if isinstance(place, str):
            checked_store.set_aside(place)
            continue
        aside = place.with_name(place.name + ".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(place, aside)


def leaves_of(tree: Any) -> dict[str, Any]:
    """A flat mapping from path to array (or abstract array), in the tree's order."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def first_of(hosts: Hosts | None) -> Callable[[str, Callable[[], Any]], Any]:
    """`Hosts.first`; of one host it is the work itself."""
    return (lambda what, work: work()) if hosts is None else hosts.first


def hush() -> Callable[[], None]:
    """Silences Orbax; what is handed back lets it speak again.

    It logs the traceback of each of its threads when the disk is full. After an error
    it has to stay silent: its other threads have yet to fail.
    """
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    return lambda: log.setLevel(level)


@contextlib.contextmanager
def orbax(in_store: bool = False, wait: float | None = None) -> Iterator[Any]:
    """Orbax, silent, with `extra` as plain JSON; reads what is asked for only.

    Left to itself it writes JSON as arrays, which loses None and large integers.

    Args:
      in_store: it writes to a store.
      wait: seconds that it may write; None: its own.
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
    if wait is not None:
        context.asynchronous.timeout_secs = max(round(wait), 1)
    speak = hush()
    with context:
        yield ocp
    speak()


@contextlib.contextmanager
def writing(root: Root) -> Iterator[None]:
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
