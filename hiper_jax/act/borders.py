"""Where a text may be cut so that the ids of its parts are the ids of the whole.

Merges may run over any place in a text, but not over one where the tokenizer splits
before it merges. A line feed between two printable ASCII characters is such a place,
whatever stands around them, if every way in which the tokenizer splits is one of those
listed here. So prompts, which repeat most of their lines from turn to turn, are encoded
line by line, each line once. Where a tokenizer is of another kind, whole.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_PRINTED = frozenset(map(chr, range(33, 127)))
# Alternatives of the patterns that text is split by. None matches a line feed together
# with a printable character behind it, and what one matches of a text that ends in a
# line feed does not depend on a printable character behind that.
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_SAFE = {
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    r"\p{N}",
    r"\p{N}{1,3}",
    r" ?\p{L}+",
    r" ?\p{N}+",
    r" ?[^\s\p{L}\p{N}]+",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r"\s+(?!\S)",
    " ?[A-Za-z]+",
    " ?[0-9]+",
}
# One of these there must be: else line feeds stay with what else no pattern matches.
_LINE_FEED = {r"\s*[\r\n]+", r"\s+", "[^A-Za-z0-9]"}
# Text that stands for itself, without a line feed.
_LITERAL = re.compile(r"(?:[A-Za-z0-9 ,:;<>='\"_/@!%&~`-]|\\[^A-Za-z0-9\r\n])+")
_KEPT = 1 << 15  # lines


def lines(text: str) -> list[str]:
    """The parts of a text between its sure borders; joined they are the text."""
    parts, begin = [], 0
    end = text.find("\n") + 1
    while 0 < end < len(text):
        if text[end - 2 : end - 1] in _PRINTED and text[end] in _PRINTED:
            parts.append(text[begin:end])
            begin = end
        end = text.find("\n", end) + 1
    return [*parts, text[begin:]]


def splits_at_lines(state: Mapping[str, Any]) -> bool:
    """Whether a tokenizer splits at the borders of `lines` for sure.

    Args:
      state: what its tokenizer.json holds.
    """
    normalizer, model = state["normalizer"], state["model"]
    if normalizer and normalizer["type"] != "NFC":
        return False
    if model.get("type") != "BPE" or model["dropout"]:
        return False
    # Such tokens are sought in the whole text, with what stands around them.
    for entry in state["added_tokens"]:
        if entry["lstrip"] or entry["single_word"] or "\n" in entry["content"]:
            return False
    first: dict[str, Any] = state["pre_tokenizer"] or {"type": "none"}
    steps = first.get("pretokenizers", [first])
    # These look at one part of the text at a time, wherever it stands; digits are only
    # split off, so that they may come first.
    if any(step["type"] not in ("Digits", "Split", "ByteLevel") for step in steps):
        return False
    rest = [step for step in steps if step["type"] != "Digits"]
    return bool(rest) and _splits(rest[0])


def _splits(step: Mapping[str, Any]) -> bool:
    if step["type"] == "ByteLevel":
        # Its own pattern is GPT-2's, made of alternatives that stand above.
        return step.get("use_regex", True) and not step["add_prefix_space"]
    if step["type"] != "Split" or step["behavior"] != "Isolated" or step["invert"]:
        return False
    parts = step["pattern"].get("Regex", "").removeprefix(_ENDINGS).split("|")
    known = (part in _SAFE or _LITERAL.fullmatch(part) for part in parts)
    return not _LINE_FEED.isdisjoint(parts) and all(
        safe or part in _LINE_FEED for part, safe in zip(parts, known, strict=True)
    )


class Lines:
    """Encodes texts in batches, and keeps the ids of lines."""

    def __init__(self, tokenizer: Any):
        """
        Args:
          tokenizer: a transformers fast tokenizer.
        """
        from transformers import PreTrainedTokenizerFast as Plain

        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        kind = type(tokenizer)
        # A class may do more than its tokenizer.json says.
        self._plain = all(
            getattr(kind, name) is getattr(Plain, name)
            for name in ("encode", "_encode_plus")
        )
        state = json.loads(self._backend.to_str()) if self._plain else {}
        self._cuts = self._plain and splits_at_lines(state)
        self._kept: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, [P] int32, control tokens found, none put in front."""
        if not self._cuts:
            return list(self._encode(texts))
        cut = [lines(text) for text in texts]
        if len(self._kept) > _KEPT:
            self._kept.clear()
        new = {line for parts in cut for line in parts if line not in self._kept}
        self._kept.update(zip(new, self._encode(list(new)), strict=True))
        return [np.concatenate([self._kept[line] for line in parts]) for parts in cut]

    def _encode(self, texts: Sequence[str]) -> Iterable[np.ndarray]:
        if not self._plain:
            encode = self._tokenizer.encode
            found = (encode(text, add_special_tokens=False) for text in texts)
            return [np.array(ids, np.int32) for ids in found]
        backend = self._backend
        # Others who call the tokenizer may have left these otherwise.
        if backend.padding is not None:
            backend.no_padding()
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.encode_special_tokens != self._tokenizer.split_special_tokens:
            backend.encode_special_tokens = self._tokenizer.split_special_tokens
        found = backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(one.ids, np.int32) for one in found]
