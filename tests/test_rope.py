"""Stretched rotations: as `transformers` computes them, or refused by name."""

import json
import logging

import numpy as np
import pytest

from hiper_jax.lm.config import RopeScaling, tiny
from hiper_jax.lm.hf_config import from_hf, to_hf
from hiper_jax.lm.positions import rope_frequencies

BASE = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "vocab_size": 32,
}


def made(family, theta, longest, head_dim=128, layout="rope_scaling", **rope):
    top = {k: rope.pop(k) for k in list(rope) if k == "top_original"}
    if layout == "rope_parameters":
        rope["rope_theta"] = theta
    else:
        top["rope_theta"] = theta
    if "top_original" in top:
        top["original_max_position_embeddings"] = top.pop("top_original")
    numbers = {"max_position_embeddings": longest, "head_dim": head_dim}
    return (
        BASE | {"model_type": family} | numbers | top | ({layout: rope} if rope else {})
    )


LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 8192
YARN4 = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
MADE_4K = {"rope_type": "yarn", "original_max_position_embeddings": 4096}
PUBLISHED = {
    "llama-2-7b": made("llama", 1e4, 4096),
    "llama-3-8b": made("llama", 5e5, 8192),
    "llama-3.1-8b": made("llama", 5e5, 131072, **LLAMA3, factor=8.0),
    "llama-3.2-1b": made("llama", 5e5, 131072, 64, **LLAMA3, factor=32.0),
    "llama-3.3-70b": made("llama", 5e5, 131072, layout="rope_parameters", **LLAMA3,
                          factor=8.0),
    "vicuna-16k": made("llama", 1e4, 16384, type="linear", factor=4.0),
    "deepseek-coder-6.7b": made("llama", 1e5, 16384, type="linear", factor=4.0),
    "longchat-7b": made("llama", 1e4, 16384, rope_type="linear", factor=8),
    "yi-200k": made("llama", 5e6, 200000),
    "smollm2-135m": made("llama", 1e5, 8192, 64),
    "qwen2.5-7b": made("qwen2", 1e6, 32768),
    "qwen2.5-7b-yarn": made("qwen2", 1e6, 32768, **YARN4),
    "qwen2.5-yarn-old-name": made("qwen2", 1e6, 131072, type="yarn", factor=4.0),
    "qwen3-8b": made("qwen3", 1e6, 40960),
    "qwen3-8b-yarn": made("qwen3", 1e6, 131072, **YARN4),
    "qwen3-2507-yarn": made("qwen3", 5e6, 1010000, rope_type="yarn", factor=4.0,
                            original_max_position_embeddings=262144),
    "yarn-llama-2-64k": made("llama", 1e4, 65536, **MADE_4K, factor=16.0),
    "deepseek-v2-lite": made("llama", 1e4, 163840, 64, **MADE_4K, factor=40,
                             beta_fast=32, beta_slow=1, mscale=0.707,
                             mscale_all_dim=0.707),
    "deepseek-v2-chat": made("llama", 1e4, 163840, 64, **MADE_4K, factor=40,
                             beta_fast=32, beta_slow=1, mscale=1.0,
                             mscale_all_dim=0.707),
    "one-mscale": made("llama", 1e4, 163840, 64, **MADE_4K, factor=40, mscale=1.0),
    "mscale-of-none": made("llama", 1e4, 163840, 64, **MADE_4K, factor=40, mscale=0,
                           mscale_all_dim=1.0),
    "gpt-oss-like": made("llama", 150000, 131072, 64, **MADE_4K, factor=32.0,
                         beta_fast=32.0, beta_slow=1.0, truncate=False),
    "given-attention": made("qwen2", 1e6, 131072, **YARN4, attention_factor=1.25),
    "factor-of-the-lengths": made("llama", 1e4, 131072, **MADE_4K, factor=None),
    "original-at-the-top": made("llama", 1e4, 131072, **MADE_4K, factor=8.0,
                                top_original=2048),
    "no-stretch": made("llama", 1e4, 4096, **MADE_4K, factor=1.0),
    "narrow-ramp": made("llama", 100.0, 65536, 16, **MADE_4K, factor=16.0),
}  # fmt: skip


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", PUBLISHED)
def test_rotations_are_those_of_transformers(name):
    pytest.importorskip("torch", reason="install the extra `parity`")
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    logging.getLogger("transformers").setLevel(logging.ERROR)
    hf = PUBLISHED[name]
    kinds = {"llama": "LlamaConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config"}
    copied = json.loads(json.dumps(hf))
    theirs = getattr(transformers, kinds[copied.pop("model_type")])(**copied)
    kind = theirs.rope_parameters["rope_type"]
    config = from_hf(hf)
    assert (config.rope_scaling is None) == (kind == "default")
    omega, factor = rope_frequencies(config)
    if kind == "default":
        expected = theirs.rope_parameters["rope_theta"] ** -(
            np.arange(0, theirs.head_dim, 2) / theirs.head_dim
        )
        scale = 1.0
    else:
        expected, scale = ROPE_INIT_FUNCTIONS[kind](theirs, "cpu")
    np.testing.assert_allclose(omega, np.asarray(expected), rtol=1e-6)
    np.testing.assert_allclose(factor, scale, rtol=1e-12)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_stretch_that_is_written_reads_back(name):
    config = from_hf(PUBLISHED[name])
    again = from_hf(json.loads(json.dumps(to_hf(config))))
    assert again == config


def test_yarn_by_hand():
    """head_dim 8, base 10^4: dimension i makes one turn in 2 pi 10^i tokens."""
    scaling = RopeScaling("yarn", 10.0, 6284, 1.0, 10.0, truncate=False)
    omega, factor = rope_frequencies(
        tiny(head_dim=8, rope_theta=1e4, rope_scaling=scaling)
    )
    # Ten turns in the original length at i = 2, one turn at i = 3.
    np.testing.assert_allclose(omega * 10.0 ** np.arange(4), [1, 1, 1, 0.1], rtol=1e-3)
    assert factor == 0.1 * np.log(10.0) + 1


@pytest.mark.parametrize(
    "rope, message",
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "'dynamic'; use linear, llama3"),
        ({"type": "su", "factor": 2.0}, "'su'"),
        ({"rope_type": "proportional"}, "'proportional'"),
        ({"rope_type": "yarn"}, "factor = None"),
        ({"rope_type": "linear", "factor": "2"}, "factor = '2'"),
        ({"rope_type": "linear", "factor": True}, "factor = True"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor = None"),
        (
            {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5},
            "a part",
        ),
        ({"full_attention": {"rope_type": "default"}}, "each kind of layer"),
    ],
)
def test_a_stretch_that_is_not_computed_is_refused_by_name(rope, message):
    with pytest.raises(ValueError, match=message):
        from_hf(made("llama", 1e4, 4096) | {"rope_scaling": rope})
