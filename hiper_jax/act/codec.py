"""Text <-> token ids, the only place where a tokenizer is called.

A prompt is encoded once, before it is sampled from; a response is only ever
decoded, for people and for the environment. What was sampled is what is trained.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

TOKENIZER_FILES = ("tokenizer.json",)


@dataclasses.dataclass(frozen=True)
class Codec:
    """A tokenizer and what a rollout needs to know of it."""

    tokenizer: Any  # transformers.PreTrainedTokenizerFast
    eos_id: int  # the end-of-message token, which ends a response
    pad_id: int
    chat: bool  # prompts go through the tokenizer's own chat template

    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)

    def encode_prompt(self, text: str) -> list[int]:
        """A prompt's ids, as the user's message of a chat where there is a template."""
        if not self.chat:
            return self.tokenizer.encode(text, add_special_tokens=False)
        # The template's text is tokenised once more only here, never a response's.
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            tokenize=False,
        )
        return self.tokenizer.encode(rendered, add_special_tokens=False)

    def encode_response(self, text: str) -> list[int]:
        """A demonstration's ids, end of message included."""
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.eos_id]

    def decode(self, ids) -> str:
        """The text of a response, without its end-of-message token."""
        ids = [int(i) for i in ids if int(i) not in (self.eos_id, self.pad_id)]
        return self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


def load_codec(directory) -> Codec:
    """Loads the tokenizer of a Hugging Face directory, offline.

    Raises:
      FileNotFoundError: there is no `tokenizer.json`.
      ValueError: the tokenizer names no end-of-message token.
    """
    directory = pathlib.Path(directory)
    for name in TOKENIZER_FILES:
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory} holds no {name}; name a directory with a tokenizer in "
                "the Hugging Face format"
            )
    # Only tokenizers are used; that torch is missing is no news.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import PreTrainedTokenizerFast

    settings = {}
    if (directory / "tokenizer_config.json").is_file():
        settings = json.loads((directory / "tokenizer_config.json").read_text())
    template = settings.get("chat_template")
    if (directory / "chat_template.jinja").is_file():
        template = (directory / "chat_template.jinja").read_text()
    names = {
        key: _content(settings[key])
        for key in ("eos_token", "pad_token", "bos_token", "unk_token")
        if settings.get(key)
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"),
        chat_template=template,
        clean_up_tokenization_spaces=False,
        **names,
    )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{directory}: tokenizer_config.json names no eos_token; add the token "
            "that ends a message"
        )
    eos: Any = tokenizer.eos_token_id
    # Chat models end a message with another token than a document.
    if template and "<|im_end|>" in template:
        eos = tokenizer.convert_tokens_to_ids("<|im_end|>")
    pad: Any = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
    return Codec(tokenizer, eos, pad, chat=template is not None)


def _content(token) -> str:
    return token["content"] if isinstance(token, dict) else token
