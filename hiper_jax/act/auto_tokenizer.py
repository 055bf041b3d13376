"""A folder's tokenizer, as `transformers.AutoTokenizer` reads it, offline."""

import json
import os
import pathlib
from typing import Any

# Classes that add nothing to tokenizer.json; or none is named.
_PLAIN = (None, "PreTrainedTokenizerFast", "TokenizersBackend")


def read_tokenizer(directory: pathlib.Path) -> Any:
    """Reads a folder's tokenizer: added and special tokens, templates, first tokens.

    Where a folder names no class of its own, its tokenizer.json is all there is to it,
    also where `AutoTokenizer` would put the tokenizer of the model's family instead:
    that of another vocabulary would get pieces and ids that it does not have.

    Raises:
      FileNotFoundError: there is no `tokenizer.json`.
      ValueError: it, or a file beside it, cannot be read.
    """
    if not (directory / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{directory} holds no tokenizer.json; name a directory with a tokenizer "
            "in the Hugging Face format"
        )
    # Only tokenizers are used; that torch is missing is no news.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    settings = read_json(directory / "tokenizer_config.json")
    if settings.get("tokenizer_class") not in _PLAIN:
        from transformers import AutoTokenizer as reader
    else:
        from transformers import PreTrainedTokenizerFast as reader
    try:
        tokenizer: Any = reader.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # a foreign file can break any part of the reader
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{directory}: the tokenizer cannot be read ({type(error).__name__}: "
            f"{said}); fetch its files again"
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ValueError(
            f"{directory}: {type(tokenizer).__name__} does not read tokenizer.json, "
            "which is the kind that is used here"
        )
    # Prompts are cut elsewhere, by their budget.
    tokenizer.model_max_length = 10**30
    return tokenizer


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """The object that a JSON file holds; {} without the file.

    Raises:
      ValueError: it holds something else.
    """
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{file} is not JSON; fetch it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no JSON object; fetch it again")
    return found
