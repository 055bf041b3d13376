"""Training adapters only: what moves, what stands still, what is exported."""

import dataclasses
import json

import jax
import numpy as np
import optax
import small
from test_update import SETTINGS, batch_of

from hiper_jax import lm
from hiper_jax.networks import assemble, passes
from hiper_jax.networks.agent import load_agent, save_agent


def test_two_updates_move_adapters_only_and_the_export_is_the_adapted_model(tmp_path):
    agent, actor, critic = small.agent()
    backend = agent.codec.tokenizer.backend_tokenizer
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|pad|>"})
    )
    save_agent(tmp_path, agent, actor, critic)
    agent, actor, critic = load_agent(tmp_path, rank=4, alpha=8.0)
    # Read as heads only: the trunk on disk is no adapter's base.
    assert set(critic) == {"value", "value_bias"}
    critic["value"] += 0.1  # under heads of zero no gradient reaches the trunk
    base = jax.tree.map(np.asarray, actor)
    txs = optax.adam(1e-2), optax.adam(1e-2)
    settings = dataclasses.replace(SETTINGS, minibatch=24, chunk=8)
    update, state = small.program(
        agent, actor, critic, settings, *txs, lengths=(96,), donate=True
    )
    sizes = {leaf.shape for leaf in jax.tree.leaves(state.actor_opt)} - {()}
    assert sizes == {leaf.shape for leaf in jax.tree.leaves(state.actor)}
    batch = batch_of(small.episodes())
    first = jax.tree.map(np.asarray, (state.actor, state.critic))
    for _ in range(2):
        state, metrics, _ = update(state, batch)
    assert all(np.isfinite(v) for v in metrics.values()), metrics
    jax.tree.map(np.testing.assert_array_equal, state.reference, base)
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), first, (state.actor, state.critic)
    )
    assert all(change > 0 for change in jax.tree.leaves(moved)), moved
    assert metrics["loss/kl"] > 0  # the base, which the reference is, stood still

    out = tmp_path / "out"
    save_agent(out, agent, *assemble.merged(agent, state), tokenizer=tmp_path)
    plain, merged, whole = load_agent(out)
    tokens = batch.tokens[:4]
    adapted = assemble.policy(agent, state)
    read = jax.jit(lambda params: lm.forward(params, agent.config, tokens))
    np.testing.assert_allclose(read(merged), read(adapted), atol=2e-4)
    assert np.abs(read(merged) - read(base)).max() > 1e-2
    _, full = assemble.assemble(agent)(state.reference, state.actor, state.critic)
    np.testing.assert_allclose(
        passes.values(plain)(whole, tokens, batch.start[:4], 40),
        passes.values(agent)(full, tokens, batch.start[:4], 40),
        atol=2e-4,
    )
