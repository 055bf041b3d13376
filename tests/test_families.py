"""A family of models is one entry of one table."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiper_jax.lm import qwen, weights
from hiper_jax.lm.config import num_params
from hiper_jax.lm.families import FAMILIES, LAYER, WHOLE, Family, make_config
from hiper_jax.lm.hf_config import from_hf, to_hf
from hiper_jax.lm.tensor_layout import layout

SIZES = dict(
    vocab_size=97,
    width=32,
    depth=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_width=48,
    rope_theta=1e4,
    max_positions=64,
)
# What the docs tell somebody to write for a family that is not here.
MISTRAL = Family("MistralForCausalLM", fields={"sliding_window": None})


@pytest.fixture
def mistral(monkeypatch):
    monkeypatch.setitem(FAMILIES, "mistral", MISTRAL)
    return make_config("mistral", tied=False, **SIZES)


def test_every_weight_of_every_family_has_its_names():
    for name in FAMILIES:
        config = make_config(name, tied=False, **SIZES)
        specs = qwen.abstract(config)
        assert set(specs["layers"]) <= set(LAYER) and set(specs) - {"layers"} == set(
            WHOLE
        )
        table = layout(config, specs)
        stored = sum(int(np.prod(tensor.theirs)) for tensor in table.values())
        assert stored == num_params(config)
    for names in (LAYER, WHOLE):
        for column in zip(*names.values(), strict=True):
            assert len(set(column)) == len(column)


def test_a_new_family_is_read_and_written_by_its_entry(mistral, tmp_path):
    params = qwen.init(mistral, jax.random.key(0))
    weights.save(tmp_path, params, mistral, dtype=jnp.float32)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["architectures"] == ["MistralForCausalLM"]
    assert stored["model_type"] == "mistral" and stored["sliding_window"] is None
    assert weights.read_config(tmp_path) == mistral
    loaded = weights.load(tmp_path, mistral)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    with pytest.raises(ValueError, match="sliding_window = 4096.* = None"):
        from_hf(stored | {"sliding_window": 4096})


def test_a_family_may_name_its_weights_otherwise(monkeypatch, tmp_path):
    norm = LAYER["mlp_norm"]._replace(hf="ffn_norm.weight")
    odd = dataclasses.replace(MISTRAL, layer={**LAYER, "mlp_norm": norm})
    monkeypatch.setitem(FAMILIES, "odd", odd)
    config = make_config("odd", **SIZES)
    table = layout(config, qwen.abstract(config))
    assert "model.layers.1.ffn_norm.weight" in table
    assert "model.layers.1.post_attention_layernorm.weight" not in table


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match="no model family 'mistral' here.*FAMILIES"):
        make_config("mistral", **SIZES)
    stranger = dataclasses.replace(make_config("llama", **SIZES), family="mistral")
    with pytest.raises(ValueError, match="no model family 'mistral'"):
        to_hf(stranger)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_new_familys_logits_are_those_of_transformers(mistral, tmp_path):
    torch = pytest.importorskip("torch", reason="install the extra `parity`")
    import transformers

    params = qwen.init(mistral, jax.random.key(1))
    params |= {"head": params["head"] * 20}
    weights.save(tmp_path, params, mistral, dtype=jnp.float32)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32
    )
    assert type(model).__name__ == "MistralForCausalLM"
    tokens = np.random.default_rng(0).integers(0, 97, (2, 19))
    with torch.no_grad():
        expected = model(torch.tensor(tokens)).logits.numpy()
    hidden = jax.jit(qwen.forward, static_argnums=1)(params, mistral, tokens)
    got = qwen.logits(params, mistral, hidden)
    assert expected.std() > 0.3
    np.testing.assert_allclose(got, expected, atol=2e-4)
