"""The same numbers as the torch models of `transformers`, family by family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiper_jax.act.buckets import pad_prompts
from hiper_jax.act.generate import make_generate
from hiper_jax.lm import qwen, score, tensor_layout, weights
from hiper_jax.lm import qwen_cache as cache

torch = pytest.importorskip("torch", reason="install the extra `parity`")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

BASE = dict(
    vocab_size=97,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=80,
    max_position_embeddings=256,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
CASES = {
    "qwen2-tied": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen2-untied-yarn": (
        "Qwen2",
        dict(tie_word_embeddings=False, rope_parameters=YARN),
    ),
    "qwen3": ("Qwen3", dict(tie_word_embeddings=True, head_dim=16)),
    "llama-llama3": ("Llama", dict(tie_word_embeddings=False, rope_parameters=LLAMA3)),
    "llama-linear-1head": (
        "Llama",
        dict(tie_word_embeddings=True, num_key_value_heads=1, rope_parameters=LINEAR),
    ),
}


@functools.cache
def _torch_model(case):
    import transformers

    family, changes = CASES[case]
    config = getattr(transformers, f"{family}Config")(**BASE | changes)
    config._attn_implementation = "eager"
    torch.manual_seed(len(case))
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(0.0, 0.5 if "embed" in name else 0.15)
    return model


@pytest.fixture(scope="module", params=CASES)
def models(request, tmp_path_factory):
    model = _torch_model(request.param)
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    config = weights.read_config(path)
    return model, config, weights.load(path, config)


def _rows(lengths, width):
    rng = np.random.default_rng(3)
    tokens = np.zeros((len(lengths), width), np.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = rng.integers(0, 97, length)
    return tokens, np.arange(width)[None] < np.array(lengths)[:, None]


def test_logits_with_padding_and_packing(models):
    model, config, params = models
    lengths = [40, 7, 23]
    tokens, mask = _rows(lengths, 40)
    with torch.no_grad():
        expected = model(
            torch.tensor(tokens), attention_mask=torch.tensor(mask)
        ).logits.numpy()
    assert expected.std() > 0.5

    @jax.jit
    def logits(tokens, segment):
        hidden = qwen.forward(params, config, tokens, segment=segment)
        return qwen.logits(params, config, hidden)

    padded = logits(jnp.asarray(tokens), None)
    np.testing.assert_allclose(padded[mask], expected[mask], atol=2e-4)
    packed = tokens[mask][None]
    segment = np.repeat(np.arange(3), lengths)[None]
    packed = logits(jnp.asarray(packed), jnp.asarray(segment))[0]
    np.testing.assert_allclose(packed, expected[mask], atol=2e-4)


def test_gradients(models):
    model, config, params = models
    tokens, mask = _rows([20, 11], 20)
    targets, mask = tokens[:, 1:], mask[:, 1:]
    model.zero_grad()
    log_prob = torch.log_softmax(model(torch.tensor(tokens)).logits[:, :-1], -1)
    chosen = log_prob.gather(-1, torch.tensor(targets)[..., None])[..., 0]
    entropy = -(log_prob.exp() * log_prob).sum(-1)
    ((chosen + 0.1 * entropy) * torch.tensor(mask)).sum().backward()

    @jax.jit
    @jax.grad
    def grad(params):
        hidden = qwen.forward(params, config, jnp.asarray(tokens), remat="dots")
        chosen, entropy = score.log_prob_and_entropy(
            params, config, hidden[:, :-1], jnp.asarray(targets), chunk=16
        )
        return ((chosen + 0.1 * entropy) * mask).sum()

    table = tensor_layout.layout(config, qwen.abstract(config))
    expected = {name: p.grad.numpy() for name, p in model.named_parameters()}
    assert set(expected) == set(table)
    ours = weights.fill(expected, config, qwen.abstract(config))
    got = grad(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(ours), strict=True):
        assert np.abs(np.asarray(a - b)).max() < 1e-3 * np.abs(np.asarray(b)).max()


def test_greedy_text_token_for_token(models):
    model, config, params = models
    tokens, _ = _rows([9, 9, 9], 9)
    with torch.no_grad():
        expected = model.generate(
            torch.tensor(tokens),
            attention_mask=torch.ones_like(torch.tensor(tokens)),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        ).numpy()[:, 9:]
    generate = make_generate(
        lambda p, t, n, room: cache.prefill(p, config, t, n, room),
        lambda p, t, state: cache.decode_step(p, config, t, state),
        max_new=12,
        eos_id=-1,
    )
    padded, lengths = pad_prompts(list(tokens.astype(np.int32)), rows=[4], tokens=[16])
    got, _, _ = generate(params, padded, lengths, jax.random.key(0), 0.0)
    np.testing.assert_array_equal(got[:3], expected)


def test_transformers_loads_what_we_save(models, tmp_path):
    import transformers

    model, config, params = models
    weights.save(tmp_path, params, config, dtype=jnp.float32, max_bytes=60_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32
    )
    assert type(again) is type(model)
    tokens, _ = _rows([30], 30)
    with torch.no_grad():
        a, b = (m(torch.tensor(tokens)).logits for m in (model, again))
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert weights.read_config(tmp_path) == config
