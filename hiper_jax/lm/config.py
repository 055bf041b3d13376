"""The shape of a language model: one frozen record.

All families share one network and differ by flags: biases on q, k and v (Qwen2), RMS
norm on each q and k head (Qwen3), neither (Llama); and by how rotations are stretched.
"""

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the pre-training length.

    Attributes:
      kind: "linear", "llama3" or "yarn".
      factor: how many times longer the context becomes.
      original: tokens, the pre-training context length.
      low, high: "llama3": low/high frequency factors; "yarn": beta_slow/beta_fast.
      attention: "yarn": multiplies cos and sin; None means 0.1 ln(factor) + 1, and 1
        for a factor of at most 1.
      truncate: "yarn": the ramp's ends are rounded outwards to whole frequencies.
    """

    kind: str
    factor: float
    original: int
    low: float = 1.0
    high: float = 4.0
    attention: float | None = None
    truncate: bool = True


def yarn_attention(factor: float, scale: float = 1.0) -> float:
    """YaRN: what cos and sin are multiplied by, for a stretch by `factor`."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


# No model is larger; what a file claims is looked at before anything is allocated.
_MOST = {
    "vocab_size": 2**24,
    "width": 2**20,
    "depth": 10_000,
    "num_heads": 2**16,
    "num_kv_heads": 2**16,
    "head_dim": 2**16,
    "mlp_width": 2**24,
}


@dataclasses.dataclass(frozen=True)
class LMConfig:
    """Every number that fixes the network; hashable, so static under `jit`.

    Attributes:
      vocab_size: V, rows of the embedding.
      width: D, of the residual stream.
      depth: layers.
      num_heads, num_kv_heads: query heads, and key/value heads that they share.
      head_dim: width of a head.
      mlp_width: inner width of the SwiGLU block.
      family: key of `families.FAMILIES`; only names the file format.
      qkv_bias: q, k and v have biases (Qwen2).
      qk_norm: q and k heads are RMS-normalised before the rotation (Qwen3).
      tied: the head is the embedding.
      rope_theta, rope_scaling: rotary base, and its stretch if any.
      rms_eps: added to the mean square in every norm.
      max_positions: tokens; only written to the file.
      dtype: the compute type, "float32" or "bfloat16"; weights keep their own.
    """

    vocab_size: int
    width: int
    depth: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    family: str = "qwen2"
    qkv_bias: bool = True
    qk_norm: bool = False
    tied: bool = True
    rope_theta: float = 1e6
    rope_scaling: RopeScaling | None = None
    rms_eps: float = 1e-6
    max_positions: int = 32768
    dtype: str = "float32"

    def __post_init__(self):
        for name, most in _MOST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(
                    f"{name} must be a whole number from 1 to {most}, got {value!r}."
                )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads, got {self.num_kv_heads} and "
                f"{self.num_heads}."
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, got {self.head_dim}.")


def tiny(vocab_size: int = 512, **changes: Any) -> LMConfig:
    """Returns a Qwen2-shaped model small enough to train on two CPU cores."""
    base = LMConfig(
        vocab_size=vocab_size,
        width=128,
        depth=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        mlp_width=384,
        rope_theta=1e4,
        max_positions=2048,
    )
    return dataclasses.replace(base, **changes)


def num_params(config: LMConfig) -> int:
    """Returns how many weights the model has; a tied head counts once."""
    c = config
    heads = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim
    attention = c.width * (heads + c.num_heads * c.head_dim)
    attention += c.qkv_bias * heads + c.qk_norm * 2 * c.head_dim
    layer = attention + 3 * c.width * c.mlp_width + 2 * c.width
    return c.depth * layer + c.width + (2 - c.tied) * c.vocab_size * c.width
