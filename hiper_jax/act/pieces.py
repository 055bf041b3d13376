"""A tokenizer's vocabulary as bytes: what each token id contributes to the text."""

import builtins
import functools
import json
import re
from typing import Any, NamedTuple

import numpy as np

# Control tokens of this form, and those a tokenizer marks special, end a message.
_CONTROL = re.compile(r"<\|.*\|>|</s>|<eos>|<end_of_turn>|\[EOS\]")
_TAGS = {
    f"<{slash}{name}>"
    for slash in ("", "/")
    for name in ("switch", "subgoal", "think", "action")
}


class PieceTable(NamedTuple):
    """The bytes of V tokens, end to end."""

    bytes: np.ndarray  # [total + 1] uint8; the last one is 0xFF, which ends a row
    start: np.ndarray  # [V] int64, where a token's bytes begin
    length: np.ndarray  # [V] int64, how many they are; 0 for an unused id
    ends: np.ndarray  # [V] bool, the token may end a message

    def piece(self, token: int) -> builtins.bytes:
        """One token's bytes."""
        begin = self.start[token]
        return self.bytes[begin : begin + self.length[token]].tobytes()


def piece_table(tokenizer) -> PieceTable:
    """The table of a tokenizer; kept for the last few, so asking again is cheap.

    Args:
      tokenizer: a transformers fast tokenizer or a `tokenizers.Tokenizer`, byte-level
        BPE or of the metaspace kind (with or without byte fallback).

    Raises:
      ValueError: another kind of tokenizer.
    """
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(inner, "get_vocab") or not hasattr(inner, "decoder"):
        raise ValueError(
            "token_masks needs a fast tokenizer (transformers or tokenizers) or a "
            f"piece table, but got {type(tokenizer).__name__}."
        )
    return _build(tokenizer, inner.get_vocab_size(with_added_tokens=True))


@functools.lru_cache(maxsize=4)
def _build(tokenizer, num_tokens: int) -> PieceTable:
    """`num_tokens` tells a tokenizer from itself after tokens were added to it."""
    del num_tokens
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
    kind = _decoder_kind(inner.decoder)
    vocabulary = inner.get_vocab(with_added_tokens=True)
    added = inner.get_added_tokens_decoder()
    size = max(vocabulary.values(), default=-1) + 1
    pieces = [b""] * size
    to_bytes = {"ByteLevel": _from_byte_level, "Metaspace": _from_metaspace}[kind]
    for text, token in vocabulary.items():
        pieces[token] = to_bytes(text)
    ends = np.zeros(size, bool)
    for token, entry in added.items():
        pieces[token] = entry.content.encode()
        ends[token] = entry.content not in _TAGS and (
            entry.special or bool(_CONTROL.fullmatch(entry.content))
        )
    length = np.array([len(piece) for piece in pieces], np.int64)
    return PieceTable(
        bytes=np.frombuffer(b"".join(pieces) + b"\xff", np.uint8),
        start=np.cumsum(length) - length,
        length=length,
        ends=ends,
    )


def _decoder_kind(decoder) -> str:
    """ "ByteLevel" or "Metaspace", from the decoder's own description."""
    described = "null" if decoder is None else decoder.__getstate__()
    description: dict[str, Any] = json.loads(described) or {"type": "none"}
    steps = description.get("decoders", [description])
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        return "ByteLevel"
    replaces_metaspace = any(
        step["type"] == "Replace" and step.get("pattern", {}).get("String") == "▁"
        for step in steps
    )
    if kinds <= {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"} and (
        replaces_metaspace or "Metaspace" in kinds
    ):
        return "Metaspace"
    raise ValueError(
        "token_masks reads byte-level BPE and metaspace vocabularies, but this "
        f"tokenizer's decoder is {sorted(kinds)}: use one of these kinds."
    )


@functools.cache
def _byte_level_table() -> dict[int, int]:
    """Code point that stands for a byte in a byte-level vocabulary -> that byte.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, take
    the code points from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: b for b in printable} | {256 + i: b for i, b in enumerate(others)}


def _from_byte_level(text: str) -> bytes:
    table = _byte_level_table()
    try:
        return text.translate(table).encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def _from_metaspace(text: str) -> bytes:
    byte = re.fullmatch("<0x([0-9A-Fa-f]{2})>", text)
    return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()
