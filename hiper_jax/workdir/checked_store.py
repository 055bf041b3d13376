"""Checkpoints in an object store: whole once their manifest is there.

A store keeps checksums of its own and says them with every listing. They are what the
manifest holds, so that nothing is read twice.
"""

import json
from collections.abc import Mapping

from hiper_jax import _store
from hiper_jax.workdir.checked import MANIFEST, Damaged

AT = ".at"  # in checkpoints/ of a run's copy on a disk: where they are
_ASIDE = "manifest.damaged"


def seal(folder: str) -> None:
    """Writes a manifest: size and token of every object, once all are there."""
    files = {name: list(one) for name, one in _store.listed(folder).items()}
    text = json.dumps({"objects": files}, indent=1) + "\n"
    _store.write(f"{folder}/{MANIFEST}", text.encode())


def check(folder: str) -> bool:
    """Compares every object with the manifest.

    Returns:
      Whether there is one.

    Raises:
      Damaged: an object is gone or another, or the manifest is none.
    """
    found = _store.listed(folder)
    if MANIFEST not in found:
        return False
    try:
        said = json.loads(_store.read(f"{folder}/{MANIFEST}"))["objects"]
        wanted = {n: _store.Object(int(o[0]), str(o[1])) for n, o in said.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Damaged(f"{folder} is damaged: its {MANIFEST} cannot be read") from None
    for name, one in wanted.items():
        if name not in found:
            raise Damaged(f"{folder} is damaged: {name} is gone")
        if found[name].size != one.size:
            raise Damaged(
                f"{folder} is damaged: {name} has {found[name].size} bytes, {one.size} "
                "were written"
            )
        if found[name] != one:
            raise Damaged(f"{folder} is damaged: {name} was changed")
    return True


def steps(root: str) -> list[int]:
    """The steps of the checkpoints that are whole, in order."""
    return sorted(
        int(step)
        for step, names in _folders(root).items()
        if step.isdecimal() and MANIFEST in names
    )


def sweep(root: str) -> None:
    """Removes what a killed or failed write left: all that has no manifest."""
    for step, names in _folders(root).items():
        if MANIFEST not in names and _ASIDE not in names:
            _store.remove(f"{root}/{step}", sorted(names))


def remove(folder: str) -> None:
    """Removes a checkpoint; killed halfway, it leaves nothing that looks like one."""
    names = list(_store.listed(folder))
    if MANIFEST in names:
        _store.remove(folder, [MANIFEST])
    _store.remove(folder, [name for name in names if name != MANIFEST])


def set_aside(folder: str) -> None:
    """Has a damaged checkpoint count as none; what is left of it stays."""
    _store.write(f"{folder}/{_ASIDE}", _store.read(f"{folder}/{MANIFEST}"))
    _store.remove(folder, [MANIFEST])


def _folders(root: str) -> Mapping[str, set[str]]:
    """What lies in each folder right below a path."""
    found: dict[str, set[str]] = {}
    for name in _store.listed(root):
        folder, slash, rest = name.partition("/")
        if slash:
            found.setdefault(folder, set()).add(rest)
    return found
