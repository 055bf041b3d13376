"""Weights between disk and devices, in Hugging Face's format, slice by slice.

Every tensor of a file is one layer's slice of one of our leaves, with axes merged and
swapped. `placement` says which; loading and saving both follow it.
"""

import json
import os
import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hiper_jax.lm import qwen, safetensors
from hiper_jax.lm import value_heads as heads
from hiper_jax.lm.config import LMConfig

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
HEADS_ONLY = ["ValueHeads"]
_LAYER = {
    "attention_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
_WHOLE = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "value": "value_head.weight",
    "value_bias": "value_head.bias",
}
# Leaves that map inputs to outputs; files store (outputs, inputs).
_SWAPPED = {"q", "k", "v", "o", "gate", "up", "down", "value"}


class Tensor(NamedTuple):
    """Where one tensor of a file lies in our tree."""

    leaf: str  # the last key of its path
    layer: int | None  # its place on the leading axis; None: the whole leaf
    ours: tuple[int, ...]  # shape of our slice, without the layer axis
    theirs: tuple[int, ...]  # shape in the file


def placement(config: LMConfig, leaves: qwen.Params) -> dict[str, Tensor]:
    """Returns, by the file's names, the tensors that fill a tree of leaves."""
    table = {}
    for path, leaf in jax.tree.leaves_with_path(leaves):
        name = path[-1].key
        stacked = leaf.axes[0] == "layer"
        shape = leaf.shape[1:] if stacked else leaf.shape
        theirs = shape
        if name in _SWAPPED:
            cut = 2 if name == "o" else 1  # axes that are inputs
            theirs = (int(np.prod(shape[cut:])), int(np.prod(shape[:cut])))
        elif name.endswith("_bias") and stacked:
            theirs = (int(np.prod(shape)),)
        if stacked:
            for i in range(config.depth):
                table[f"model.layers.{i}.{_LAYER[name]}"] = Tensor(
                    name, i, shape, theirs
                )
        else:
            table[_WHOLE[name]] = Tensor(name, None, shape, theirs)
    return table


def read_config(path: str | os.PathLike, *, dtype: str = "float32") -> LMConfig:
    """Reads `config.json` of a model directory."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no config.json in {path}; name a Hugging Face model directory."
        )
    return LMConfig.from_hf(json.loads(file.read_text()), dtype=dtype)


def open_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Maps the tensors of a model directory, from one file or from several.

    Raises:
      FileNotFoundError: if it holds no weights, or a file that its index names is gone.
      ValueError: if it holds pickles only; they run code and are never opened.
    """
    path = Path(path)
    index = path / "model.safetensors.index.json"
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


def load(
    path: str | os.PathLike,
    config: LMConfig,
    *,
    dtype: Any = jnp.float32,
    shardings: qwen.Params | None = None,
) -> qwen.Params:
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
    known = {"lm_head.weight"} if config.tied else set()
    return fill(
        open_tensors(path), config, qwen.abstract(config), dtype, shardings, known
    )


def owns_trunk(path: str | os.PathLike) -> bool:
    """Whether a critic's directory holds a backbone, not value heads only."""
    stored = json.loads((Path(path) / "config.json").read_text())
    return stored.get("architectures") != HEADS_ONLY


def load_critic(
    path: str | os.PathLike,
    config: LMConfig,
    *,
    dtype: Any = jnp.float32,
    shardings: qwen.Params | None = None,
    trunk: bool = True,
) -> qwen.Params:
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
        tensors = {k: v for k, v in tensors.items() if k.startswith("value_head.")}
    tensors.setdefault("value_head.weight", np.zeros((3, config.width), np.float32))
    tensors.setdefault("value_head.bias", np.zeros((3,), np.float32))
    leaves = heads.abstract(config, trunk=trunk)
    return fill(tensors, config, leaves, dtype, shardings, {"lm_head.weight"})


def fill(
    tensors: Mapping[str, np.ndarray],
    config: LMConfig,
    leaves: qwen.Params,
    dtype: Any = jnp.float32,
    shardings: qwen.Params | None = None,
    ignored: Set[str] = frozenset(),
) -> qwen.Params:
    """Builds a tree of weights from named tensors of the file's layout.

    Args:
      tensors: by name; see `placement`.
      config: the shape of the model.
      leaves: the tree to fill.
      dtype: of the result.
      shardings: a tree like `leaves`; None: the default device.
      ignored: names that may be there and are not read.
    """
    table = placement(config, leaves)
    check(tensors, table, ignored)
    if shardings is None:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: device, leaves)
    names: dict[str, list[str]] = {}
    for name, tensor in table.items():
        names.setdefault(tensor.leaf, []).append(name)

    def build(path, leaf, sharding):
        sources = names[path[-1].key]

        def piece(index):
            if leaf.axes[0] != "layer":
                source = _to_ours(tensors[sources[0]], table[sources[0]])
                return source[index].astype(dtype)
            wanted = sources[index[0]]
            parts = [_to_ours(tensors[n], table[n])[index[1:]] for n in wanted]
            out = np.empty((len(parts), *parts[0].shape), jnp.dtype(dtype))
            for slot, part in zip(out, parts, strict=True):
                slot[...] = part
            return out

        return jax.make_array_from_callback(leaf.shape, sharding, piece)

    return jax.tree.map_with_path(build, leaves, shardings)


def save(
    path: str | os.PathLike,
    params: qwen.Params,
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
      path: the directory; made if it is not there.
      params: stacked weights of a language model or a critic.
      config: its shape.
      dtype: stored type.
      max_bytes: a file grows no larger, unless one tensor does.
      tokenizer: a directory whose tokenizer files are copied along.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    is_critic, trunk = "value" in params, "trunk" in params
    leaves = qwen.abstract(config)
    if is_critic:
        leaves = heads.abstract(config, trunk=trunk)
    flat = {p[-1].key: leaf for p, leaf in jax.tree.leaves_with_path(params)}

    def fetch(tensor: Tensor):
        leaf = flat[tensor.leaf]
        return _to_theirs(
            np.asarray(leaf if tensor.layer is None else leaf[tensor.layer]), tensor
        )

    itemsize = jnp.dtype(dtype).itemsize
    files: list[list] = [[]]
    size = total = 0
    for name, tensor in placement(config, leaves).items():
        grown = int(np.prod(tensor.theirs)) * itemsize
        if files[-1] and size + grown > max_bytes:
            files.append([])
            size = 0
        files[-1].append((name, tensor.theirs, lambda t=tensor: fetch(t)))
        size, total = size + grown, total + grown
    stale = set(path.glob("model*.safetensors*"))
    weight_map = {}
    for i, tensors in enumerate(files):
        file = path / "model.safetensors"
        if len(files) > 1:
            file = path / f"model-{i + 1:05d}-of-{len(files):05d}.safetensors"
        safetensors.write_file(file, tensors, dtype)
        stale.discard(file)
        weight_map |= {name: file.name for name, *_ in tensors}
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(path / "model.safetensors.index.json", index)
        stale.discard(path / "model.safetensors.index.json")
    for file in stale:
        file.unlink()
    stored = config.to_hf() | {"torch_dtype": str(jnp.dtype(dtype))}
    if is_critic:
        name = ["Critic"] if trunk else HEADS_ONLY
        stored |= {"architectures": name, "tie_word_embeddings": True}
    write_json(path / "config.json", stored)
    for name in TOKENIZER_FILES if tokenizer is not None else ():
        if (Path(tokenizer) / name).is_file():
            shutil.copyfile(Path(tokenizer) / name, path / name)


def _to_ours(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    if tensor.leaf in _SWAPPED:
        array = array.T
    return array.reshape(tensor.ours)


def _to_theirs(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    if tensor.leaf in _SWAPPED:
        return array.reshape(tensor.theirs[::-1]).T
    return array.reshape(tensor.theirs)


def check(
    tensors: Mapping[str, Any], table: Mapping[str, Tensor], ignored: Set[str]
) -> None:
    """Raises ValueError if names or shapes are not those of the table."""
    for name, tensor in table.items():
        if name not in tensors:
            raise ValueError(
                f"The weights lack {name}; is config.json that of another model?"
            )
        if tensors[name].shape != tensor.theirs:
            raise ValueError(
                f"{name} has shape {tensors[name].shape}, but config.json asks for "
                f"{tensor.theirs}; is config.json that of another model?"
            )
    for name in tensors:
        known = name in table or name in ignored or name.endswith("rotary_emb.inv_freq")
        if not known:
            raise ValueError(
                f"The weights hold {name}, which this model does not have; is "
                "config.json that of another model?"
            )


def write_json(file: Path, record: Mapping[str, Any]) -> None:
    """Writes a record, whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(partial, file)
