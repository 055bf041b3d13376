"""Small inputs after bug reports of neighbouring projects, each read as it should be.

What the faults' kinds are is tested elsewhere; docs/reliability.md says where.
"""

import pathlib
import shutil

import pytest

from hiper_jax.act.codec import load_codec
from hiper_jax.experiments import recipes
from hiper_jax.experiments.settings import filled, read_file
from hiper_jax.lm import gguf, weights_gguf

CASES = pathlib.Path(__file__).parent / "golden" / "cases"


def theirs(name: str):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(CASES / name)


def test_every_end_that_a_folder_lists_ends_a_response():
    codec = load_codec(CASES / "two_ends")
    assert set(codec.end_ids) == {257, 260, 261}
    for end in codec.end_ids:
        assert codec.decode([*codec.encode_response("look")[:-1], end]) == "look"


def test_a_user_defined_token_is_one_id_that_reads_back(tmp_path):
    weights_gguf.convert(CASES / "gguf" / "noted.gguf", tmp_path)
    codec = load_codec(tmp_path)
    ids = codec.tokenizer.encode("a<note>b</note>", add_special_tokens=False)
    assert 257 in ids and 258 in ids and len(ids) == 4
    assert codec.tokenizer.decode(ids) == "a<note>b</note>"


@pytest.mark.parametrize(
    "name, words",
    [
        ("nameless.gguf", "general.architecture"),
        ("untyped.gguf", "tokenizer.ggml.token_type"),
        ("noted-00001-of-00002.gguf", "one shard of a model"),
    ],
)
def test_a_gguf_file_that_cannot_be_read_is_refused_by_its_name(name, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        weights_gguf.convert(CASES / "gguf" / name, tmp_path / "model")
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()
    assert name == "noted.gguf" or "another model" not in str(caught.value)


def test_a_templates_thinking_is_turned_off():
    codec = load_codec(CASES / "thinking")
    assert codec.encode_prompt("look") == theirs("thinking").apply_chat_template(
        [{"role": "user", "content": "look"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    off = codec.set_template(False, "2025-01-01").encode_prompt("look")
    assert codec.tokenizer.decode(off).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["base_bos", "map_only", "late_tokens"])
def test_tokens_are_those_of_transformers(name):
    codec, tokenizer = load_codec(CASES / name), theirs(name)
    assert codec.eos_id == tokenizer.eos_token_id
    assert codec.tokenizer.get_vocab() == tokenizer.get_vocab()
    for text in ("go to bed 1", "", " a\n\ncafé"):
        assert codec.encode_prompt(text) == tokenizer(text)["input_ids"], text
    spelled = "".join(tokenizer.all_special_tokens)
    assert not set(tokenizer.all_special_ids) & set(codec.encode_prompt(spelled)[1:])


def test_special_tokens_have_the_ids_that_a_folder_gives_them():
    assert load_codec(CASES / "base_bos").encode_prompt("a")[0] == 256
    assert load_codec(CASES / "map_only").end_ids == (258,)
    late = load_codec(CASES / "late_tokens")
    names = ["<|a|>", "<|b|>", "<|stop|>"]
    assert late.tokenizer.convert_tokens_to_ids(names) == [256, 257, 258]
    assert late.end_ids == (258,)


@pytest.mark.parametrize(
    "file", sorted(CASES.glob("settings/*.yaml")), ids=lambda file: file.stem
)
def test_settings_are_numbers_or_refused_in_one_line(file):
    recipe = recipes.recipe("quickstart")
    if file.stem == "rates":
        made = filled(recipe, read_file(file), file)
        assert (made.actor_lr, made.critic_lr, made.learn.kl_coef) == (1e-4, 5e-4, 0.01)
        return
    if file.stem == "whole_as_exponent":
        made = filled(recipe, read_file(file), file)
        assert made.episodes == 100 and type(made.episodes) is int
        return
    values = read_file(file)
    (name,) = values
    inner = (
        f"{name}.{next(iter(values[name]))}" if isinstance(values[name], dict) else name
    )
    with pytest.raises(ValueError) as caught:
        filled(recipe, values, file)
    said = str(caught.value)
    assert said.startswith(f"{inner} ") and said.endswith(f"(in {file})")
    assert "\n" not in said


def test_a_shard_that_is_whole_by_its_name_is_read(tmp_path):
    shutil.copy(CASES / "gguf" / "noted.gguf", tmp_path / "a-00001-of-00001.gguf")
    assert gguf.read(tmp_path / "a-00001-of-00001.gguf")[1]
