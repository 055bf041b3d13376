"""An estimator without value heads: nothing of a critic is in the program."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from test_update import SETTINGS, batch_of

import hiper_jax as hj
from hiper_jax.lm import sharding


def grpo_assign(batch, values):
    """The return of a whole episode against its siblings', on all response tokens."""
    del values
    B = batch.group.shape[0]
    score = jnp.where(batch.valid, batch.reward, 0.0).sum(axis=1)
    count = jax.ops.segment_sum(jnp.ones(B), batch.group, B)[batch.group]
    mean = jax.ops.segment_sum(score, batch.group, B)[batch.group] / count
    variance = jax.ops.segment_sum((score - mean) ** 2, batch.group, B)[batch.group]
    std = jnp.sqrt(variance / jnp.maximum(count - 1, 1))
    turn = jnp.where(batch.valid, ((score - mean) / (std + 1e-6))[:, None], 0.0)
    N = batch.tokens.shape[0]
    rows = hj.to_rows(turn, row=batch.row, valid=batch.valid, num_rows=N)
    mask = batch.response_mask & batch.is_turn[:, None]
    none = jnp.zeros((N, 0))
    return hj.Credit(rows[:, None] * mask, mask, none, none > 0, {"turn": turn}, {})


GRPO = hj.Estimator((), hj.read_nothing, grpo_assign)


def siblings():
    """Four episodes of two tasks: one task is won once, the other never."""
    episodes = small.episodes(0, (5, 3, 6, 1), (True, False, False, False))
    games = ("a", "a", "b", "b")
    return [
        dataclasses.replace(e, game=game)
        for e, game in zip(episodes, games, strict=True)
    ]


def bare_agent():
    agent, actor, _ = small.agent()
    return dataclasses.replace(agent, critic="none"), actor


def started(settings=SETTINGS, tx=None):
    agent, actor = bare_agent()
    tx = tx or optax.adam(1e-2)
    return small.program(agent, actor, None, settings, tx, estimator=GRPO)


def test_advantages_by_hand():
    """Won against lost: ±(1/2) / (√½ + 1e-6); a task that nobody wins says nothing."""
    batch = batch_of(siblings())
    credit = grpo_assign(jax.tree.map(jnp.asarray, batch), None)
    half = 0.5 / (np.sqrt(0.5) + 1e-6)
    np.testing.assert_allclose(credit.turn["turn"][0, :5], half, rtol=1e-6)
    np.testing.assert_allclose(credit.turn["turn"][1, :3], -half, rtol=1e-6)
    np.testing.assert_array_equal(credit.turn["turn"][2:], 0.0)
    n = batch.row[0, 2]
    K = int(batch.response_mask[n].sum())
    np.testing.assert_allclose(credit.advantage[n, :K], half, rtol=1e-6)
    np.testing.assert_array_equal(credit.advantage[n, K:], 0.0)


def test_one_program_serves_every_batch_and_moves_the_actor():
    update, state = started()
    before = jax.tree.map(np.asarray, state.actor)
    batch = batch_of(siblings())
    for _ in range(3):
        state, metrics, turns = update(state, batch)
    assert update.programs() == 1
    assert int(state.step) == 3 and set(turns) == {"turn"}
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, state.actor)
    assert max(jax.tree.leaves(moved)) > 1e-3
    assert all(np.isfinite(v) for v in metrics.values())
    assert not [name for name in metrics if "value" in name or "critic" in name]


def test_state_and_program_hold_nothing_of_a_critic():
    update, state = started()
    assert state.critic is None and state.critic_opt is None
    batch = batch_of(siblings())
    text = update.lower(state, batch).as_text()
    with_critic, whole = small.program(
        *small.agent(), SETTINGS, optax.adam(1e-2), optax.adam(1e-2)
    )
    other = with_critic.lower(whole, batch).as_text()

    def matmuls(program):
        return len(re.findall(r"stablehlo\.dot_general", program))

    # A pass of values forward, a gradient of values: both are gone.
    assert matmuls(text) < 0.6 * matmuls(other), (matmuls(text), matmuls(other))
    leaves = [leaf.size for leaf in jax.tree.leaves(state)]
    assert sum(leaves) < 0.6 * sum(leaf.size for leaf in jax.tree.leaves(whole))


def test_the_same_batch_on_a_mesh_gives_the_same_step():
    agent, actor = bare_agent()
    batch, tx = batch_of(siblings()), optax.sgd(0.1)
    settings = dataclasses.replace(SETTINGS, minibatch=24, chunk=8)
    one, state = small.program(agent, actor, None, settings, tx, estimator=GRPO)
    alone, _, _ = one(state, batch)
    agent = dataclasses.replace(agent, mesh=sharding.make_mesh(8, 1, 1))
    many, state = small.program(agent, actor, None, settings, tx, estimator=GRPO)
    spread, _, _ = many(state, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        alone.actor,
        spread.actor,
    )


def test_heads_without_a_critic_are_refused():
    agent, _ = bare_agent()
    with pytest.raises(ValueError, match="the agent has no critic"):
        hj.make_model(agent)
    reads = hj.Estimator(("high",), hj.read_nothing, grpo_assign)
    model = hj.make_model(agent, ())
    with pytest.raises(ValueError, match="reads the value heads high"):
        hj.make_update(model, reads, (optax.sgd(1.0),), SETTINGS, (96,))
    init, _ = hj.make_update(model, GRPO, (optax.sgd(1.0),), SETTINGS, (96,))
    with pytest.raises(ValueError, match="go together"):
        init({}, {}, jax.random.key_data(jax.random.key(0)))
