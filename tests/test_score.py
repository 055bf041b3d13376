"""Scoring: equal to the whole softmax, in value and in gradient."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from hiper_jax.lm import qwen, score
from hiper_jax.lm.config import tiny

CONFIG = tiny(
    67, width=32, depth=1, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48
)


def _naive(params, hidden, targets, temperature):
    scores = hidden @ params["embed"].T / temperature
    log_prob = jax.nn.log_softmax(scores)
    entropy = -(jnp.exp(log_prob) * log_prob).sum(-1)
    chosen = jnp.take_along_axis(log_prob, targets[..., None], axis=-1)[..., 0]
    return chosen, entropy


@functools.cache
def made_case():
    params = jax.jit(qwen.init, static_argnums=0)(CONFIG, jax.random.key(0))
    params = params | {"embed": params["embed"] * 30}
    hidden = jax.random.normal(jax.random.key(1), (3, 7, CONFIG.width))
    targets = jax.random.randint(jax.random.key(2), (3, 7), 0, 67)
    return params, hidden, targets


@pytest.fixture(scope="module")
def case():
    return made_case()


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("chunk", [1, 4, 21, 100])
def test_chunks_give_the_whole_softmax(case, chunk, temperature):
    params, hidden, targets = case
    got = score.log_prob_and_entropy(
        params, CONFIG, hidden, targets, temperature=temperature, chunk=chunk
    )
    expected = _naive(params, hidden, targets, temperature)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == (3, 7) and a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


class TestVariants(chex.TestCase):
    """Compiled or not, on the host's arrays or the device's: the same numbers."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    @parameterized.parameters("float32", "bfloat16")
    def test_scores_are_the_whole_softmax(self, dtype):
        params, hidden, targets = made_case()
        hidden = hidden.astype(dtype)
        got = self.variant(
            lambda *a: score.log_prob_and_entropy(a[0], CONFIG, *a[1:], chunk=4)
        )(params, hidden, targets)
        expected = _naive(params, hidden.astype(jnp.float32), targets, 1.0)
        far = 2e-5 if dtype == "float32" else 0.1
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == jnp.float32 and a.shape == (3, 7)
            np.testing.assert_allclose(a, b, rtol=far, atol=far)


def test_gradients_are_exact(case):
    params, hidden, targets = case
    weight = jax.random.normal(jax.random.key(3), (2, 3, 7))

    def ours(params, hidden):
        log_prob, entropy = score.log_prob_and_entropy(
            params, CONFIG, hidden, targets, temperature=0.7, chunk=4
        )
        return (weight[0] * log_prob + weight[1] * entropy).sum()

    def plain(params, hidden):
        log_prob, entropy = _naive(params, hidden, targets, 0.7)
        return (weight[0] * log_prob + weight[1] * entropy).sum()

    got = jax.jit(jax.grad(ours, argnums=(0, 1)))(params, hidden)
    expected = jax.grad(plain, argnums=(0, 1))(params, hidden)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_entropy_of_a_flat_distribution_is_log_vocabulary(case):
    params, hidden, targets = case
    log_prob, entropy = score.log_prob_and_entropy(params, CONFIG, 0 * hidden, targets)
    np.testing.assert_allclose(entropy, np.log(67), rtol=1e-6)
    np.testing.assert_allclose(log_prob, -np.log(67), rtol=1e-6)


def test_response_hidden_stands_before_each_token():
    hidden = jnp.arange(2 * 6.0).reshape(2, 6, 1)
    picked = score.response_hidden(hidden, jnp.array([1, 4]), 3)
    np.testing.assert_array_equal(picked[..., 0], [[0, 1, 2], [9, 10, 11]])


def test_one_state_per_target(case):
    params, hidden, targets = case
    with pytest.raises(ValueError, match="one state per target"):
        score.log_prob_and_entropy(params, CONFIG, hidden[:, 1:], targets)
    with pytest.raises(AssertionError, match="assert_axis_dimension"):
        score.log_prob_and_entropy(params, CONFIG, hidden[..., 1:], targets)
    with pytest.raises(AssertionError, match="assert_rank"):
        score.response_hidden(hidden[0], jnp.array([1, 4, 1]), 3)


def test_room_behind_short_responses_changes_nothing_and_costs_nothing(case):
    """Targets below 0 score 0, and chunks of them are never computed."""
    params, hidden, targets = case
    padded = jnp.where(jnp.arange(7)[None] < jnp.array([[3], [1], [2]]), targets, -1)

    def total(params, hidden, chunk):
        log_prob, entropy = score.log_prob_and_entropy(
            params, CONFIG, hidden, padded, chunk=chunk
        )
        return jnp.where(padded >= 0, log_prob + 0.1 * entropy, 0.0).sum()

    grad = jax.jit(jax.value_and_grad(total, argnums=(0, 1)), static_argnums=2)
    whole, cut = grad(params, hidden, 100), grad(params, hidden, 6)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # Two positions of three rows a chunk: what only the third chunk reads may be NaN.
    poisoned = hidden.at[:, 4:].set(jnp.nan)
    value, by = grad(params, poisoned, 6)
    np.testing.assert_allclose(value, cut[0], rtol=1e-6)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(by))


@pytest.mark.parametrize(("width", "dtype"), [(896, "float32"), (1536, "bfloat16")])
def test_memory_of_the_gradient_is_a_chunk_not_the_whole(width, dtype):
    """16,384 tokens of Qwen's vocabulary: compiled, never run."""
    config = tiny(151936, width=width, depth=1, dtype=dtype)
    shapes = (
        {"embed": jax.ShapeDtypeStruct((151936, width), jnp.float32)},
        jax.ShapeDtypeStruct((16384, width), jnp.dtype(dtype)),
        jax.ShapeDtypeStruct((16384,), jnp.int32),
    )

    def naive(params, config, hidden, targets):
        head = params["embed"].astype(hidden.dtype)
        scores = jnp.einsum(
            "nd,vd->nv", hidden, head, preferred_element_type=jnp.float32
        )
        log_prob = jax.nn.log_softmax(scores)
        entropy = -(jnp.exp(log_prob) * log_prob).sum(-1)
        return jnp.take_along_axis(log_prob, targets[:, None], axis=-1)[:, 0], entropy

    def temporaries(score):
        def total(params, hidden, targets):
            log_prob, entropy = score(params, config, hidden, targets)
            return (log_prob + 0.1 * entropy).sum()

        grad = jax.jit(jax.grad(total, argnums=(0, 1)))
        return grad.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    # Measured on XLA's CPU compiler: 24 times and 13.7 times.
    least = {"float32": 16, "bfloat16": 10}[dtype]
    assert temporaries(naive) > least * temporaries(score.log_prob_and_entropy)
