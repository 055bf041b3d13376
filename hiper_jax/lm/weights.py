"""Weights between disk and devices, in Hugging Face's format, slice by slice."""

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hiper_jax.lm import qwen, safetensors
from hiper_jax.lm import value_heads as heads
from hiper_jax.lm.config import LMConfig
from hiper_jax.lm.families import family_of
from hiper_jax.lm.hf_config import to_hf
from hiper_jax.lm.params import Params, ParamSpec
from hiper_jax.lm.staged import staged
from hiper_jax.lm.tensor_files import INDEX, open_tensors, read_config, write_record
from hiper_jax.lm.tensor_layout import (
    VALUE,
    Tensor,
    check_tensors,
    layout,
    to_ours,
    to_theirs,
)

__all__ = ["load", "load_critic", "owns_trunk", "read_config", "save", "write_record"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
TEMPLATES = "additional_chat_templates"  # a folder of them, by name
HEADS_ONLY = ["ValueHeads"]


def load(
    path: str | os.PathLike,
    config: LMConfig,
    *,
    dtype: Any = jnp.float32,
    shardings: Params | None = None,
) -> Params:
    """Reads a language model, each device's slice straight to its place.

    Args:
      path: a Hugging Face model directory with safetensors.
      config: from `read_config`.
      dtype: of the weights in memory; any float type on disk is read.
      shardings: a tree of shardings, see `sharding.shardings`; None: one device.

    Raises:
      FileNotFoundError, ValueError: if a tensor is missing, has the wrong shape or is
        not part of the model.
    """
    tensors, specs = open_tensors(path), qwen.abstract(config)
    # A tied model's files may hold the head all the same.
    known = {_head(config)} if config.tied else set()
    with _named(path):
        return fill(tensors, config, specs, dtype, shardings, known)


def _head(config: LMConfig) -> str:
    return family_of(config.family).whole["head"].hf


def owns_trunk(path: str | os.PathLike) -> bool:
    """Whether a critic's directory holds a backbone, not value heads only."""
    file = Path(path) / "config.json"
    try:
        return json.loads(file.read_bytes()).get("architectures") != HEADS_ONLY
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(f"{file} holds no JSON object; fetch it again") from None


def load_critic(
    path: str | os.PathLike,
    config: LMConfig,
    *,
    dtype: Any = jnp.float32,
    shardings: Params | None = None,
    trunk: bool = True,
) -> Params:
    """Reads a critic; from a plain language model, with value heads of zero.

    Args:
      path: its directory.
      config: the trunk's shape.
      dtype: of the weights in memory.
      shardings: see `load`.
      trunk: read the backbone, too; without it the directory may hold heads only.
    """
    tensors = open_tensors(path)
    if not trunk:
        tensors = {k: v for k, v in tensors.items() if k in VALUE.values()}
    number = len(heads.HEADS)
    tensors.setdefault(VALUE["value"], np.zeros((number, config.width), np.float32))
    tensors.setdefault(VALUE["value_bias"], np.zeros((number,), np.float32))
    specs = heads.abstract(config, trunk=trunk)
    with _named(path):
        return fill(tensors, config, specs, dtype, shardings, {_head(config)})


@contextlib.contextmanager
def _named(path: str | os.PathLike) -> Iterator[None]:
    """Says of what is wrong with weights whose they are."""
    try:
        yield
    except ValueError as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"{path}: {said}") from None


def fill(
    tensors: Mapping[str, np.ndarray],
    config: LMConfig,
    specs: Params,
    dtype: Any = jnp.float32,
    shardings: Params | None = None,
    ignored: Set[str] = frozenset(),
) -> Params:
    """Builds a tree of weights from named tensors of the file's layout.

    Args:
      tensors: by name; see `tensor_layout.layout`.
      config: the shape of the model.
      specs: the tree to fill.
      dtype: of the result.
      shardings: a tree like `specs`; None: the default device.
      ignored: names that may be there and are not read.
    """
    table = layout(config, specs)
    check_tensors(tensors, table, ignored)
    sources: dict[str, list[tuple[np.ndarray, Tensor]]] = {}
    for name, tensor in table.items():
        sources.setdefault(tensor.leaf, []).append((tensors[name], tensor))
    build = functools.partial(_build, sources=sources, dtype=jnp.dtype(dtype))
    if shardings is None:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        build = functools.partial(build, sharding=device)
        return jax.tree.map_with_path(build, specs)
    return jax.tree.map_with_path(build, specs, shardings)


def _build(path, spec: ParamSpec, sharding, *, sources, dtype) -> jax.Array:
    """One weight, of which each device asks for its own slice."""
    piece = functools.partial(
        _piece,
        sources=sources[path[-1].key],
        stacked=spec.axes[0] == "layer",
        dtype=dtype,
    )
    return jax.make_array_from_callback(spec.shape, sharding, piece)


def _piece(index, *, sources, stacked: bool, dtype) -> np.ndarray:
    """The slice `index` of a weight, in memory of its own."""
    if not stacked:
        piece = to_ours(*sources[0])[index].astype(dtype)
        _check_finite(piece, *sources[0])
        return piece
    chosen = sources[index[0]]
    parts = [to_ours(*source)[index[1:]] for source in chosen]
    out = np.empty((len(parts), *parts[0].shape), dtype)
    for i, part in enumerate(parts):
        out[i] = part
        _check_finite(out[i], *chosen[i])
    return out


def _check_finite(piece: np.ndarray, array: np.ndarray, tensor: Tensor) -> None:
    """Raises ValueError where a weight is no finite number.

    The sum is many times cheaper than a look at each number, which it precedes.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(piece, dtype=np.float32)
    if np.isfinite(total) or np.isfinite(piece).all():
        return
    file = getattr(array, "filename", None) or "a model"
    layer = "" if tensor.layer is None else f" of layer {tensor.layer}"
    raise ValueError(
        f"{file} holds weights that are not finite, in {tensor.leaf}{layer}; fetch "
        "another copy, or go back to an earlier state of the model"
    )


def save(
    path: str | os.PathLike,
    params: Params,
    config: LMConfig,
    *,
    dtype: Any = jnp.bfloat16,
    max_bytes: int = 5 * 10**9,
    tokenizer: str | os.PathLike | None = None,
) -> None:
    """Writes a directory that `load` and `transformers` read.

    One tensor at a time is brought to the host. A critic (a tree with value heads) is
    written as its trunk, if it has one, with two more tensors, `value_head.weight`
    and `.bias`.

    Args:
      path: the directory; made if it is not there. Its files appear all at once.
      params: stacked weights of a language model or a critic.
      config: its shape.
      dtype: stored type.
      max_bytes: a file grows no larger, unless one tensor does.
      tokenizer: a directory whose tokenizer files are copied along.
    """
    is_critic, trunk = "value" in params, "trunk" in params
    specs = heads.abstract(config, trunk=trunk) if is_critic else qwen.abstract(config)
    table = layout(config, specs)
    files = _shared_out(table, jnp.dtype(dtype).itemsize, max_bytes)
    ours = {p[-1].key: leaf for p, leaf in jax.tree.leaves_with_path(params)}
    stored = to_hf(config) | {"torch_dtype": str(jnp.dtype(dtype))}
    if is_critic:
        name = ["Critic"] if trunk else HEADS_ONLY
        stored |= {"architectures": name, "tie_word_embeddings": True}
    with staged(path, replacing="model*.safetensors*") as place:
        for file, names in files.items():
            entries = [
                (name, table[name].theirs, functools.partial(_fetch, ours, table[name]))
                for name in names
            ]
            safetensors.write_file(place / file, entries, dtype)
        if len(files) > 1:
            total = sum(int(np.prod(tensor.theirs)) for tensor in table.values())
            index = {
                "metadata": {"total_size": total * jnp.dtype(dtype).itemsize},
                "weight_map": {name: file for file in files for name in files[file]},
            }
            write_record(place / INDEX, index)
        write_record(place / "config.json", stored)
        if tokenizer is not None:
            _copy_tokenizer(Path(tokenizer), place)


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if (source / TEMPLATES).is_dir():
        shutil.copytree(source / TEMPLATES, target / TEMPLATES)


def _shared_out(
    table: Mapping[str, Tensor], itemsize: int, max_bytes: int
) -> dict[str, list[str]]:
    """From file to the names of its tensors, in order."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in table.items():
        grown = int(np.prod(tensor.theirs)) * itemsize
        if groups[-1] and size + grown > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += grown
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {
        f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": names
        for i, names in enumerate(groups)
    }


def _fetch(ours: Mapping[str, Any], tensor: Tensor) -> np.ndarray:
    """One tensor as the file has it, from our weights."""
    leaf = ours[tensor.leaf]
    leaf = leaf if tensor.layer is None else leaf[tensor.layer]
    return to_theirs(np.asarray(leaf), tensor)
