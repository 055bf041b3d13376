"""Model families by `model_type`: how their files spell the network. One table.

A new family whose network is this one (RMS norms, rotary positions, shared key/value
heads, a SwiGLU block) is one entry of `FAMILIES`; the files' other readers and writers
all look here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from hiper_jax.lm.config import LMConfig


class Names(NamedTuple):
    """One weight's name in Hugging Face's files and in ggml's."""

    hf: str
    ggml: str


# By our name of a weight; within a layer, names follow its number.
LAYER: Mapping[str, Names] = {
    "attention_norm": Names("input_layernorm.weight", "attn_norm.weight"),
    "q": Names("self_attn.q_proj.weight", "attn_q.weight"),
    "k": Names("self_attn.k_proj.weight", "attn_k.weight"),
    "v": Names("self_attn.v_proj.weight", "attn_v.weight"),
    "o": Names("self_attn.o_proj.weight", "attn_output.weight"),
    "q_bias": Names("self_attn.q_proj.bias", "attn_q.bias"),
    "k_bias": Names("self_attn.k_proj.bias", "attn_k.bias"),
    "v_bias": Names("self_attn.v_proj.bias", "attn_v.bias"),
    "q_norm": Names("self_attn.q_norm.weight", "attn_q_norm.weight"),
    "k_norm": Names("self_attn.k_norm.weight", "attn_k_norm.weight"),
    "mlp_norm": Names("post_attention_layernorm.weight", "ffn_norm.weight"),
    "gate": Names("mlp.gate_proj.weight", "ffn_gate.weight"),
    "up": Names("mlp.up_proj.weight", "ffn_up.weight"),
    "down": Names("mlp.down_proj.weight", "ffn_down.weight"),
}
WHOLE: Mapping[str, Names] = {
    "embed": Names("model.embed_tokens.weight", "token_embd.weight"),
    "norm": Names("model.norm.weight", "output_norm.weight"),
    "head": Names("lm_head.weight", "output.weight"),
}


@dataclasses.dataclass(frozen=True)
class Family:
    """What tells one family from the others.

    Attributes:
      architecture: the class of `transformers` that config.json names.
      qkv_bias, qk_norm: see `LMConfig`.
      fields: what config.json says besides the numbers; another value there is a
        network that is not computed here.
      layer: names of a layer's weights.
      whole: names of the other weights.
      ggml_pairs: ggml keeps the rows of q and k as neighbouring rotary pairs.
    """

    architecture: str
    qkv_bias: bool = False
    qk_norm: bool = False
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layer: Mapping[str, Names] = dataclasses.field(default_factory=lambda: LAYER)
    whole: Mapping[str, Names] = dataclasses.field(default_factory=lambda: WHOLE)
    ggml_pairs: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(
        "LlamaForCausalLM",
        fields={"attention_bias": False, "mlp_bias": False},
        ggml_pairs=True,
    ),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True),
    "qwen3": Family("Qwen3ForCausalLM", qk_norm=True, fields={"attention_bias": False}),
}


def family_of(name: str | None) -> Family:
    """Returns the family that files call `name`.

    Raises:
      ValueError: if it is not in the table.
    """
    if name not in FAMILIES:
        raise ValueError(
            f"There is no model family {name!r} here; use a model of one of "
            f"{tuple(FAMILIES)}, or add an entry to `lm.families.FAMILIES`."
        )
    return FAMILIES[name]


def make_config(family: str, **numbers: Any) -> LMConfig:
    """Returns a config with the flags of its family."""
    flags = family_of(family)
    return LMConfig(
        family=family, qkv_bias=flags.qkv_bias, qk_norm=flags.qk_norm, **numbers
    )
