"""The language model as pure functions of (weights, config, tokens): a leaf.

Axis letters: N rows, L tokens, D width, V vocabulary, R response tokens, S and P rows
and prompt tokens of a generation, K layers, H query heads, G key/value heads.
"""

from hiper_jax.lm.config import LMConfig, RopeScaling, num_params, tiny
from hiper_jax.lm.layers import unstack_layers
from hiper_jax.lm.qwen import abstract, forward, init, logits
from hiper_jax.lm.qwen_cache import (
    Cache,
    decode_step,
    next_logits,
    prefill,
    read_prompts,
    read_token,
    take_rows,
)
from hiper_jax.lm.score import (
    log_prob_and_entropy,
    response_hidden,
    response_positions,
    response_states,
)

__all__ = [
    "Cache",
    "LMConfig",
    "RopeScaling",
    "abstract",
    "decode_step",
    "forward",
    "init",
    "log_prob_and_entropy",
    "logits",
    "next_logits",
    "num_params",
    "prefill",
    "read_prompts",
    "read_token",
    "response_hidden",
    "response_positions",
    "response_states",
    "take_rows",
    "tiny",
    "unstack_layers",
]
