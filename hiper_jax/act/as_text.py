"""Text in which control tokens are no more than text, whatever it spells.

A tokenizer finds its control tokens anywhere in what it is given: an observation that
spells one would end a message, or begin one. Here only those that a chat template
writes are found. A twin of the tokenizer knows the control tokens under names that no
text holds, and is given the template's own under these names.
"""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

_TAGS = {
    f"<{slash}{name}>"
    for slash in ("", "/")
    for name in ("switch", "subgoal", "think", "action")
}
# Control tokens of this form, and those a tokenizer marks special, are no text.
_CONTROL = re.compile(r"<\|.*\|>|</s>|<eos>|<end_of_turn>|\[EOS\]")
# Private characters around a number: a control token's name for the twin, and the
# place of one that text spells. They are struck from text before it gets either.
_NAME, _PLACE = "\U00100000", "\U00100001"
_PLACES = re.compile(f"{_PLACE}([0-9]+){_PLACE}")


def is_control(entry: Any) -> bool:
    """Whether an added token is a control token; the tags of responses are not.

    Args:
      entry: a `tokenizers.AddedToken`.
    """
    marked = entry.special or bool(_CONTROL.fullmatch(entry.content))
    return marked and entry.content not in _TAGS


class AsText:
    """Encodes text for one tokenizer; see the module's text."""

    def __init__(self, tokenizer: Any, ends: tuple[int, ...]):
        self.tokenizer = tokenizer
        added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
        self.control: Mapping[int, str] = {
            token: entry.content
            for token, entry in added.items()
            if is_control(entry) or token in ends and entry.content not in _TAGS
        }
        self.ids = {content: token for token, content in self.control.items()}
        longest_first = sorted(self.ids, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def hide(self, text: str) -> str:
        """Puts places where text spells control tokens; else the text itself."""
        if not self.pattern.search(text):
            return text
        text = text.replace(_NAME, "").replace(_PLACE, "")
        return self.pattern.sub(lambda m: f"{_PLACE}{self.ids[m[0]]}{_PLACE}", text)

    def encode(self, text: str) -> list[int]:
        """The ids of text with places; what else spells a control token is one."""
        if not has_places(text):
            return self.tokenizer.encode(text, add_special_tokens=False)
        text = self.pattern.sub(lambda m: _name(self.ids[m[0]]), text)
        text = _PLACES.sub(lambda m: self.control[int(m[1])], text)
        return self.twin.encode(text, add_special_tokens=False).ids

    @functools.cached_property
    def twin(self) -> Any:
        """The `tokenizers.Tokenizer` with other names; made when first needed."""
        from tokenizers import Tokenizer

        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        state |= {"truncation": None, "padding": None, "post_processor": None}
        for entry in state["added_tokens"]:
            if entry["content"] in self.ids:
                entry |= {"content": _name(entry["id"]), "normalized": False}
        _rename(state["model"], {text: _name(i) for text, i in self.ids.items()})
        return Tokenizer.from_str(json.dumps(state))


def has_places(text: str) -> bool:
    """Whether control tokens that the text spells were hidden in it."""
    return _PLACE in text and bool(_PLACES.search(text))


@functools.lru_cache(maxsize=4)
def as_text(tokenizer: Any, ends: tuple[int, ...]) -> AsText:
    """The `AsText` of a tokenizer; kept for the last few, so asking again is cheap.

    Args:
      tokenizer: a transformers fast tokenizer.
      ends: tokens that end a response, which count as control tokens.
    """
    return AsText(tokenizer, ends)


def _name(token: int) -> str:
    return f"{_NAME}{token}{_NAME}"


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Renames pieces of a tokenizer's model, so that no text becomes one of them."""
    if isinstance(model["vocab"], list):
        model["vocab"] = [[names.get(p, p), score] for p, score in model["vocab"]]
        return
    model["vocab"] = {names.get(p, p): i for p, i in model["vocab"].items()}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        model["merges"] = [[a, b] for a, b in pairs if not {a, b, a + b} & names.keys()]
