"""Critics: three values (high, low, switch) read from hidden states.

The critic is a language model of its own with a small linear head in place of the
vocabulary; or, with `trunk=False`, only the linear head, on the actor's hidden states.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.lm import qwen
from hiper_jax.lm.config import LMConfig
from hiper_jax.lm.params import Params, ParamSpec, init_tree
from hiper_jax.lm.score import response_states

HEADS = ("high", "low", "switch")


def abstract(config: LMConfig, *, trunk: bool = True) -> Params:
    """Returns the tree of specs of a critic.

    Args:
      config: the critic's own trunk, or the actor's if the trunk is shared.
      trunk: the critic owns a backbone.
    """
    tree: dict[str, Any] = {
        "value": ParamSpec((config.width, len(HEADS)), ("embed", None)),
        "value_bias": ParamSpec((len(HEADS),), (None,)),
    }
    if trunk:
        tree["trunk"] = qwen.abstract(config)
        tree["trunk"].pop("head", None)
    return tree


def init(
    config: LMConfig, key: Array, dtype: Any = jnp.float32, *, trunk: bool = True
) -> Params:
    """Draws a critic; its heads start at zero, so that every first value is 0."""
    return init_tree(abstract(config, trunk=trunk), key, dtype)


@jax.named_scope("values")
def head_values(params: Params, hidden: Array) -> Array:
    """Returns [..., 3] float32 values (high, low, switch) of [..., D] states."""
    chex.assert_axis_dimension(hidden, -1, params["value"].shape[0])
    values = jnp.einsum(
        "...d,dc->...c",
        hidden,
        params["value"].astype(hidden.dtype),
        preferred_element_type=jnp.float32,
    )
    bias = params["value_bias"].astype(jnp.float32)
    return values + jnp.expand_dims(bias, tuple(range(hidden.ndim - 1)))


def values(
    params: Params,
    config: LMConfig,
    tokens: Array,
    prompt_lengths: Array,
    num_tokens: int | Array,
    **options: Any,
) -> Array:
    """Reads rows with the critic's own trunk and values every response token.

    The value at response token j is read before the token: from the state at
    `prompt_length + j - 1`.

    Args:
      params: a critic with a trunk.
      config: the trunk's shape; static.
      tokens: [N, L] int32 prompt + response, padded on the right; or packed.
      prompt_lengths: [N] int32.
      num_tokens: R, response tokens per row, padding included; or [N, K] int32, the
        response positions that are asked for.
      **options: see `response_states`.

    Returns:
      [N, R, 3] float32, or [N, K, 3], in the order of `HEADS`.
    """
    asked = tokens, prompt_lengths, num_tokens
    hidden = response_states(params["trunk"], config, *asked, **options)
    return head_values(params, hidden)
