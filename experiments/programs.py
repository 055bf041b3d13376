"""Compiled programs on disk: a second start of the same run compiles nothing.

JAX keeps what it compiles, once it is told where (its persistent compilation cache):
in `$HIPER_CACHE/programs`, by default `~/.cache/hiper_jax/programs`, a folder for each
kind of processor. JAX's own variables win: JAX_COMPILATION_CACHE_DIR names another
folder, JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing.
"""

import hashlib
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Callable

from hiper_jax._disk import cache_folder

FOLDER = "JAX_COMPILATION_CACHE_DIR"
OTHERS = ("JAX_ENABLE_COMPILATION_CACHE",)
# JAX leaves out what compiles within a second; a start has dozens of those.
FROM = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def keep_programs(say: Callable[[str], None]) -> None:
    """Has JAX keep what it compiles, unless somebody has decided already.

    By the environment, so that processes that are started inherit it.

    Args:
      say: told in one line where the folder cannot be written; the run goes on.
    """
    if any(name in os.environ for name in (FOLDER, *OTHERS)):
        return
    jax = sys.modules.get("jax")
    if jax is not None and jax.config.jax_compilation_cache_dir:
        return
    folder = default_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        say(
            f"note: compiled programs cannot be kept in {folder} ({error.strerror}), "
            "so every start compiles again; HIPER_CACHE names another folder"
        )
        return
    os.environ[FOLDER] = str(folder)
    os.environ.setdefault(FROM, "0")
    if jax is not None:
        jax.config.update(FOLDER.lower(), str(folder))
        jax.config.update(FROM.lower(), float(os.environ[FROM]))


def default_folder() -> pathlib.Path:
    """Where programs are kept that were compiled for this kind of processor.

    A home folder may be shared by machines that are not alike, and JAX's key does not
    tell their processors apart: code for one may stop on another.
    """
    kind = hashlib.sha256(_processor().encode()).hexdigest()[:8]
    name = f"{platform.machine() or 'unknown'}-{kind}"
    return cache_folder() / "programs" / name


def _processor() -> str:
    """What this processor can do, as Linux lists it; elsewhere its name."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    can = [x for x in lines if x.startswith(("flags", "Features", "model name"))]
    return "\n".join(sorted(set(can))) or platform.processor()
