"""Value heads on the actor's trunk: one pass, two gradients."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from test_update import SETTINGS, batch_of

from hiper_jax.lm import weights
from hiper_jax.networks import passes, placement
from hiper_jax.networks.agent import load_agent, save_agent
from hiper_jax.update.state import Optimizers, initial_state

FLOWS = 0.5
ONCE = dataclasses.replace(SETTINGS, minibatch=24, kl_coef=0.0, entropy_coef=0.0)


def shared_agent(flows=FLOWS):
    agent, actor, critic = small.agent()
    agent = dataclasses.replace(agent, critic="shared", trunk_gradient=flows)
    return agent, actor, {k: critic[k] for k in ("value", "value_bias")}


def program(agent, actor, critic, *txs, settings=ONCE):
    return small.program(agent, actor, critic, settings, *txs, lengths=(96,))


def test_the_gradient_is_that_of_two_plain_passes():
    """Policy and values by a pass each, the values' share of the trunk scaled after."""
    agent, actor, critic = shared_agent()
    batch = batch_of(small.episodes())
    update, state = program(agent, actor, critic, optax.sgd(1.0), optax.sgd(1.0))
    after, metrics, credit = update(state, batch)
    credit = jax.device_get(credit)  # constants of the plain loss
    turns = [(b, t) for b in range(4) for t in range(6) if batch.valid[b, t]]
    starts = [
        t == 0 or batch.segment[b, t] != batch.segment[b, t - 1] for b, t in turns
    ]

    def policy(actor):
        log_prob, _ = passes.score(agent)(
            actor, batch.tokens, batch.start, batch.response, 1.0
        )
        total, count = 0.0, 0
        for n, (b, t) in enumerate(turns):
            for spread, mask in (
                (credit["advantage_low"], batch.action_mask[n]),
                (credit["advantage_high"], batch.subgoal_mask[n] & starts[n]),
                (credit["advantage_switch"], batch.switch_mask[n]),
            ):
                ratio = jnp.exp(log_prob[n] - batch.old_log_prob[n])
                a = float(spread[b, t])
                surrogate = jnp.maximum(-a * ratio, -a * jnp.clip(ratio, 0.8, 1.2))
                if a < 0:
                    surrogate = jnp.minimum(surrogate, -3.0 * a)
                total += jnp.sum(jnp.where(mask, surrogate, 0.0))
                count += int(mask.sum())
        return total / count

    def value(actor, critic):
        read = passes.values(agent)(
            critic | {"trunk": actor}, batch.tokens, batch.start, 40
        )
        errors = {"high": [], "low": [], "switch": []}
        for n, (b, t) in enumerate(turns):
            at = int(batch.value_low_at[n])
            errors["low"].append(read[n, at, 1] - credit["return_low"][b, t])
            errors["switch"].append(read[n, 0, 2] - credit["return_switch"][b, t])
            if starts[n]:
                errors["high"].append(read[n, 0, 0] - credit["return_high"][b, t])
        return sum(jnp.mean(jnp.stack(e) ** 2) for e in errors.values())

    to_policy = jax.jit(jax.grad(policy))(actor)
    to_trunk, to_heads = jax.jit(jax.grad(value, (0, 1)))(actor, critic)
    expected = jax.tree.map(lambda p, v: p + FLOWS * v, to_policy, to_trunk)
    moved = jax.tree.map(jnp.subtract, state.actor, after.actor)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, moved, expected)
    jax.tree.map(
        close, jax.tree.map(jnp.subtract, state.critic, after.critic), to_heads
    )
    # Both parts matter, or agreement would say nothing.
    assert optax.tree.norm(to_policy) > 1e-3 and optax.tree.norm(to_trunk) > 1e-3
    total = sum(metrics[f"loss/value_{name}"] for name in ("high", "low", "switch"))
    np.testing.assert_allclose(total, value(actor, critic), rtol=1e-4)


def test_heads_learn_though_nothing_reaches_the_trunk():
    """The value loss of a fixed batch falls; an actor without advantages rests."""
    agent, actor, critic = shared_agent(flows=0.0)
    settings = dataclasses.replace(ONCE, value_clip=1e3)
    txs = optax.set_to_zero(), optax.adam(3e-2)
    update, state = program(agent, actor, critic, *txs, settings=settings)
    batch = batch_of(small.episodes())
    losses = []
    for _ in range(12):
        state, metrics, _ = update(state, batch)
        losses.append(
            sum(float(metrics[f"loss/value_{n}"]) for n in ("high", "low", "switch"))
        )
    assert losses[-1] < 0.5 * losses[0], losses


def test_heads_come_back_from_disk_with_and_without_a_trunk(tmp_path):
    agent, actor, critic = shared_agent()
    backend = agent.codec.tokenizer.backend_tokenizer
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|pad|>"})
    )
    save_agent(tmp_path, agent, actor, critic)
    assert not weights.owns_trunk(tmp_path / "critic")
    again, _, heads = load_agent(tmp_path, critic="shared")
    assert again.critic == "shared" and set(heads) == {"value", "value_bias"}
    np.testing.assert_array_equal(heads["value"], critic["value"])
    _, actor, grown = load_agent(tmp_path)
    np.testing.assert_array_equal(grown["value"], critic["value"])
    np.testing.assert_array_equal(grown["trunk"]["embed"], actor["embed"])


def test_a_shared_critic_halves_the_state():
    agent, _, _ = shared_agent()
    adam = optax.adam(1e-3)

    def size(agent):
        optimizers = Optimizers(adam, adam)

        def init(actor, critic, key, reference):
            return initial_state(actor, critic, optimizers, key, reference)

        state = placement.abstract_state(agent, init)
        return sum(leaf.size for leaf in jax.tree.leaves(state))

    apart = size(dataclasses.replace(agent, critic="separate"))
    # Weights and two moments of two networks, and the reference: 7 parts become 4.
    assert size(agent) == pytest.approx(4 / 7 * apart, rel=0.02)
