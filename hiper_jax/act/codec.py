"""Text <-> token ids, the only place where a tokenizer is called.

A prompt is encoded once, before it is sampled from; a response is only ever
decoded, for people and for the environment. What was sampled is what is trained.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from hiper_jax.act.as_text import AsText, as_text, has_places
from hiper_jax.act.auto_tokenizer import read_json, read_tokenizer
from hiper_jax.act.borders import Lines
from hiper_jax.act.chat_template import ChatTemplate


@dataclasses.dataclass(frozen=True)
class Codec:
    """A tokenizer and what a rollout needs to know of it."""

    tokenizer: Any  # transformers.PreTrainedTokenizerFast
    eos_id: int  # the end-of-message token, which ends a response
    pad_id: int
    chat: bool  # prompts go through the tokenizer's own chat template
    end_ids: tuple[int, ...] = ()  # all that end a response; given none, eos_id
    template: ChatTemplate | None = None  # given none, the tokenizer's own in a chat

    def __post_init__(self):
        ends = dict.fromkeys((self.eos_id, *self.end_ids))
        object.__setattr__(self, "end_ids", tuple(ends))
        if self.chat and self.template is None:
            own = ChatTemplate(self.tokenizer, self.tokenizer.get_chat_template())
            object.__setattr__(self, "template", own)

    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)

    @functools.cached_property
    def known_ids(self) -> list[int]:
        """The ids that have a token, in order."""
        return sorted(self.tokenizer.get_vocab().values())

    @property
    def unread(self) -> tuple[int, ...]:
        """Tokens that the text of a response leaves out."""
        return tuple(dict.fromkeys((*self.end_ids, self.pad_id)))

    def set_template(self, thinking: bool | None, clock: str) -> "Codec":
        """With what the chat template is told, see `ChatTemplate`.

        Raises:
          ValueError: the template, if there is one, cannot be told so.
        """
        if self.template is None:
            return self
        return dataclasses.replace(self, template=self.template.set(thinking, clock))

    def encode_prompt(self, text: str) -> list[int]:
        """A prompt's ids, as the user's message of a chat where there is a template.

        Control tokens that the text spells stay text.
        """
        front, text = self._written(text)
        return [*front, *self._as_text.encode(text)]

    def encode_prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode_prompt` of many, in one call that lets other threads go on.

        Returns:
          for each text, [P] int32.
        """
        written = [self._written(text) for text in texts]
        plain = [text for _, text in written if not has_places(text)]
        found = iter(self._lines.encode(plain))
        prompts = []
        for front, text in written:
            ids = self._as_text.encode(text) if has_places(text) else next(found)
            parts = np.asarray(front, np.int32), np.asarray(ids, np.int32)
            prompts.append(np.concatenate(parts))
        return prompts

    def _written(self, text: str) -> tuple[list[int], str]:
        """Ids put before a prompt, and its text with places, see `AsText`."""
        # The template's text is tokenised once more only here, never a response's.
        text = self._as_text.hide(text)
        if self.template is None:
            return self._front, text
        return [], self.template.render(text, reply=True)

    def encode_response(self, text: str) -> list[int]:
        """A demonstration's ids, end of message included."""
        ids = self._as_text.encode(self._as_text.hide(text))
        return [*ids, self.eos_id]

    def decode(self, ids) -> str:
        """The text of a response, without its end-of-message token."""
        unread = self.unread
        ids = [i for i in map(int, ids) if i not in unread]
        return self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    @property
    def _as_text(self) -> AsText:
        return as_text(self.tokenizer, self.end_ids)

    @functools.cached_property
    def _lines(self) -> Lines:
        return Lines(self.tokenizer)

    @functools.cached_property
    def _front(self) -> list[int]:
        """What the tokenizer puts before a text by itself: a BOS, or nothing."""
        encode = self.tokenizer.encode
        bare, whole = (encode("a", add_special_tokens=s) for s in (False, True))
        for i in range(len(whole) - len(bare) + 1):
            if whole[i : i + len(bare)] == bare:
                return whole[:i]
        return []


def load_codec(directory) -> Codec:
    """Loads the tokenizer of a Hugging Face directory, offline.

    A response ends at every token that generation_config.json, config.json or the
    tokenizer names, and at the one that the chat template puts after an answer, which
    is the main one where there is a template.

    Raises:
      FileNotFoundError: there is no `tokenizer.json`.
      ValueError: a file cannot be read, or no end-of-message token is named.
    """
    directory = pathlib.Path(directory)
    named = _named_ends(directory)
    tokenizer = read_tokenizer(directory)
    if tokenizer.eos_token_id is not None:
        named.insert(0, tokenizer.eos_token_id)
    template = _template(directory, tokenizer)
    if template is not None:
        named = _ends_of_answers(template, named) + named
    if not named:
        raise ValueError(
            f"{directory}: tokenizer_config.json names no eos_token; add the token "
            "that ends a message"
        )
    pad = tokenizer.pad_token_id
    return Codec(
        tokenizer,
        eos_id=named[0],
        pad_id=named[0] if pad is None else pad,
        chat=template is not None,
        end_ids=tuple(named),
        template=template,
    )


def _named_ends(directory: pathlib.Path) -> list[int]:
    """End tokens that a model's own files list."""
    ends: list[int] = []
    for name in ("generation_config.json", "config.json"):
        listed = read_json(directory / name).get("eos_token_id")
        listed = listed if isinstance(listed, list) else [listed]
        for token in listed:
            if token is not None and (type(token) is not int or token < 0):
                raise ValueError(
                    f"{directory / name}: eos_token_id must be one token's number or "
                    f"a list of them, got {token!r}"
                )
        ends += [token for token in listed if token is not None]
    return ends


def _template(directory: pathlib.Path, tokenizer: Any) -> ChatTemplate | None:
    """The folder's default chat template, once it has shown a message."""
    if tokenizer.chat_template is None:
        return None
    try:
        template = ChatTemplate(tokenizer, tokenizer.get_chat_template())
        shown = "hello" in template.render("hello", reply=True)
    except Exception as error:  # templates are programs of others
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{directory}: the chat template does not take a user's message ({said}); "
            "use a model whose template does"
        ) from error
    if not shown:
        raise ValueError(
            f"{directory}: the chat template leaves a user's message out; use a model "
            "whose template shows it"
        )
    return template


def _ends_of_answers(template: ChatTemplate, named: list[int]) -> list[int]:
    """The control token that the template puts after an answer, if it puts one."""
    tokenizer = template.tokenizer
    try:
        shown = template.render("hello", "answered", reply=False)
    except Exception:  # some templates write no answers
        shown = ""
    _, answered, after = shown.rpartition("answered")
    ids = tokenizer.encode(after, add_special_tokens=False) if answered else []
    control = as_text(tokenizer, tuple(named)).control
    found = [token for token in ids if token in control][:1]
    if not found and "<|im_end|>" in template.text:
        found = [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    return [token for token in found if token is not None]
