"""Critics: what a value may depend on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hiper_jax.lm import qwen
from hiper_jax.lm import value_heads as heads
from hiper_jax.lm.config import tiny

CONFIG = tiny(
    67, width=32, depth=3, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48
)


def test_values_start_at_zero_and_read_a_shared_trunk():
    hidden = jax.random.normal(jax.random.key(0), (2, 5, CONFIG.width))
    head = heads.init(CONFIG, jax.random.key(1), trunk=False)
    assert set(head) == {"value", "value_bias"}
    np.testing.assert_array_equal(heads.head_values(head, hidden), np.zeros((2, 5, 3)))
    head["value"] = head["value"].at[:, 1].set(2.0)
    head["value_bias"] = head["value_bias"].at[2].set(-1.0)
    values = heads.head_values(head, hidden)
    np.testing.assert_allclose(values[..., 1], 2 * hidden.sum(-1), rtol=1e-5, atol=1e-5)
    assert (values[..., 0] == 0).all() and (values[..., 2] == -1).all()


def test_critic_has_no_vocabulary_head():
    config = tiny(67, tied=False)
    assert "head" in qwen.abstract(config)
    assert "head" not in heads.abstract(config)["trunk"]


def test_values_are_read_before_each_token():
    """The value at token j moves with tokens before j, and with none from j on."""
    critic = heads.init(CONFIG, jax.random.key(7))
    critic["value"] = jax.random.normal(jax.random.key(8), (CONFIG.width, 3))
    tokens = np.arange(12, dtype=np.int32)[None]
    lengths = np.array([4], np.int32)
    read = partial(heads.values, critic, CONFIG, num_tokens=5, prompt_lengths=lengths)
    base = np.asarray(read(tokens=jnp.asarray(tokens)))
    changed = tokens.copy()
    changed[0, 4 + 2] = 60  # response token 2
    moved = np.abs(np.asarray(read(tokens=jnp.asarray(changed))) - base).max(-1)[0]
    assert base.shape == (1, 5, 3)
    assert (moved[:3] == 0).all() and (moved[3:] > 1e-4).all()


def test_values_where_they_are_asked_for_are_those_of_a_whole_pass():
    critic = heads.init(CONFIG, jax.random.key(7))
    critic["value"] = jax.random.normal(jax.random.key(8), (CONFIG.width, 3))
    tokens = jnp.arange(24, dtype=jnp.int32).reshape(2, 12)
    read = partial(heads.values, critic, CONFIG, tokens, jnp.array([4, 6], jnp.int32))
    asked = np.array([[0, 3, 0], [2, 0, 4]], np.int32)
    whole = np.asarray(read(5))
    expected = np.take_along_axis(whole, asked[..., None], axis=1)
    np.testing.assert_allclose(read(jnp.asarray(asked)), expected, atol=1e-5)
    assert np.ptp(expected, axis=1).max() > 0.1
