"""The tokenizer that a GGUF file holds, as the files that `transformers` reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

STYLES = ("gpt-2", "smollm")  # how text is cut before pieces are merged
_CONTROL, _USER_DEFINED = 3, 4  # types of tokens that text is searched for first
_ROLES = {"bos": "bos", "eos": "eos", "padding": "pad"}  # ggml's name and theirs


def end_tokens(fields: Mapping[str, Any]) -> dict[str, int]:
    """Returns `bos_token_id` and so on, of those that the file names."""
    return {
        f"{theirs}_token_id": fields[f"tokenizer.ggml.{role}_token_id"]
        for role, theirs in _ROLES.items()
        if f"tokenizer.ggml.{role}_token_id" in fields
    }


def write_tokenizer(fields: Mapping[str, Any], target: Path) -> dict[str, Any]:
    """Writes tokenizer.json; returns what belongs in tokenizer_config.json.

    Args:
      fields: metadata of the file.
      target: the folder.

    Returns:
      Special tokens by role, and the chat template if there is one.

    Raises:
      ValueError: the tokenizer is of a kind that is not read here.
    """
    style = fields.get("tokenizer.ggml.pre", "gpt-2")
    if fields.get("tokenizer.ggml.model") != "gpt2" or style not in STYLES:
        raise ValueError(
            f"The GGUF file's tokenizer ({style}) is not one of {STYLES}; take the "
            "model's tokenizer.json from its Hugging Face directory."
        )
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pieces = _listed(fields, "tokens", str)
    kinds = _listed(fields, "token_type", int)
    if len(pieces) != len(kinds):
        raise ValueError(
            f"The GGUF file has {len(pieces)} tokens and {len(kinds)} token types; "
            "fetch another."
        )
    merges = [tuple(pair.split(" ")) for pair in _listed(fields, "merges", str)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if style == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    else:
        tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        tokenizer.add_tokens(
            [
                AddedToken(piece, special=special, normalized=False)
                for piece, its in zip(pieces, kinds, strict=True)
                if its == kind
            ]
        )
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role, theirs in _ROLES.items():
        index = fields.get(f"tokenizer.ggml.{role}_token_id")
        if index is not None:
            if not 0 <= index < len(pieces):
                raise ValueError(
                    f"The GGUF file's {role} token is {index} of {len(pieces)}; fetch "
                    "another."
                )
            settings[f"{theirs}_token"] = pieces[index]
    if "tokenizer.chat_template" in fields:
        settings["chat_template"] = fields["tokenizer.chat_template"]
    # Not by its own `save`, which on a full disk raises a bare Exception.
    (target / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), "utf-8")
    return settings


def _listed(fields: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    found = fields.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list) or not all(isinstance(x, kind) for x in found):
        raise ValueError(
            f"The GGUF file lacks tokenizer.ggml.{name}; fetch another, or take the "
            "model from its Hugging Face directory."
        )
    return found
