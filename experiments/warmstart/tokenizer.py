"""A small byte-level tokenizer, trained on the world's own text."""

import json
import pathlib
import re
from collections.abc import Iterable, Sequence

END, PAD = "<|im_end|>", "<|pad|>"
BLOCKS = {"plan": ("switch", "subgoal", "action"), "flat": ("think", "action")}


def train_tokenizer(
    texts: Iterable[str],
    directory,
    *,
    vocab_size: int,
    phrases: Sequence[str] = (),
    names: Sequence[str] = (),
    format: str = "plan",
) -> None:
    """Trains byte-pair merges and writes `tokenizer.json` and its settings.

    Words keep their leading space, numbers stand alone, and the tags of the format are
    single tokens, so that every block starts and ends at a token.

    Args:
      texts: prompts and responses as the agent will see them.
      directory: where the two files go.
      vocab_size: tokens in all, special ones included.
      phrases: never cut before merging, so that each may become one token.
      names: each is one token, like the tags.
      format: of the responses, "plan" or "flat".
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models
    from tokenizers import pre_tokenizers as pre
    from tokenizers.trainers import BpeTrainer

    words = r" ?[A-Za-z]+| ?[0-9]+|[^A-Za-z0-9]"
    cut = "|".join([*map(re.escape, phrases), words])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Split(Regex(cut), "isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tags = [f"<{slash}{name}>" for name in BLOCKS[format] for slash in ("", "/")]
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(tags) - len(names),
        special_tokens=[PAD, END],
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False) for text in (*tags, *names)]
    )
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # Not by its own `save`, which on a full disk raises a bare Exception.
    text = tokenizer.to_str(pretty=True)
    (directory / "tokenizer.json").write_text(text, "utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=1) + "\n"
    )
