"""A model's shape <-> the mapping of a Hugging Face `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hiper_jax.lm.config import LMConfig, RopeScaling, yarn_attention
from hiper_jax.lm.families import FAMILIES, family_of, make_config

# Of every family: absent or so, or the network is not this one.
COMPUTED = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "use_sliding_window": False,
    "attention_bias": False,
    "pretraining_tp": 1,
}

_STRETCHES = ("linear", "llama3", "yarn")


def from_hf(hf: Mapping[str, Any], *, dtype: str = "float32") -> LMConfig:
    """Reads the mapping of a Hugging Face `config.json`.

    Args:
      hf: the parsed file, in the layout of transformers 4 or 5.
      dtype: the compute type.

    Raises:
      ValueError: if the network has a part that this project does not compute.
    """
    name = hf.get("model_type")
    if name not in FAMILIES:
        raise ValueError(
            f"config.json has model_type {name!r}; use one of {tuple(FAMILIES)}."
        )
    for field, known in {**COMPUTED, **FAMILIES[name].fields}.items():
        value = hf.get(field)
        if value is not None and value != known:
            raise ValueError(
                f"config.json has {field} = {value!r}, which is not computed here; "
                f"use a model with {field} = {known!r}."
            )
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", hf.get("partial_rotary_factor", 1.0))
    if share != 1 or any(isinstance(value, Mapping) for value in rope.values()):
        raise ValueError(
            "config.json rotates a part of each head, or each kind of layer otherwise, "
            "which is not computed here; use a model with one rotation of whole heads."
        )
    theta = rope.get("rope_theta", hf.get("rope_theta", 10000.0))
    num_heads = hf["num_attention_heads"]
    max_positions = hf.get("max_position_embeddings", 32768)
    return make_config(
        name,
        vocab_size=hf["vocab_size"],
        width=hf["hidden_size"],
        depth=hf["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=hf.get("num_key_value_heads") or num_heads,
        head_dim=hf.get("head_dim") or hf["hidden_size"] // num_heads,
        mlp_width=hf["intermediate_size"],
        tied=bool(hf.get("tie_word_embeddings", False)),
        rope_theta=float(theta),
        rope_scaling=_read_scaling(rope, hf, max_positions),
        rms_eps=float(hf.get("rms_norm_eps", 1e-6)),
        max_positions=max_positions,
        dtype=dtype,
    )


def to_hf(config: LMConfig) -> dict[str, Any]:
    """Returns the mapping that `from_hf` and `transformers` read."""
    family = family_of(config.family)
    hf = {
        "architectures": [family.architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_eps,
        "max_position_embeddings": config.max_positions,
        **family.fields,
    }
    if config.rope_scaling:
        hf["rope_scaling"] = _write_scaling(config.rope_scaling)
    return hf


def _read_scaling(
    rope: Mapping[str, Any], hf: Mapping[str, Any], max_positions: int
) -> RopeScaling | None:
    """The stretch that the file names, with the defaults of `transformers`."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind not in _STRETCHES:
        raise ValueError(
            f"config.json has rope scaling {kind!r}; use linear, llama3 or yarn."
        )
    original = (
        hf.get("original_max_position_embeddings")
        or rope.get("original_max_position_embeddings")
        or max_positions
    )
    names = ["factor"]
    if kind == "llama3":
        names += ["low_freq_factor", "high_freq_factor"]
    numbers: dict[str, Any] = {name: rope.get(name) for name in names}
    if kind == "yarn" and "factor" in rope and rope["factor"] is None:
        numbers["factor"] = max_positions / original
    for name, number in numbers.items():
        if type(number) not in (int, float) or not number > 0:
            raise ValueError(
                f"config.json has rope scaling {kind!r} with {name} = {number!r}; it "
                "must be a number above 0."
            )
    factor, *rest = (float(number) for number in numbers.values())
    scaling = RopeScaling(kind=kind, factor=factor, original=original)
    if kind == "llama3":
        return dataclasses.replace(scaling, low=rest[0], high=rest[1])
    return scaling if kind == "linear" else _read_yarn(rope, scaling)


def _read_yarn(rope: Mapping[str, Any], scaling: RopeScaling) -> RopeScaling:
    attention = rope.get("attention_factor")
    over, under = rope.get("mscale"), rope.get("mscale_all_dim")
    if attention is None and over and under:
        attention = yarn_attention(scaling.factor, over)
        attention /= yarn_attention(scaling.factor, under)
    return dataclasses.replace(
        scaling,
        low=float(rope.get("beta_slow") or 1.0),
        high=float(rope.get("beta_fast") or 32.0),
        attention=attention,
        truncate=bool(rope.get("truncate", True)),
    )


def _write_scaling(scaling: RopeScaling) -> dict[str, Any]:
    hf = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "linear":
        return hf
    hf["original_max_position_embeddings"] = scaling.original
    if scaling.kind == "llama3":
        return hf | {
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
        }
    hf |= {"beta_slow": scaling.low, "beta_fast": scaling.high}
    if scaling.attention is not None:
        hf["attention_factor"] = scaling.attention
    if not scaling.truncate:
        hf["truncate"] = False
    return hf
