"""The GGUF file format: metadata, then tensors in blocks of 32 weights.

Format: the ggml project's `docs/gguf.md`; block layouts: its `ggml-common.h`. The
package `gguf` is what the tests hold this against; it is not used for reading, for of
400 damaged files it left 65 to an IndexError or a UnicodeDecodeError.
"""

import math
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_SCALARS: tuple[Any, ...] = (
    "B",
    "b",
    "H",
    "h",
    "I",
    "i",
    "f",
    "?",
    None,
    None,
    "Q",
    "q",
    "d",
)
_STRING, _ARRAY = 8, 9
_SHARD = re.compile(r"-[0-9]{5}-of-(?!00001)[0-9]{5}\.gguf$")


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


class _Reader:
    """Takes values from mapped bytes, one after the other."""

    def __init__(self, data: np.ndarray, place: int):
        self.data: Any = data
        self.place = place

    def take(self, kind: str) -> Any:
        value = struct.unpack_from(f"<{kind}", self.data, self.place)[0]
        self.place += struct.calcsize(f"<{kind}")
        return value

    def text(self) -> str:
        size = self.take("Q")
        if size > len(self.data) - self.place:
            raise struct.error("the text is longer than the file")
        self.place += size
        raw = bytes(self.data[self.place - size : self.place])
        return raw.decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.take("I"), self.take("Q")
            return [self.value(inner) for _ in range(count)]
        return self.take(_SCALARS[kind])


def _read_head(reader: _Reader) -> tuple[dict[str, Any], list[Any], int]:
    """Metadata; name, shape, kind and offset of each tensor; where tensors begin."""
    num_tensors, num_fields = reader.take("Q"), reader.take("Q")
    fields = {}
    for _ in range(num_fields):
        name = reader.text()
        fields[name] = reader.value(reader.take("I"))
    entries = []
    for _ in range(num_tensors):
        name = reader.text()
        shape = tuple(reader.take("Q") for _ in range(reader.take("I")))[::-1]
        entries.append((name, shape, reader.take("I"), reader.take("Q")))
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise TypeError("the alignment must be a whole number above 0")
    start = reader.place + -reader.place % alignment
    return fields, entries, start


def read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads metadata and maps tensors.

    Raises:
      ValueError: if the file is no GGUF, is damaged or one shard of several, or stores
        a type that is not read here.
    """
    path = Path(path)
    if path.stat().st_size < 24:
        raise ValueError(f"{path} is not a GGUF file; fetch it again.")
    data = np.memmap(path, np.uint8, mode="r")
    if bytes(data[:4]) != b"GGUF":
        raise ValueError(f"{path} is not a GGUF file; fetch it again.")
    try:
        fields, entries, start = _read_head(_Reader(data, place=8))
    except (struct.error, LookupError, TypeError, ZeroDivisionError, RecursionError):
        raise ValueError(f"{path} has damaged metadata; fetch it again.") from None
    if fields.get("split.count", 1) != 1 or _SHARD.search(path.name):
        raise ValueError(
            f"{path} is one shard of a model; join all of them into one file first, "
            "with llama.cpp's `llama-gguf-split --merge`."
        )
    tensors = {}
    for name, shape, kind, offset in entries:
        if kind not in FORMATS:
            raise ValueError(
                f"{path} stores {name} as ggml type {kind}, which is not read here; "
                "use a file in F32, F16, BF16, Q4_0, Q4_1 or Q8_0."
            )
        stored = FORMATS[kind]
        begin = start + offset
        number = math.prod(shape)
        size = number // stored.block * stored.size
        if number % stored.block:
            raise ValueError(f"{path} is damaged at {name}; fetch it again.")
        if begin + size > len(data):
            raise ValueError(f"{path} is cut short at {name}; fetch it again.")
        tensors[name] = Tensor(shape, kind, data[begin : begin + size])
    return fields, tensors
