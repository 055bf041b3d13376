"""Prompts encoded in batches, line by line, have the ids of the whole."""

import json
import lzma
import pathlib

import numpy as np
import pytest
import small
import tokenizer_folders as folders

from hiper_jax.act import borders
from hiper_jax.act.borders import Lines, lines, splits_at_lines
from hiper_jax.act.codec import load_codec
from hiper_jax.act.envs.world import load_world
from hiper_jax.act.prompt import fit, fit_all, fit_prompt
from hiper_jax.experiments import starts

GOLDEN = pathlib.Path(__file__).parent / "golden" / "qwen_tokenizer"
BITS = (
    "\n \n\n \n  \n \r\n \t \x0b \x85 \u2028 \u200b a Ab 9 12 's 'LL é e\u0301 \u0338"
    " = < > - . — 中 😀 \xa0 <|im_end|> <tool_call> <|eot_id|> </s> [INST] <switch>"
    " \U00100000 go to: [unk] \x7f"
).split(" ")
OURS = ("warmstart", "warmstart-flat", "warmstart-webshop")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Qwen2.5's own tokenizer."""
    folder = tmp_path_factory.mktemp("qwen")
    packed = GOLDEN / "tokenizer.json.xz"
    (folder / "tokenizer.json").write_bytes(lzma.decompress(packed.read_bytes()))
    name = "tokenizer_config.json"
    (folder / name).write_bytes((GOLDEN / name).read_bytes())
    return load_codec(folder)


def prompts(style, number=6):
    """What is shown of a house while an agent walks through it."""
    rng = np.random.default_rng(0)
    template = load_world("alfworld").templates[style]
    places = [f"{kind} {i}" for kind in ("desk", "shelf", "bed") for i in range(1, 5)]
    history = []
    for place in rng.permutation(places)[:number]:
        seen = f"You arrive at {place}. On the {place}, you see a mug 2, and a pen 1."
        yield template(
            "put a mug",
            history,
            seen,
            "find a mug",
            [f"go to {p}" for p in places],
            history_length=2,
        )
        history.append((seen, f"go to {place}"))


def odd(number=60):
    """Texts of whatever may meet at a border."""
    rng = np.random.default_rng(1)
    for size in rng.integers(0, 40, number):
        parts = rng.choice([*BITS, " ", "\n", "\n"], size)
        yield "".join(parts)


def texts():
    return [*prompts("full"), *prompts("terse"), *odd(), "", "\n", "a\n", "\nb", "a\nb"]


def check(codec):
    asked = texts()
    for _ in range(2):  # at first, and of lines that are known
        found = codec.encode_prompts(asked)
        for text, ids in zip(asked, found, strict=True):
            assert ids.dtype == np.int32
            assert ids.tolist() == codec.encode_prompt(text), repr(text)
    assert codec.encode_prompts([]) == []


@pytest.mark.parametrize("make", folders.FOLDERS, ids=lambda make: make.__name__)
def test_many_prompts_have_the_ids_of_each_in_every_folder(make, tmp_path):
    codec = load_codec(make(tmp_path / "model"))
    check(codec)
    whole = make in (folders.mistral, folders.gemma, folders.base_metaspace)
    assert codec._lines._cuts == (not whole)


@pytest.mark.parametrize("name", OURS)
def test_many_prompts_have_the_ids_of_each_in_the_models_that_come_with_us(name):
    codec = load_codec(starts.ASSETS / name)
    check(codec)
    # WebShop's has pieces that run over line feeds.
    assert codec._lines._cuts == (name != "warmstart-webshop")


def test_many_prompts_have_the_ids_of_each_in_a_published_vocabulary(published):
    check(published)
    assert published._lines._cuts


def test_lines_that_are_known_are_not_encoded_again(monkeypatch):
    made, seen = Lines(small.codec().tokenizer), []
    encode = made._encode
    monkeypatch.setattr(made, "_encode", lambda t: seen.append(list(t)) or encode(t))
    first, second = ("a b\nc\n", "a b\nd\n")
    made.encode([first, first])
    made.encode([first, second])
    assert [sorted(asked) for asked in seen] == [["a b\n", "c\n"], ["d\n"]]
    monkeypatch.setattr(borders, "_KEPT", 2)
    assert made.encode([second])[0].tolist() == encode([second])[0].tolist()
    assert len(made._kept) == 2  # they do not grow without end


def test_lines_joined_are_the_text_and_end_only_between_printed_characters():
    for text in texts():
        parts = lines(text)
        assert "".join(parts) == text
        for left, right in zip(parts, parts[1:], strict=False):
            assert (
                left[-1] == "\n" and "!" <= left[-2] <= "~" and "!" <= right[0] <= "~"
            )
    assert lines("a\nb\n\nc\n d\ne") == ["a\n", "b\n\nc\n d\n", "e"]


def joining(pattern):
    return lambda s: s["pre_tokenizer"]["pretokenizers"][0].update(
        pattern={"Regex": pattern}
    )


@pytest.mark.parametrize(
    "change",
    [
        joining(r"\s?\p{L}+|\s+"),  # a line feed with a letter behind it
        joining(r"\p{L}+|\p{N}|\s+(?!\S)"),  # line feeds that nothing matches
        joining(r"a\nb|\s+| ?\p{L}+"),
        joining("a\\\nb|\\s+"),
        joining(r".+|\s+"),
        lambda s: s["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"),
        lambda s: s["pre_tokenizer"]["pretokenizers"][0].update(invert=True),
        lambda s: s["pre_tokenizer"]["pretokenizers"][0]["pattern"].pop("Regex"),
        lambda s: s["pre_tokenizer"]["pretokenizers"].pop(0),
        lambda s: s["pre_tokenizer"]["pretokenizers"].append({"type": "Metaspace"}),
        lambda s: s.update(pre_tokenizer=None),
        lambda s: s.update(normalizer={"type": "Lowercase"}),
        lambda s: s["model"].update(dropout=0.1),
        lambda s: s["model"].update(type="Unigram"),
        lambda s: s["added_tokens"][0].update(lstrip=True),
        lambda s: s["added_tokens"][0].update(single_word=True),
        lambda s: s["added_tokens"][0].update(content="a\nb"),
    ],
)
def test_a_tokenizer_that_might_join_lines_is_not_cut(change, tmp_path):
    file = folders.qwen25(tmp_path / "model") / "tokenizer.json"
    state = json.loads(file.read_bytes())
    assert splits_at_lines(state)
    change(state)
    assert not splits_at_lines(state)


def test_a_pattern_that_joins_lines_would_be_seen_by_the_ids():
    """What `splits_at_lines` refuses is refused for a reason."""
    from tokenizers import Regex
    from tokenizers import pre_tokenizers as pre

    made = folders.byte_level("x")
    parts = [
        pre.Split(Regex(r"\s?\p{L}+|\s+"), "isolated"),
        pre.ByteLevel(False, True, False),
    ]
    made.pre_tokenizer = pre.Sequence(parts)
    assert made.pre_tokenizer.pre_tokenize_str("a\nb")[1][0] == "Ċb"


def test_what_others_set_in_the_tokenizer_does_not_count(tmp_path):
    codec = load_codec(folders.qwen25(tmp_path / "model"))
    text = "go <|im_end|>\nto"
    expected = codec._lines.encode([text, "a"])
    codec._lines._kept.clear()
    codec.tokenizer(["a", text], padding=True, truncation=True, max_length=2)
    codec.tokenizer(text, split_special_tokens=True)
    for ids, whole in zip(codec._lines.encode([text, "a"]), expected, strict=True):
        assert ids.tolist() == whole.tolist()


def test_prompts_that_fit_together_are_those_that_fit_alone():
    codec, template = small.codec(), load_world("alfworld").templates["full"]
    history = [("You see a bed 1.", "look"), ("You see a desk 2.\n\nIt is open.", "go")]
    actions = [f"go to desk {i}" for i in range(30)]
    asked = [
        (room, "find the book", history[:n], "A room.\n" * 9, "", actions[: 10 * n])
        for room in (4, 60, 200, 300, 500, 900)
        for n in (0, 1, 2)
    ]
    fitted = fit_all([fit(*a, template=template) for a in asked], codec.encode_prompts)
    for (room, *rest), both in zip(asked, fitted, strict=True):
        alone = fit_prompt(codec.encode_prompt, room, *rest, template=template)
        assert both.ids.tolist() == list(alone.ids)
        assert (both.text, both.shortened) == (alone.text, alone.shortened)
    assert {f.shortened for f in fitted} == {True, False}
