"""A model's folder in Hugging Face's layout: its config, and its tensors as maps."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hiper_jax.lm import safetensors
from hiper_jax.lm.config import LMConfig
from hiper_jax.lm.hf_config import from_hf

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
INDEX = "model.safetensors.index.json"


def read_config(path: str | os.PathLike, *, dtype: str = "float32") -> LMConfig:
    """Reads `config.json` of a model directory."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no config.json in {path}; name a Hugging Face model directory."
        )
    return from_hf(json.loads(file.read_text()), dtype=dtype)


def open_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Maps the tensors of a model directory, from one file or from several.

    Raises:
      FileNotFoundError: if it holds no weights, or a file that its index names is gone.
      ValueError: if it holds pickles only; they run code and are never opened.
    """
    path = Path(path)
    index = path / INDEX
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = sorted(file.name for file in path.glob("*.safetensors"))
    if not names:
        pickles = [f.name for f in path.glob("*") if f.suffix in PICKLES]
        if pickles:
            raise ValueError(
                f"{path} holds {pickles[0]}, a pickle, which can run code when opened; "
                "convert it to safetensors."
            )
        raise FileNotFoundError(f"There is no *.safetensors file in {path}.")
    tensors = {}
    for name in names:
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"{index} names {name}, which is not there; fetch it."
            )
        tensors |= safetensors.read_file(path / name)
    return tensors


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    """Writes one of the folder's JSON files, whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(partial, file)
