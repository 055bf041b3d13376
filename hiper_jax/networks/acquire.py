"""A model's name, its folder or its path in a store -> the folder on this disk."""

import os
import pathlib

from hiper_jax import _store
from hiper_jax.lm.model_folder import find_folder

# What a run has beside its model and its settings.
_OF_RUNS = ("checkpoints", "data", "episodes", "eval", "profile", "report")
_OF_RUNS += ("tensorboard", "wandb", ".lock")


def find_model(name: str | os.PathLike) -> pathlib.Path:
    """Finds a model's folder; of a path such as gs://BUCKET/PATH a copy is made.

    Args:
      name: see `lm.model_folder.find_folder`; or the path of a model, or of a run, in a
        store.

    Returns:
      The folder; the name itself if there is none.

    Raises:
      FileNotFoundError, OSError, ImportError, ValueError: it is of a store, and cannot
        be read there.
    """
    text = str(name)
    return (
        _store.fetched(text, _of_model) if _store.is_remote(text) else find_folder(name)
    )


def _of_model(name: str) -> bool:
    """Whether a file of a run or of a model is what a model is read from."""
    return name.partition("/")[0] not in _OF_RUNS
