"""Small tokenizer folders in the styles of published models, made by the tests."""

import json

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
)
from tokenizers import pre_tokenizers as pre

QWEN_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"
    r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = [("g", "o"), ("Ġ", "t"), ("Ġt", "o"), ("<", "|"), ("|", ">"), ("Ċ", "Ċ")]
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}",
)
DATED = (
    "{{ bos_token }}{% set day = strftime_now('%d %b %Y') %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday: {{ day }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def byte_level(cut=None, special=(), plain=(), bos=None, normalizer=None):
    """A byte-level tokenizer of 256 bytes and a few merges."""
    pieces = sorted(pre.ByteLevel.alphabet()) + ["".join(pair) for pair in MERGES]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    made.pre_tokenizer = pre.ByteLevel(add_prefix_space=False, use_regex=cut is None)
    if cut is not None:
        parts = [pre.Split(Regex(cut), "isolated"), made.pre_tokenizer]
        made.pre_tokenizer = pre.Sequence(parts)
    if normalizer is not None:
        made.normalizer = normalizer
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    made.add_tokens([AddedToken(t, normalized=False) for t in plain])
    _put_first(made, bos)
    return made


def metaspace(names, bos=None, added=(), prepend="always"):
    """A tokenizer of the SentencePiece kind: words from `▁`, bytes where need be."""
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    letters = [*"▁abcdefghijklmnopqrstuvwxyz<>|_/[]INST123.\n", "▁t", "▁to", "go"]
    vocabulary = {p: i for i, p in enumerate([*names, *bytes_, *letters])}
    made = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[("▁", "t"), ("▁t", "o"), ("g", "o")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    if prepend == "never":
        made.normalizer = normalizers.Replace(" ", "▁")
        steps = []
    else:
        made.pre_tokenizer = pre.Metaspace(prepend_scheme=prepend, split=False)
        steps = [decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *steps,
        ]
    )
    made.add_special_tokens([AddedToken(t, normalized=False) for t in names])
    made.add_special_tokens([AddedToken(t, normalized=False) for t in added])
    _put_first(made, bos)
    return made


def _put_first(made, bos):
    if bos is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
        )


def write(folder, tokenizer, settings=None, **files):
    """A folder of tokenizer.json, tokenizer_config.json and others by their stem."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings is not None:
        files["tokenizer_config"] = settings
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3 = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
)  # fmt: skip
CHAT_ENDS = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast"}


def qwen25(folder):
    made = byte_level(QWEN_CUT, CHAT, ("<tool_call>",), normalizer=normalizers.NFC())
    settings = {"tokenizer_class": "Qwen2Tokenizer", "chat_template": CHATML}
    both = {"eos_token_id": [264, 262]}
    return write(folder, made, settings | CHAT_ENDS, generation_config=both)


def qwen3(folder):
    thoughts = ("<think>", "</think>")
    made = byte_level(QWEN_CUT, CHAT, thoughts, normalizer=normalizers.NFC())
    return write(folder, made, PLAIN | CHAT_ENDS | {"chat_template": THINKS})


def llama3(folder):
    made = byte_level(None, LLAMA3, bos="<|begin_of_text|>")
    names = {"bos_token": LLAMA3[0], "eos_token": "<|eot_id|>"}
    listed = {"eos_token_id": [263, 266, 267]}
    settings = PLAIN | names | {"chat_template": DATED}
    return write(folder, made, settings, generation_config=listed)


def smollm2(folder):
    made = byte_level(None, CHAT)
    made.pre_tokenizer = pre.Sequence([pre.Digits(True), made.pre_tokenizer])
    settings = {"tokenizer_class": "GPT2Tokenizer", "chat_template": CHATML}
    more = {"added_tokens_decoder": _entries(made)}
    return write(folder, made, settings | CHAT_ENDS | more)


def mistral(folder):
    made = metaspace(("<unk>", "<s>", "</s>"), bos="<s>", added=("[INST]", "[/INST]"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "chat_template": INST}
    return write(folder, made, settings | names | {"add_bos_token": True})


def gemma(folder):
    names = ("<pad>", "<eos>", "<bos>", "<unk>")
    made = metaspace(
        names, "<bos>", ("<start_of_turn>", "<end_of_turn>"), prepend="never"
    )
    roles = {f"{name[1:-1]}_token": name for name in names}
    listed = {"eos_token_id": [1, made.token_to_id("<end_of_turn>")]}
    settings = {"tokenizer_class": "GemmaTokenizer", "chat_template": TURNS}
    return write(folder, made, settings | roles, generation_config=listed)


def base_with_bos(folder):
    made = byte_level(None, ("<|doc|>", "<|doc_end|>"), bos="<|doc|>")
    return write(folder, made, {"bos_token": "<|doc|>", "eos_token": "<|doc_end|>"})


def base_metaspace(folder):
    made = metaspace(("<unk>", "<s>", "</s>"), bos="<s>", prepend="first")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return write(folder, made, PLAIN | names)


def only_in_the_map(folder):
    listed = {"eos_token": {"content": "<|im_end|>", "lstrip": False}}
    listed["pad_token"] = "<|endoftext|>"
    made = byte_level(None, CHAT)
    return write(folder, made, {"model_max_length": 64}, special_tokens_map=listed)


def added_late(folder):
    """Tokens that tokenizer.json does not have, only the settings."""
    late = _entries(byte_level(None, ("<|a|>", "<|b|>", "<|stop|>")))
    settings = {"eos_token": "<|stop|>", "added_tokens_decoder": late}
    return write(folder, byte_level(), settings)


def added_by_file(folder):
    """The oldest way: added_tokens.json."""
    added = {"<|a|>": 262, "<|stop|>": 263}
    return write(folder, byte_level(), {"eos_token": "<|stop|>"}, added_tokens=added)


def named_templates(folder):
    templates = [
        {"name": "tool_use", "template": "no"},
        {"name": "default", "template": CHATML},
    ]
    settings = PLAIN | CHAT_ENDS | {"chat_template": templates}
    return write(folder, byte_level(None, CHAT), settings)


def template_files(folder):
    """The template in a file of its own counts, not that of the settings."""
    settings = PLAIN | CHAT_ENDS | {"chat_template": "no"}
    write(folder, byte_level(None, CHAT), settings)
    (folder / "chat_template.jinja").write_text(CHATML)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("no")
    return folder


def _entries(tokenizer):
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return {
        str(token): {flag: getattr(entry, flag) for flag in flags}
        for token, entry in tokenizer.get_added_tokens_decoder().items()
    }


FOLDERS = (
    qwen25, qwen3, llama3, smollm2, mistral, gemma, base_with_bos, base_metaspace,
    only_in_the_map, added_late, added_by_file, named_templates, template_files,
)  # fmt: skip
