"""GGUF files, dequantised once into a Hugging Face directory.

A GGUF file is one file with metadata, tokenizer and tensors in blocks of 32 weights.
Format: the ggml project's `docs/gguf.md`; block layouts: its `ggml-common.h`.
"""

import importlib.util
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hiper_jax.lm import qwen, safetensors, weights
from hiper_jax.lm.config import LMConfig

_SCALARS = ("B", "b", "H", "h", "I", "i", "f", "?", None, None, "Q", "q", "d")
_STRING, _ARRAY = 8, 9
STYLES = ("gpt-2", "smollm")  # how text is cut before pieces are merged
_CONTROL = 3  # the token type of special tokens
_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Format(NamedTuple):
    """How a type stores weights."""

    block: int  # weights per block
    size: int  # bytes per block
    decode: Callable[[np.ndarray], np.ndarray]  # [n, size] uint8 -> [n, block] float32


def _plain(dtype: Any) -> Format:
    size = jnp.dtype(dtype).itemsize
    return Format(1, size, lambda raw: raw.view(dtype).astype(np.float32))


def _half(raw: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _nibbles(raw: np.ndarray) -> np.ndarray:
    return np.concatenate([raw & 15, raw >> 4], axis=1).astype(np.float32)


FORMATS = {
    0: _plain(np.float32),
    1: _plain(np.float16),
    30: _plain(jnp.bfloat16),
    # q4_0: scale, 16 bytes of two; w = scale (q - 8)
    2: Format(32, 18, lambda raw: _half(raw[:, :2]) * (_nibbles(raw[:, 2:]) - 8)),
    # q4_1: scale, minimum, 16 bytes of two; w = scale q + minimum
    3: Format(
        32,
        20,
        lambda raw: _half(raw[:, :2]) * _nibbles(raw[:, 4:]) + _half(raw[:, 2:4]),
    ),
    # q8_0: scale, 32 signed bytes; w = scale q
    8: Format(32, 34, lambda raw: _half(raw[:, :2]) * raw[:, 2:].view(np.int8)),
}


class Tensor(NamedTuple):
    """One stored tensor."""

    shape: tuple[int, ...]
    kind: int  # key of FORMATS
    raw: np.ndarray  # [bytes] uint8, mapped from the file

    def dequantise(self) -> np.ndarray:
        """Returns the float32 array."""
        stored = FORMATS[self.kind]
        blocks = np.ascontiguousarray(self.raw).reshape(-1, stored.size)
        return stored.decode(blocks).reshape(self.shape)


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


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads metadata and maps tensors.

    Raises:
      ValueError: if the file is no GGUF, or stores a type that is not read here.
    """
    path = Path(path)
    data = np.memmap(path, np.uint8, mode="r")
    place = 0

    def take(kind: str) -> Any:
        nonlocal place
        value = struct.unpack_from(f"<{kind}", data, place)[0]
        place += struct.calcsize(f"<{kind}")
        return value

    def text() -> str:
        nonlocal place
        size = take("Q")
        place += size
        return bytes(data[place - size : place]).decode("utf-8", "replace")

    def value(kind: int) -> Any:
        if kind == _STRING:
            return text()
        if kind == _ARRAY:
            inner, count = take("I"), take("Q")
            return [value(inner) for _ in range(count)]
        return take(_SCALARS[kind])

    if len(data) < 24 or bytes(data[:4]) != b"GGUF":
        raise ValueError(f"{path} is not a GGUF file; fetch it again.")
    place = 8
    num_tensors, num_fields = take("Q"), take("Q")
    fields = {}
    for _ in range(num_fields):
        name = text()
        fields[name] = value(take("I"))
    entries = []
    for _ in range(num_tensors):
        name = text()
        shape = tuple(take("Q") for _ in range(take("I")))[::-1]
        entries.append((name, shape, take("I"), take("Q")))
    start = place + -place % fields.get("general.alignment", 32)
    tensors = {}
    for name, shape, kind, offset in entries:
        if kind not in FORMATS:
            raise ValueError(
                f"{path} stores {name} as ggml type {kind}, which is not read here; "
                "use a file in F32, F16, BF16, Q4_0, Q4_1 or Q8_0."
            )
        stored = FORMATS[kind]
        begin = start + offset
        size = int(np.prod(shape)) // stored.block * stored.size
        if begin + size > len(data):
            raise ValueError(f"{path} is cut short at {name}; fetch it again.")
        tensors[name] = Tensor(shape, kind, data[begin : begin + size])
    return fields, tensors


def read_config(fields: dict[str, Any], tensors: dict[str, Tensor]) -> LMConfig:
    """Reads the shape of the model from the metadata."""
    family = fields["general.architecture"]

    def field(name: str, default: Any = None) -> Any:
        found = fields.get(f"{family}.{name}", default)
        if found is None:
            raise ValueError(f"The GGUF file lacks {family}.{name}; fetch another.")
        return found

    if f"{family}.rope.scaling.type" in fields or "rope_freqs.weight" in tensors:
        raise ValueError("GGUF files with rope scaling are not read here; use HF's.")
    width, num_heads = field("embedding_length"), field("attention.head_count")
    return LMConfig(
        vocab_size=tensors["token_embd.weight"].shape[0],
        width=width,
        depth=field("block_count"),
        num_heads=num_heads,
        num_kv_heads=field("attention.head_count_kv", num_heads),
        head_dim=field("attention.key_length", width // num_heads),
        mlp_width=field("feed_forward_length"),
        family=family,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tied="output.weight" not in tensors,
        rope_theta=field("rope.freq_base", 10000.0),
        # Stored as float32: back to the decimal that was meant.
        rms_eps=float(f"{field('attention.layer_norm_rms_epsilon'):.6g}"),
        max_positions=field("context_length"),
    )


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
    """
    fields, tensors = read(source)
    config = read_config(fields, tensors)
    table = weights.placement(config, qwen.abstract(config))
    by_name = {_hf_name(name): tensor for name, tensor in tensors.items()}
    weights.check(by_name, table, frozenset())

    def make(name: str) -> np.ndarray:
        array = by_name[name].dequantise()
        if config.family != "llama":
            return array
        heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
        part = name.split(".")[-2]
        return _halves(array, heads[part]) if part in heads else array

    ends = {
        f"{role}_token_id": fields[f"tokenizer.ggml.{theirs}_token_id"]
        for role, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        if f"tokenizer.ggml.{theirs}_token_id" in fields
    }
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    safetensors.write_file(
        target / "model.safetensors",
        [(name, by_name[name].shape, lambda n=name: make(n)) for name in table],
        dtype,
    )
    weights.write_json(
        target / "config.json",
        config.to_hf() | {"torch_dtype": str(jnp.dtype(dtype))} | ends,
    )
    weights.write_json(target / "generation_config.json", ends)
    write_tokenizer(fields, target)
    return config


def _hf_name(name: str) -> str:
    if not name.startswith("blk."):
        return _NAMES.get(name, name)
    _, layer, part, end = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES.get(part, part)}.{end}"


def _halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Undoes ggml's order of Llama's rotary pairs: neighbours become two halves."""
    pairs = array.reshape(heads, -1, 2, array.shape[-1])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def write_tokenizer(fields: dict[str, Any], target: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json, chat template included."""
    style = fields.get("tokenizer.ggml.pre", "gpt-2")
    if fields.get("tokenizer.ggml.model") != "gpt2" or style not in STYLES:
        raise ValueError(
            f"The GGUF file's tokenizer ({style}) is not one of {STYLES}; take the "
            "model's tokenizer.json from its Hugging Face directory."
        )
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pieces = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if style == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    else:
        tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    special = [p for p, kind in zip(pieces, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens(
        [AddedToken(piece, special=True, normalized=False) for piece in special]
    )
    tokenizer.save(str(target / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role in ("bos", "eos", "padding"):
        index = fields.get(f"tokenizer.ggml.{role}_token_id")
        if index is not None:
            settings[f"{role.replace('padding', 'pad')}_token"] = pieces[index]
    if "tokenizer.chat_template" in fields:
        settings["chat_template"] = fields["tokenizer.chat_template"]
    weights.write_json(target / "tokenizer_config.json", settings)
