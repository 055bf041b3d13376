"""Adapters: nothing at first, the merged model afterwards, and they learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hiper_jax.lm import qwen, score
from hiper_jax.lm import qwen_lora as lora
from hiper_jax.lm.config import tiny

CONFIG = tiny(
    31, width=32, depth=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48
)


@pytest.fixture(scope="module")
def params():
    params = jax.jit(qwen.init, static_argnums=0)(CONFIG, jax.random.key(0))
    return params | {"embed": params["embed"] * 20}  # enough to tell tokens apart


def _tokens(key=1):
    return jax.random.randint(jax.random.key(key), (4, 10), 0, 31)


forward = jax.jit(qwen.forward, static_argnums=1)


def test_a_new_adapter_changes_nothing(params):
    adapter = lora.init(CONFIG, jax.random.key(2), rank=4)
    tokens = _tokens()
    np.testing.assert_array_equal(
        forward(lora.attach(params, adapter, 8.0), CONFIG, tokens),
        forward(params, CONFIG, tokens),
    )


@pytest.mark.parametrize("targets", [lora.TARGETS, ("o", "v")])
def test_merged_weights_are_the_adapted_model(params, targets):
    adapter = lora.init(CONFIG, jax.random.key(3), 4, targets)
    keys = jax.random.split(jax.random.key(4), len(adapter))
    adapter = {
        name: leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for (name, leaf), key in zip(adapter.items(), keys, strict=True)
    }
    tokens = _tokens()
    attached = forward(lora.attach(params, adapter, 8.0), CONFIG, tokens)
    merged = lora.merge(params, adapter, 8.0)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, params)
    np.testing.assert_allclose(forward(merged, CONFIG, tokens), attached, atol=2e-5)
    moved = np.abs(np.asarray(attached - forward(params, CONFIG, tokens))).max()
    assert moved > 0.05


def test_it_learns_while_the_large_weights_hold_still(params):
    tokens = _tokens(5)
    optimizer = optax.adam(2e-2)

    def loss(adapter, params):
        weights = lora.attach(params, adapter, 8.0)
        hidden = qwen.forward(weights, CONFIG, tokens[:, :-1])
        log_prob, _ = score.log_prob_and_entropy(weights, CONFIG, hidden, tokens[:, 1:])
        return -log_prob.mean()

    @jax.jit
    def step(adapter, state):
        value, grads = jax.value_and_grad(loss)(adapter, params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(adapter, updates), state, value

    adapter = lora.init(CONFIG, jax.random.key(6), rank=4)
    state = optimizer.init(adapter)
    values = []
    for _ in range(80):
        adapter, state, value = step(adapter, state)
        values.append(float(value))
    assert values[-1] < 0.3 * values[0]
    still = jax.grad(loss, argnums=1)(adapter, params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(still))


def test_adapter_is_small_and_sharded_like_its_weight():
    big = tiny(width=1024, mlp_width=4096, num_heads=16, head_dim=64)
    leaves = lora.abstract(big, rank=8)
    size = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(leaves))
    whole = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(qwen.abstract(big)))
    assert size < 0.03 * whole
    assert leaves["o_a"].axes == ("layer", "heads", None, None)
    assert leaves["gate_b"].axes == ("layer", None, "mlp")
    with pytest.raises(ValueError, match="not on 'embed'"):
        lora.abstract(big, 8, ["embed"])
