"""The update: one program, chunks that add up, padding that does not count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from compilations import compilations

from hiper_jax.act.stack import stack
from hiper_jax.credit import hiper
from hiper_jax.credit.hiper import assign_credit, shaping_terms
from hiper_jax.experiments.config import Learn
from hiper_jax.loss import AGGREGATIONS, policy_loss
from hiper_jax.networks import passes
from hiper_jax.networks.model import Model
from hiper_jax.update import objective
from hiper_jax.update.bins import Fed
from hiper_jax.update.minibatch import Totals
from hiper_jax.update.state import Optimizers
from hiper_jax.update.step import make_update

LENGTHS = (64, 96)
SETTINGS = Learn(
    keep_penalty=0.1,
    invalid_action_penalty=0.1,
    gamma=0.9,
    minibatch=8,
    chunk=4,
    kl_coef=0.1,
)


def batch_of(episodes, *, rows=24, max_turns=6, num_episodes=0):
    return stack(
        episodes,
        small.agent()[0].pieces,
        max_turns=max_turns,
        max_response=40,
        row_buckets=(rows,),
        length_buckets=LENGTHS[-1:],
        num_episodes=num_episodes,
    )


def program(settings=SETTINGS, tx=None, lengths=LENGTHS):
    tx = tx or optax.sgd(0.1)
    return small.program(*small.agent(), settings, tx, tx, lengths=lengths)


def close(a, b, tolerance=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance), a, b)


def test_one_trace_serves_batches_of_any_content():
    update, state = program()
    sizes = [(5, 3, 6, 1), (2, 2, 2, 2), (6, 6, 1, 1)]
    batches = [batch_of(small.episodes(seed, s)) for seed, s in enumerate(sizes)]
    with compilations() as compiled:
        for batch in batches:
            state, metrics, _ = update(state, batch)
            assert all(np.isfinite(v) for v in metrics.values()), metrics
    assert update.programs() == 1
    assert len([name for name in compiled if "update" in name]) == 1
    assert int(state.step) == 3


@pytest.fixture(scope="module")
def two_epochs():
    """An update of four optimizer steps on 15 turns, by Adam, and its start."""
    settings = dataclasses.replace(SETTINGS, epochs=2)
    return program(settings, tx=optax.adam(0.1))


def leaves(*trees):
    return zip(*(jax.tree.leaves(tree) for tree in trees), strict=True)


def test_a_batch_with_dropped_episodes_needs_no_other_program(two_epochs):
    update, start = two_epochs
    update(start, batch_of(small.episodes()))
    fewer = batch_of(small.episodes()[:3], num_episodes=4)
    state, metrics, turns = update(start, fewer)
    assert update.programs() == 1
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    segments = fewer.segment[:3].max(axis=1) + 1
    np.testing.assert_allclose(metrics["value/segments"], segments.mean(), rtol=1e-6)
    assert any((a != b).any() for a, b in leaves(state.actor, start.actor))
    assert all(not np.asarray(part[3]).any() for part in turns.values())


def test_a_gradient_that_is_not_finite_skips_its_step_and_no_other(two_epochs):
    update, start = two_epochs
    batch = batch_of(small.episodes())
    broken = batch.old_log_prob.copy()
    broken[0] = np.nan
    state, metrics, _ = update(start, batch.replace(old_log_prob=broken))
    assert metrics["update/skipped"] == 2 and not np.isfinite(metrics["grad/actor"])
    assert int(state.actor_opt[0].count) == int(state.critic_opt[0].count) == 2
    assert int(state.step) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert any((a != b).any() for a, b in leaves(state.actor, start.actor))
    # All rows broken: it is as if there had been no step.
    broken[:] = np.nan
    same, metrics, _ = update(start, batch.replace(old_log_prob=broken))
    assert metrics["update/skipped"] == 4
    for a, b in leaves(same.replace(step=0), start.replace(step=0)):
        np.testing.assert_array_equal(a, b)
    _, metrics, _ = update(start, batch)
    assert metrics["update/skipped"] == 0 and update.programs() == 1


def test_chunks_add_up_to_the_whole_minibatch():
    batch = batch_of(small.episodes())
    whole = dataclasses.replace(SETTINGS, minibatch=24, chunk=24)
    parts = dataclasses.replace(SETTINGS, minibatch=24, chunk=3)
    results = []
    for settings, lengths in ((whole, (96,)), (parts, LENGTHS)):
        update, state = program(settings, lengths=lengths)
        state, metrics, _ = update(state, batch)
        results.append((state.actor, state.critic, metrics))
    close(results[0], results[1])


def test_padding_rows_change_nothing():
    settings = dataclasses.replace(SETTINGS, minibatch=48, chunk=6)
    results = []
    for rows, turns in ((24, 6), (48, 9)):
        update, state = program(settings)
        batch = batch_of(small.episodes(), rows=rows, max_turns=turns)
        state, metrics, credit = update(state, batch)
        results.append((state.actor, metrics, credit["advantage_low"][:, :6]))
    close(results[0], results[1])


@pytest.mark.parametrize("kept", [False, True])
def test_the_gradient_is_that_of_the_plain_loss(kept):
    """Against the loss written out for the whole batch, without chunks."""
    agent, actor, critic = small.agent()
    settings = dataclasses.replace(
        SETTINGS,
        minibatch=24,
        kl_coef=0.0,
        entropy_coef=0.0,
        keep_penalty=0.0,
        switch_on_kept=kept,
    )
    batch = batch_of(small.episodes())
    update, state = program(settings, optax.sgd(1.0))
    after, _, credit = update(state, batch)
    turns = [(b, t) for b in range(4) for t in range(6) if batch.valid[b, t]]

    def loss(params):
        total, count = 0.0, 0
        log_prob, _ = passes.score(agent)(
            params, batch.tokens, batch.start, batch.response, 1.0
        )
        for n, (b, t) in enumerate(turns):
            starts = t == 0 or batch.segment[b, t] != batch.segment[b, t - 1]
            decides = batch.switch_mask[n]
            if kept and not starts:
                decides = decides | batch.subgoal_mask[n]
            for spread, mask in (
                (credit["advantage_low"], batch.action_mask[n]),
                (credit["advantage_high"], batch.subgoal_mask[n] & starts),
                (credit["advantage_switch"], decides),
            ):
                ratio = jnp.exp(log_prob[n] - batch.old_log_prob[n])
                a = float(spread[b, t])
                surrogate = jnp.maximum(-a * ratio, -a * jnp.clip(ratio, 0.8, 1.2))
                if a < 0:
                    surrogate = jnp.minimum(surrogate, -3.0 * a)
                total += jnp.sum(jnp.where(mask, surrogate, 0.0))
                count += int(mask.sum())
        return total / count

    gradient = jax.grad(loss)(actor)
    moved = jax.tree.map(lambda a, b: a - b, state.actor, after.actor)
    close(moved, gradient, 1e-5)
    assert optax.tree.norm(gradient) > 1e-3
    del critic


def test_the_next_state_bootstrap_reads_the_row_after_the_last_turn():
    batch = batch_of(small.episodes())
    values = np.zeros((24, 3), np.float32)
    lost = int(np.flatnonzero(batch.next_row >= 0)[0])
    values[batch.next_row[lost], hiper.HEADS.index("high")] = 0.7
    settings = hiper.Settings(
        gamma=0.5, lambda_turn=1.0, normalize=False, bootstrap="next_state"
    )
    turn = assign_credit(batch, values, settings).turn
    last = int(batch.valid[lost].sum()) - 1
    np.testing.assert_allclose(turn["return_low"][lost, last], 0.35, rtol=1e-6)
    none = dataclasses.replace(settings, bootstrap="none")
    turn = assign_credit(batch, values, none).turn
    np.testing.assert_allclose(turn["return_low"][lost, last], 0.0)


def test_broken_format_and_what_the_game_refuses_cost_apart():
    batch = batch_of(small.episodes())
    refused = np.zeros_like(batch.valid)
    refused[0, 1] = True
    batch = batch.replace(action_valid=batch.valid & ~refused)
    settings = hiper.Settings(invalid_action_penalty=0.25, refused_penalty=0.1)
    terms = shaping_terms(batch, settings)
    broken = batch.valid & ~batch.format_valid
    assert broken.any() and (refused & ~broken).any()
    np.testing.assert_allclose(terms["invalid"], -0.25 * broken)
    np.testing.assert_allclose(terms["refused"], -0.1 * (refused & ~broken))


def test_learning_raises_the_probability_of_what_was_rewarded():
    agent, _, _ = small.agent()
    episodes = small.episodes(3, (4, 4, 4, 4), (True, False, True, False))
    batch = batch_of(episodes)
    settings = Learn(gamma=1.0, kl_coef=0.0, minibatch=16, chunk=8)
    update, state = program(settings, optax.adam(3e-3))

    def likelihood(actor):
        log_prob, _ = passes.score(agent)(
            actor, batch.tokens, batch.start, batch.response, 1.0
        )
        return np.where(batch.action_mask, log_prob, 0.0).sum(axis=1)

    before = likelihood(state.actor)
    batch = batch.replace(
        old_log_prob=np.asarray(
            passes.score(agent)(
                state.actor, batch.tokens, batch.start, batch.response, 1.0
            )[0]
        )
    )
    for _ in range(3):
        state, metrics, credit = update(state, batch)
    gain = (likelihood(state.actor) - before)[:16].reshape(4, 4).sum(axis=1)
    good = np.asarray(credit["advantage_low"]).sum(axis=1)
    assert np.corrcoef(gain, good)[0, 1] > 0.5, (gain, good)
    assert metrics["loss/value_low"] >= 0


def test_a_model_function_of_the_wrong_shape_is_named():
    agent, actor, critic = small.agent()
    tx = optax.sgd(0.1)

    def broken(*args):
        return passes.values(agent)(*args)[..., :2]

    init, update = make_update(
        Model(passes.score(agent), broken),
        hiper.estimator(SETTINGS),
        Optimizers(tx, tx),
        SETTINGS,
        LENGTHS,
    )
    state = init(actor, critic, jax.random.key_data(jax.random.key(1)))
    with pytest.raises(ValueError, match="values returned shape"):
        update(state, batch_of(small.episodes()))


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_chunks_add_up_whatever_the_aggregation(aggregation, ratio):
    """Two chunks of four rows are a minibatch of seven; one row stands in for none.

    A row of which no token carries anything changes nothing.
    """
    rng = np.random.default_rng(0)
    N, R = 8, 5
    new, old, advantage, entropy, ref = rng.normal(size=(5, N, R)).astype(np.float32)
    mask, used = rng.random((N, R)) < 0.6, np.arange(N) < 7
    mask[2] = False
    settings = dataclasses.replace(SETTINGS, aggregation=aggregation, ratio=ratio)
    batch = batch_of(small.episodes()).replace(old_log_prob=jnp.asarray(old))
    targets = objective.Targets(advantage, mask, ref, None, None, None, None)
    targets = jax.tree.map(jnp.asarray, targets)
    loss = objective.Loss(None, settings, (), 1.0, None, batch, targets)
    carrying = np.flatnonzero(mask.any(axis=1) & used)
    totals = Totals(mask[used].sum(), used.sum(), carrying.size, jnp.zeros(0, int))

    def share(rows):
        rows = jnp.asarray(rows)
        fed = Fed(None, rows)
        chunk = objective.Chunk(fed, jnp.asarray(used)[rows], totals)
        arrays = jnp.asarray(new)[rows], jnp.asarray(entropy)[rows]
        total, parts, _ = objective.policy_part(*arrays, loss, chunk)
        return total, parts["loss/policy"], parts["policy/entropy"]

    whole, halves = share(range(8)), [share(range(4)), share(range(4, 8))]
    np.testing.assert_allclose(np.sum(halves, axis=0), whole, rtol=1e-5)
    rows = used.sum()
    alone, _ = policy_loss(
        *(a[carrying] for a in (new, old, advantage, mask)),
        aggregation=aggregation,
        ratio=ratio,
    )
    # The update takes the mean over responses, the bare loss their sum.
    over = rows if aggregation == "seq-mean-token-sum-norm" else 1
    np.testing.assert_allclose(whole[1], alone / over, rtol=1e-5)


def test_what_strays_from_the_reference_comes_off_the_reward():
    batch = batch_of(small.episodes())
    shape = batch.response.shape
    ref = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    batch = jax.tree.map(jnp.asarray, batch.replace(reference_log_prob=ref))
    settings = dataclasses.replace(SETTINGS, kl_reward_coef=0.2)
    values = jnp.zeros((shape[0], 3))
    with_kl = assign_credit(batch, values, settings)
    without = assign_credit(batch, values, SETTINGS)
    each = jnp.where(batch.response_mask, batch.old_log_prob - ref, 0).sum(axis=1)
    wanted = jnp.where(batch.valid, -0.2 * each[batch.row], 0)
    got = with_kl.turn["shaped_reward"] - without.turn["shaped_reward"]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    per_episode = wanted.sum() / batch.valid.shape[0]
    np.testing.assert_allclose(with_kl.metrics["shaping/kl"], per_episode, rtol=1e-4)
    assert hiper.estimator(settings).reads_reference
    assert not hiper.estimator(SETTINGS).reads_reference
    with pytest.raises(ValueError, match="reference_log_prob"):
        assign_credit(batch.replace(reference_log_prob=None), values, settings)


def test_the_update_measures_the_reference_for_the_reward_alone():
    """No KL term in the loss, but one in the reward: the pass is there, traced."""
    settings = dataclasses.replace(SETTINGS, kl_coef=0.0, kl_reward_coef=0.2)
    agent, actor, critic = small.agent()
    estimator = hiper.estimator(settings)
    init, update = make_update(
        passes.make_model(agent), estimator, [optax.sgd(0.1)] * 2, settings, LENGTHS
    )
    key = jax.random.key_data(jax.random.key(0))
    state = jax.eval_shape(lambda: init(actor, critic, key))
    _, metrics, _ = jax.eval_shape(update, state, batch_of(small.episodes()))
    assert "shaping/kl" in metrics and "loss/kl" not in metrics
