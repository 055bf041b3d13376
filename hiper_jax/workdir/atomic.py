"""Files that appear whole or not at all; what a disk refuses is said in one line."""

import contextlib
import errno
import json
import os
import pathlib
from typing import Any

PARTIAL = ".partial"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


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


@contextlib.contextmanager
def guarded(folder):
    """Says in one line that the disk is full, or may not be written."""
    try:
        yield
    except (OSError, ValueError) as error:
        # Orbax's storage layer raises ValueError; the number is in its text only.
        code = getattr(error, "errno", None)
        for known in (*_FULL, *_CLOSED):
            if code is None and os.strerror(known) in str(error):
                code = known
        if code in _FULL:
            raise OSError(
                code,
                f"the disk of {folder} is full; what was finished before is whole: "
                "make room and go on with --resume",
            ) from None
        if code in _CLOSED:
            raise OSError(
                code,
                f"{folder} cannot be written ({os.strerror(code)}); what was finished "
                "before is whole: allow it or name another folder",
            ) from None
        raise
