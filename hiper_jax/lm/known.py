"""Shapes of published models, so that they can be planned for without their weights.

Source: each model's public `config.json`.
"""

from collections.abc import Mapping

from hiper_jax.lm.config import LMConfig
from hiper_jax.lm.families import make_config


def _qwen2(width, depth, heads, groups, mlp, *, vocab=151936, tied=True) -> LMConfig:
    return make_config(
        "qwen2",
        vocab_size=vocab,
        width=width,
        depth=depth,
        num_heads=heads,
        num_kv_heads=groups,
        head_dim=width // heads,
        mlp_width=mlp,
        tied=tied,
    )


def _qwen3(width, depth, heads, mlp, *, tied=True) -> LMConfig:
    return make_config(
        "qwen3",
        vocab_size=151936,
        width=width,
        depth=depth,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=128,
        mlp_width=mlp,
        tied=tied,
        max_positions=40960,
    )


MODELS: Mapping[str, LMConfig] = {
    "qwen2.5-0.5b": _qwen2(896, 24, 14, 2, 4864),
    "qwen2.5-1.5b": _qwen2(1536, 28, 12, 2, 8960),
    "qwen2.5-3b": _qwen2(2048, 36, 16, 2, 11008),
    "qwen2.5-7b": _qwen2(3584, 28, 28, 4, 18944, vocab=152064, tied=False),
    "qwen3-0.6b": _qwen3(1024, 28, 16, 3072),
    "qwen3-1.7b": _qwen3(2048, 28, 16, 6144),
    "qwen3-4b": _qwen3(2560, 36, 32, 9728),
    "qwen3-8b": _qwen3(4096, 36, 32, 12288, tied=False),
    "qwen3-14b": _qwen3(5120, 40, 40, 17408, tied=False),
    "qwen3-32b": _qwen3(5120, 64, 64, 25600, tied=False),
    "smollm2-135m": make_config(
        "llama",
        vocab_size=49152,
        width=576,
        depth=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        mlp_width=1536,
        rope_theta=1e5,
        rms_eps=1e-5,
        max_positions=8192,
    ),
}
