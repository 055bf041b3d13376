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
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_config(path: str | os.PathLike, *, dtype: str = "float32") -> LMConfig:
    """Reads `config.json` of a model directory."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no config.json in {path}; name a Hugging Face model directory."
        )
    try:
        return from_hf(json.loads(file.read_bytes()), dtype=dtype)
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise ValueError(f"{file} lacks a number or holds another kind") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def open_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Maps the tensors of a model directory, from one file or from several.

    The files are those that `transformers` would take: model.safetensors counts alone,
    else those that the index names; what else lies there is not looked at.

    Raises:
      FileNotFoundError: if it holds no weights, or a file that its index names is gone.
      ValueError: if it holds pickles only, which run code and are never opened; or its
        index names no files of this folder.
    """
    path = Path(path)
    names = _chosen(path)
    tensors = {}
    for name in names:
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"{path / INDEX} names {name}, which is not there; fetch it."
            )
        tensors |= safetensors.read_file(path / name)
    return tensors


def _chosen(path: Path) -> list[str]:
    """Names of the files of weights."""
    if (path / WHOLE).is_file():
        return [WHOLE]
    if (path / INDEX).is_file():
        return _named_by(path / INDEX)
    others = sorted(file.name for file in path.glob("*.safetensors"))
    if others:
        raise FileNotFoundError(
            f"{path} holds {others[0]}, but neither {WHOLE} nor {INDEX}: name a folder "
            "with a whole model, or fetch what is missing"
        )
    pickles = [f.name for f in path.glob("*") if f.suffix in PICKLES]
    if pickles:
        raise ValueError(
            f"{path} holds {pickles[0]}, a pickle, which can run code when opened; "
            "convert it to safetensors."
        )
    raise FileNotFoundError(f"There is no *.safetensors file in {path}.")


def _named_by(index: Path) -> list[str]:
    """The files that an index names, each once."""
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{index} is no index of weights; fetch it again.") from None
    if outside or not names:
        raise ValueError(
            f"{index} names {outside[0] if outside else 'no file'}; it must name files "
            "beside it."
        )
    return sorted(names)


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    """Writes one of the folder's JSON files, whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(partial, file)
