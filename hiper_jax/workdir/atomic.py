"""Files that appear whole or not at all."""

import contextlib
import json
import os
import pathlib
from typing import Any

from hiper_jax._disk import guarded

__all__ = ["PARTIAL", "guarded", "write_bytes", "write_json", "write_text"]

PARTIAL = ".partial"


def write_bytes(path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    path = pathlib.Path(path)
    partial = path.with_name(path.name + PARTIAL)
    with guarded(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


def write_text(path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")
