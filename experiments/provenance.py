"""What made a result: commit, versions, machine."""

import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

PACKAGES = (
    "hiper-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
)


def provenance(name: str, seed: int, packages: Sequence[str] = ()) -> dict[str, Any]:
    """The facts a reader needs to make the result again.

    Args:
      name: of the preset.
      seed: of the run.
      packages: distributions that count besides those that every run uses.
    """
    versions = {}
    for package in (*PACKAGES, *packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "preset": name,
        "seed": seed,
        "commit": commit(),
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def commit() -> str:
    """The commit of the source tree, with `+` if it was changed; "" if unknown."""
    folder = pathlib.Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""
