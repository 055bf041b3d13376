"""Folders that know when they are damaged: a checksum of every file in them."""

import hashlib
import json
import pathlib

from hiper_jax.workdir.atomic import write_json

MANIFEST = "manifest.json"


class Damaged(ValueError):
    """What was written is not there any more as it was written."""


def seal(folder: pathlib.Path) -> None:
    """Writes a manifest: size and checksum of every file, once all are there."""
    files = {
        str(file.relative_to(folder)): {
            "size": file.stat().st_size,
            "sha256": _digest(file),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    write_json(folder / MANIFEST, {"files": files})


def check(folder: pathlib.Path) -> bool:
    """Compares every file with the manifest.

    Returns:
      Whether there is one.

    Raises:
      Damaged: a file is gone, cut or changed, or the manifest is none.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return False
    try:
        files = json.loads(manifest.read_text())["files"]
        wanted = {name: (int(f["size"]), str(f["sha256"])) for name, f in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{folder} is damaged: its {MANIFEST} cannot be read") from None
    for name, (size, _) in wanted.items():
        if not (folder / name).is_file():
            raise Damaged(f"{folder} is damaged: {name} is gone")
        found = (folder / name).stat().st_size
        if found != size:
            raise Damaged(
                f"{folder} is damaged: {name} has {found} bytes, {size} were written"
            )
    for name, (_, digest) in wanted.items():
        if _digest(folder / name) != digest:
            raise Damaged(f"{folder} is damaged: {name} was changed")
    return True


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
