"""Every mesh computes what one device computes."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hiper_jax.lm import qwen, score, sharding
from hiper_jax.lm.config import tiny

CONFIG = tiny(
    64, width=16, depth=1, num_heads=8, num_kv_heads=8, head_dim=4, mlp_width=32
)
SHAPES = [s for s in itertools.product((1, 2, 4, 8), repeat=3) if np.prod(s) == 8]
OPTIMIZER = optax.adam(1e-2)


def _batch():
    tokens = jax.random.randint(jax.random.key(1), (8, 12), 0, 64)
    return tokens, jnp.arange(8) % 4 + 3


def _step(params, state, tokens, lengths, constrain=None, chunk=48):
    def loss(params):
        hidden = qwen.forward(params, CONFIG, tokens, constrain=constrain)
        hidden = score.response_hidden(hidden, lengths, 6)
        targets = jnp.roll(tokens, -3, axis=1)[:, :6]
        log_prob, entropy = score.log_prob_and_entropy(
            params, CONFIG, hidden, targets, chunk=chunk, constrain=constrain
        )
        return -(log_prob + 0.1 * entropy).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = OPTIMIZER.update(grads, state)
    return optax.apply_updates(params, updates), state, value


@functools.cache
def _one_device():
    params = jax.jit(qwen.init, static_argnums=0)(CONFIG, jax.random.key(0))
    params["embed"] = params["embed"] * 20
    return params, jax.jit(_step)(params, OPTIMIZER.init(params), *_batch())


def _on(mesh, **options):
    params, _ = _one_device()
    leaves = qwen.abstract(CONFIG)
    state = OPTIMIZER.init(params)
    places = (
        sharding.shardings(leaves, mesh),
        sharding.state_shardings(state, leaves, mesh),
        sharding.rows(mesh),
        sharding.rows(mesh),
    )
    args = jax.device_put((params, state, *_batch()), places)
    step = jax.jit(
        functools.partial(_step, constrain=sharding.constrain(mesh), **options),
        out_shardings=(*places[:2], None),
    )
    return step, args


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_every_mesh_gives_the_same_step(shape):
    chunk = 16 if shape == (2, 2, 2) else 48  # three chunks there, else one
    step, args = _on(sharding.make_mesh(*shape), chunk=chunk)
    params, state, loss = step(*args)
    _, (expected, expected_state, expected_loss) = _one_device()
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    # Adam divides by the gradient's size: compare the mean, not its quotient, closely.
    for a, b in zip(
        jax.tree.leaves(state[0].mu), jax.tree.leaves(expected_state[0].mu), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max())
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_weights_and_state_are_cut_not_repeated():
    step, (params, state, *_) = _on(sharding.make_mesh(2, 2, 2))
    gate = params["layers"]["gate"]
    assert gate.addressable_shards[0].data.shape == (1, 8, 16)
    mu = state[0].mu["layers"]["gate"]
    assert mu.sharding == gate.sharding
    assert state[0].count.sharding.is_fully_replicated


def test_logits_are_never_gathered(monkeypatch):
    def gathered():
        step, args = _on(sharding.make_mesh(2, 2, 2), chunk=16)
        text = step.lower(*args).compile().as_text()
        shapes = re.findall(r"= \(?f32\[([\d,]*)\][^=]*? all-gather\(", text)
        # Whole rows of logits, or the whole head, from which they would be computed.
        return shapes, [s for s in shapes if s == "64,16" or s.split(",")[-1] == "64"]

    shapes, whole = gathered()
    assert shapes and not whole  # fsdp gathers weights, of other shapes
    # The search does see such a gather: ask for whole logits on every device.
    spec = sharding.spec
    monkeypatch.setattr(
        sharding,
        "spec",
        lambda axes: spec((*axes[:-1], None) if axes[-1] == "vocab" else axes),
    )
    assert gathered()[1]


def test_what_the_mesh_does_not_divide_is_named():
    config = tiny(64, num_heads=4, num_kv_heads=2)
    mesh = sharding.make_mesh(1, 2, 4)
    with pytest.raises(ValueError, match="k has 2 kv_heads.* tensor = 4 does not"):
        sharding.shardings(qwen.abstract(config), mesh)
    with pytest.raises(ValueError, match="needs 6 devices, there are 8"):
        sharding.make_mesh(1, 2, 3)


def test_every_logical_axis_has_a_rule():
    for leaf in jax.tree.leaves(qwen.abstract(tiny(tied=False, qk_norm=True))):
        assert all(axis in sharding.RULES for axis in leaf.axes if axis)
