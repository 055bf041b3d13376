"""Reading and writing the shape of a model."""

import json

import numpy as np
import pytest

from hiper_jax.lm.config import RopeScaling, tiny
from hiper_jax.lm.hf_config import from_hf, to_hf
from hiper_jax.lm.positions import rope_frequencies

QWEN = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "max_position_embeddings": 32768,
}


def test_reads_a_published_qwen():
    config = from_hf(QWEN, dtype="bfloat16")
    assert config.head_dim == 128 and config.qkv_bias and not config.qk_norm
    assert config.rope_theta == 1e6 and config.tied and config.dtype == "bfloat16"
    assert hash(config) == hash(from_hf(QWEN, dtype="bfloat16"))


def test_reads_both_layouts_of_the_rotary_settings():
    scaling = {"type": "linear", "factor": 2.0}
    old = QWEN | {"rope_scaling": scaling}
    new = {k: v for k, v in QWEN.items() if k != "rope_theta"}
    new["rope_parameters"] = {
        "rope_type": "linear",
        "factor": 2.0,
        "rope_theta": 1000000.0,
    }
    assert from_hf(old) == from_hf(new)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"family": "qwen3", "qkv_bias": False, "qk_norm": True, "tied": False},
        {"family": "llama", "qkv_bias": False},
        {"rope_scaling": RopeScaling("linear", 2.0, 2048)},
        {"rope_scaling": RopeScaling("llama3", 8.0, 512, 1.0, 4.0)},
        {"rope_scaling": RopeScaling("yarn", 4.0, 512, 1.0, 32.0, 1.5)},
    ],
)
def test_what_is_written_is_read_back(changes):
    config = tiny(**changes)
    assert from_hf(json.loads(json.dumps(to_hf(config)))) == config


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("model_type", "mamba", "model_type 'mamba'"),
        ("hidden_act", "gelu", "hidden_act = 'gelu'"),
        ("use_sliding_window", True, "use_sliding_window"),
        ("rope_scaling", {"rope_type": "longrope"}, "linear, llama3 or yarn"),
        ("num_key_value_heads", 5, "must divide num_heads"),
    ],
)
def test_what_is_not_computed_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        from_hf(QWEN | {field: value})


def test_frequencies_by_hand():
    omega, factor = rope_frequencies(tiny(head_dim=4, rope_theta=100.0))
    np.testing.assert_allclose(omega, [1.0, 0.1])
    assert factor == 1.0
    scaled = tiny(
        head_dim=4, rope_theta=100.0, rope_scaling=RopeScaling("linear", 4.0, 99)
    )
    np.testing.assert_allclose(rope_frequencies(scaled)[0], [0.25, 0.025])


def test_stretch_keeps_fast_rotations_and_slows_slow_ones():
    for kind, high in (("llama3", 4.0), ("yarn", 32.0)):
        scaling = RopeScaling(kind, 8.0, 512, 1.0, high)
        plain, _ = rope_frequencies(tiny(head_dim=64))
        omega, _ = rope_frequencies(tiny(head_dim=64, rope_scaling=scaling))
        ratio = omega / plain
        assert ratio[0] == 1.0 and np.isclose(ratio[-1], 1 / 8)
        assert (np.diff(ratio) <= 1e-12).all()
