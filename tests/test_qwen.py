"""The network: what a hidden state may depend on, and that its twins agree."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiper_jax.lm import layers, qwen
from hiper_jax.lm.config import num_params, tiny

CONFIG = tiny(
    67, width=32, depth=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48
)


@pytest.fixture(scope="module")
def params():
    return jax.jit(qwen.init, static_argnums=0)(CONFIG, jax.random.key(0))


forward = jax.jit(
    qwen.forward, static_argnums=1, static_argnames=("remat", "constrain")
)


def _tokens(key, *shape):
    return jax.random.randint(jax.random.key(key), shape, 0, 67)


def test_hidden_state_depends_on_the_past_only(params):
    tokens = _tokens(1, 1, 9)
    base = forward(params, CONFIG, tokens)
    moved = forward(params, CONFIG, tokens.at[0, 4].add(1))
    change = np.abs(np.asarray(moved - base)).max(-1)[0]
    assert (change[:4] == 0).all() and (change[4:] > 1e-3).all()


def test_packed_segments_are_the_rows_apart(params):
    a, b, c = _tokens(2, 1, 5), _tokens(3, 1, 3), _tokens(4, 1, 6)
    packed = jnp.concatenate([a, b, c], axis=1)
    segment = jnp.array([[1] * 5 + [2] * 3 + [3] * 6])
    together = forward(params, CONFIG, packed, segment=segment)
    apart = [forward(params, CONFIG, row) for row in (a, b, c)]
    np.testing.assert_allclose(together, jnp.concatenate(apart, axis=1), atol=2e-6)


def test_nothing_leaks_across_segments(params):
    """The gradient of one segment's states to the others' embeddings is zero."""
    segment = jnp.array([[0] * 4 + [1] * 5 + [2] * 3])
    embedded = jax.random.normal(jax.random.key(5), (12, 32))
    tokens = jnp.arange(12)[None]

    def middle(embedded):
        weights = params | {"embed": embedded}
        hidden = forward(weights, CONFIG, tokens, segment=segment)
        return (hidden[0, 4:9] ** 2).sum()

    size = np.abs(np.asarray(jax.jit(jax.grad(middle))(embedded))).max(axis=1)
    assert (size[:4] == 0).all() and (size[9:] == 0).all() and (size[4:9] > 0).all()


@pytest.mark.parametrize("unrolled", [0, 4])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_states_asked_for_are_those_of_all(params, monkeypatch, unrolled, remat):
    """And so are gradients, whether or not the last layer is read apart."""
    monkeypatch.setattr(layers, "MAX_UNROLLED", unrolled)
    tokens, segment = _tokens(8, 2, 9), jnp.array([[0] * 4 + [1] * 5, [0] * 9])
    at = jnp.array([[2, 3, 4, 8], [0, 5, 8, 8]])

    @functools.partial(jax.jit, static_argnums=1)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params, apart):
        asked = at if apart else None
        hidden = qwen.forward(
            params, CONFIG, tokens, segment=segment, remat=remat, at=asked
        )
        hidden = hidden if apart else qwen.take(hidden, at)
        return (hidden**3).sum(), hidden

    (_, states), grad = loss(params, True)
    (_, every), expected = loss(params, False)
    np.testing.assert_allclose(states, every, atol=2e-6)
    for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))


def test_rematerialised_gradients_are_the_same(params, monkeypatch):
    monkeypatch.setattr(layers, "MAX_UNROLLED", 0)
    tokens = _tokens(7, 2, 6)

    def loss(params, remat):
        return (qwen.forward(params, CONFIG, tokens, remat=remat) ** 3).sum()

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    plain = grad(params, "none")
    for remat in ("dots", "full"):
        again = grad(params, remat)
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())


def test_scanned_layers_are_the_unrolled_ones(params, monkeypatch):
    tokens = _tokens(8, 2, 6)
    unrolled = forward(params, CONFIG, tokens)
    monkeypatch.setattr(layers, "MAX_UNROLLED", 0)
    scanned = qwen.forward(params, CONFIG, tokens)
    np.testing.assert_allclose(scanned, unrolled, atol=2e-6)
    apart = forward(layers.unstack_layers(params), CONFIG, tokens)
    np.testing.assert_allclose(apart, unrolled, atol=2e-6)


def test_bfloat16_compute_keeps_float32_weights(params):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    tokens = _tokens(9, 2, 6)

    def total(params):
        hidden = forward(params, config, tokens)
        assert hidden.dtype == jnp.bfloat16
        return qwen.logits(params, config, hidden).sum()

    grads = jax.jit(jax.grad(total))(params)
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    exact = forward(params, CONFIG, tokens)
    rough = forward(params, config, tokens).astype(jnp.float32)
    assert 1e-4 < np.abs(np.asarray(rough - exact)).max() < 0.2


@pytest.mark.parametrize("flags", [{}, {"tied": False}, {"qk_norm": True}])
def test_abstract_tree_is_what_init_draws(flags):
    config = dataclasses.replace(CONFIG, **flags)
    leaves = qwen.abstract(config)
    params = jax.jit(qwen.init, static_argnums=0)(config, jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: leaf.shape, leaves)
    assert jax.tree.map(jnp.shape, params) == shapes
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert total == num_params(config)
    for leaf in jax.tree.leaves(leaves):
        assert len(leaf.axes) == len(leaf.shape)


def test_unknown_remat_is_refused(params):
    with pytest.raises(ValueError, match="remat must be one of"):
        forward(params, CONFIG, _tokens(1, 1, 2), remat="some")


def test_a_profile_tells_the_parts_of_a_layer_apart(params):
    text = forward.lower(params, CONFIG, _tokens(1, 1, 4)).compile().as_text()
    named = " ".join(re.findall(r'op_name="([^"]*)"', text))
    for name in ("embed", "attention", "mlp"):
        assert f"/{name}/" in named, name
    head = jax.jit(qwen.logits, static_argnums=1)
    hidden = jnp.zeros((1, 4, CONFIG.width))
    assert "/head/" in head.lower(params, CONFIG, hidden).compile().as_text()


@pytest.mark.parametrize(
    ("tokens", "more"),
    [
        (jnp.zeros(4, jnp.int32), {}),
        (jnp.zeros((1, 4)), {}),
        (jnp.zeros((1, 4), jnp.int32), {"segment": jnp.zeros((1, 3), jnp.int32)}),
    ],
)
def test_wrong_ranks_types_and_shapes_are_refused(params, tokens, more):
    with pytest.raises(AssertionError, match="Assertion assert_"):
        qwen.forward(params, CONFIG, tokens, **more)
