"""GGUF files, dequantised once into a Hugging Face directory, tokenizer included."""

import functools
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from hiper_jax.lm import gguf, gguf_tokenizer, qwen, safetensors
from hiper_jax.lm.config import LMConfig
from hiper_jax.lm.families import Family, family_of, make_config
from hiper_jax.lm.hf_config import to_hf
from hiper_jax.lm.staged import staged
from hiper_jax.lm.tensor_files import write_record
from hiper_jax.lm.tensor_layout import check_tensors, layout, stored_name


def locate(source: str) -> Path:
    """Finds a GGUF file by its path, or by the name of an installed package.

    A package is only looked into, never imported.

    Raises:
      FileNotFoundError: if neither is there.
      ValueError: if a package holds several.
    """
    if Path(source).is_file():
        return Path(source)
    spec = importlib.util.find_spec(source) if source.isidentifier() else None
    folders = (spec and spec.submodule_search_locations) or []
    found = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not found:
        raise FileNotFoundError(
            f"There is no file {source}, nor an installed package of that name that "
            "holds a .gguf file."
        )
    if len(found) > 1:
        raise ValueError(f"{source} holds several GGUF files; name one: {found}.")
    return found[0]


def read_config(
    fields: Mapping[str, Any], tensors: Mapping[str, gguf.Tensor]
) -> LMConfig:
    """Reads the shape of the model from the metadata."""
    family = fields.get("general.architecture")
    if not isinstance(family, str):
        raise ValueError("The GGUF file lacks general.architecture; fetch another.")
    field = functools.partial(_field, fields, family)
    if f"{family}.rope.scaling.type" in fields or "rope_freqs.weight" in tensors:
        raise ValueError("GGUF files with rope scaling are not read here; use HF's.")
    names = family_of(family).whole
    if names["embed"].ggml not in tensors:
        raise ValueError(f"The GGUF file lacks {names['embed'].ggml}; fetch another.")
    width, num_heads = field("embedding_length"), field("attention.head_count")
    return make_config(
        family,
        vocab_size=tensors[names["embed"].ggml].shape[0],
        width=width,
        depth=field("block_count"),
        num_heads=num_heads,
        num_kv_heads=field("attention.head_count_kv", num_heads),
        head_dim=field("attention.key_length", width // num_heads),
        mlp_width=field("feed_forward_length"),
        tied=names["head"].ggml not in tensors,
        rope_theta=field("rope.freq_base", 10000.0),
        # Stored as float32: back to the decimal that was meant.
        rms_eps=float(f"{field('attention.layer_norm_rms_epsilon'):.6g}"),
        max_positions=field("context_length"),
    )


def _field(
    fields: Mapping[str, Any], family: str, name: str, default: Any = None
) -> Any:
    found = fields.get(f"{family}.{name}", default)
    if type(found) not in (int, float) or not found > 0:
        lacks = "lacks" if found is None else f"has {found!r} for"
        raise ValueError(f"The GGUF file {lacks} {family}.{name}; fetch another.")
    return found


def convert(
    source: str | os.PathLike, target: str | os.PathLike, *, dtype: Any = jnp.float32
) -> LMConfig:
    """Writes a GGUF file as a Hugging Face directory, tokenizer included.

    Args:
      source: the .gguf file.
      target: the directory; made if it is not there.
      dtype: stored type of the weights; float32 is exact.

    Returns:
      the shape of the model.

    Raises:
      ValueError: naming the file, if it cannot be read.
    """
    fields, tensors = gguf.read(source)
    try:
        return _convert(fields, tensors, Path(target), dtype)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _convert(
    fields: Mapping[str, Any], tensors: Mapping[str, gguf.Tensor], target: Path, dtype
) -> LMConfig:
    """`convert` of what a file holds."""
    config = read_config(fields, tensors)
    family = family_of(config.family)
    table = layout(config, qwen.abstract(config))
    by_name = {_hf_name(family, name): tensor for name, tensor in tensors.items()}
    check_tensors(by_name, table, frozenset())
    paired = {}
    if family.ggml_pairs:
        paired = {"q": config.num_heads, "k": config.num_kv_heads}
    entries = [
        (
            name,
            by_name[name].shape,
            functools.partial(_fetch, by_name[name], paired.get(place.leaf)),
        )
        for name, place in table.items()
    ]
    ends = gguf_tokenizer.end_tokens(fields)
    stored = to_hf(config) | {"torch_dtype": str(jnp.dtype(dtype))} | ends
    with staged(target, replacing="model*.safetensors*") as place:
        settings = gguf_tokenizer.write_tokenizer(fields, place)
        safetensors.write_file(place / "model.safetensors", entries, dtype)
        write_record(place / "config.json", stored)
        write_record(place / "generation_config.json", ends)
        write_record(place / "tokenizer_config.json", settings)
    return config


def _hf_name(family: Family, name: str) -> str:
    """Hugging Face's name of a ggml tensor; unknown names stay as they are."""
    if not name.startswith("blk."):
        known = {names.ggml: names.hf for names in family.whole.values()}
        return known.get(name, name)
    _, layer, part = name.split(".", 2)
    ours = {names.ggml: leaf for leaf, names in family.layer.items()}
    if part not in ours:
        return f"model.layers.{layer}.{part}"
    return stored_name(family, ours[part], int(layer))


def _fetch(tensor: gguf.Tensor, heads: int | None) -> np.ndarray:
    """The float32 array; `heads` if its rows are neighbouring rotary pairs."""
    array = tensor.dequantise()
    return array if heads is None else _halves(array, heads)


def _halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Undoes ggml's order of rotary pairs: neighbours become two halves."""
    pairs = array.reshape(heads, -1, 2, array.shape[-1])
    return pairs.swapaxes(1, 2).reshape(array.shape)
