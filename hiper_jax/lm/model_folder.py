"""A model's name -> its folder: a folder itself, or one in Hugging Face's cache."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where Hugging Face's tools keep what they fetch, by its variables."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(variable):
            return Path(environment[variable]).expanduser()
    home = environment.get("HF_HOME")
    if not home:
        home = Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def find_folder(name: str | os.PathLike) -> Path:
    """Finds a model's folder, offline.

    Args:
      name: a folder; or, where there is none of that name, that of a model on the hub,
        such as Qwen/Qwen2.5-0.5B-Instruct, of which the cache's main snapshot is taken.

    Returns:
      The folder; the name itself if it is neither.
    """
    text = str(name)
    if Path(name).exists() or not _NAME.fullmatch(text):
        return Path(name)
    kept = cache_folder() / f"models--{text.replace('/', '--')}"
    main = kept / "refs" / "main"
    if main.is_file():
        snapshot = kept / "snapshots" / main.read_text(errors="replace").strip("\0\n ")
        if snapshot.is_dir():
            return snapshot
    snapshots = [folder for folder in kept.glob("snapshots/*") if folder.is_dir()]
    return snapshots[0] if len(snapshots) == 1 else Path(name)


def how_to_get(name: str | os.PathLike) -> str:
    """What else to do about a model that is neither a folder nor in the cache."""
    text = str(name)
    if not _NAME.fullmatch(text) or "/" not in text:
        return ""
    return (
        f", or fetch it with `hf download {text}`: Hugging Face's cache, "
        f"{cache_folder()}, does not hold it"
    )
