"""Files that appear whole or not at all, and a full disk said in one line."""

import contextlib
import errno
import json
import os
import pathlib
from typing import Any

PARTIAL = ".partial"


def write_bytes(path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    with guarded(path.parent):
        try:
            partial.write_bytes(data)
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def write_text(path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def guarded(folder):
    """Says in one line that the disk is full."""
    try:
        yield
    except (OSError, ValueError) as error:
        # Orbax's storage layer raises ValueError; the number is in its text only.
        code = getattr(error, "errno", None)
        if "No space left on device" in str(error):
            code = errno.ENOSPC
        if code not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            code,
            f"the disk of {folder} is full; what was finished before is whole: make "
            "room and go on with --resume",
        ) from None
