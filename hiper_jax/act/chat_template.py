"""A chat template, with the clock stopped: the same words on every day of a run."""

import datetime
from typing import Any, NamedTuple

CLOCK = "2025-01-01"  # what a template that asks for the time is told by itself
THINKING = {"default": None, "always": True, "never": False}  # by a setting's words
# `transformers` gives templates the time of day under this name.
_ASKS = "strftime_now"
_MACRO = (
    "{%- macro strftime_now(wanted) -%}"
    "{%- set said = namespace(text=wanted) -%}"
    "{%- for sign, word in stopped_clock.items() -%}"
    "{%- set said.text = said.text.replace(sign, word) -%}"
    "{%- endfor -%}{{- said.text -}}"
    "{%- endmacro +%}"  # what follows keeps its first line as it is
)
_SIGNS = [
    f"%{flag}{letter}" for flag in ("-", "") for letter in "aAwdbBmyYHIpMSfjUWcxX"
]


class ChatTemplate(NamedTuple):
    """How a tokenizer's folder writes a conversation."""

    tokenizer: Any  # transformers.PreTrainedTokenizerFast
    text: str  # Jinja
    thinking: bool | None = None  # told to the template; None: its own default
    clock: str = CLOCK  # ISO 8601, a date or a date with a time

    @property
    def asks_for_time(self) -> bool:
        """Whether its words depend on the clock."""
        return _ASKS in self.text

    def render(self, *said: str, reply: bool) -> str:
        """Writes messages, the user's first, in turns.

        Args:
          *said: the messages' texts.
          reply: whether what begins an answer comes last.

        Raises:
          ValueError: the clock is no time; or what the template itself raises.
        """
        roles = ("user", "assistant")
        options: dict[str, Any] = {}
        if self.thinking is not None:
            options["enable_thinking"] = self.thinking
        template = self.text
        if self.asks_for_time:
            template = _MACRO + template
            options["stopped_clock"] = _spoken(self.clock)
        return self.tokenizer.apply_chat_template(
            [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)],
            chat_template=template,
            add_generation_prompt=reply,
            tokenize=False,
            **options,
        )

    def set(self, thinking: bool | None, clock: str) -> "ChatTemplate":
        """The template with other settings.

        Raises:
          ValueError: the clock is no time, or the template knows nothing of thinking.
        """
        _spoken(clock)
        if thinking is not None and "enable_thinking" not in self.text:
            raise ValueError(
                f"enable_thinking is {thinking}, but this model's chat template never "
                "asks for it: leave it at its default"
            )
        return self._replace(thinking=thinking, clock=clock)


def _spoken(clock: str) -> dict[str, str]:
    """What each sign of `strftime` stands for at a time."""
    try:
        moment = datetime.datetime.fromisoformat(clock)
    except ValueError:
        raise ValueError(
            f"the templates' clock must be a date such as {CLOCK}, got {clock!r}"
        ) from None
    spoken = {sign: moment.strftime(sign.replace("-", "")) for sign in _SIGNS}
    bare = {s: w.lstrip("0") or "0" for s, w in spoken.items() if "-" in s}
    return spoken | bare | {"%%": "%"}
