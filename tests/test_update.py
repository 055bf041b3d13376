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
from hiper_jax.networks import passes
from hiper_jax.networks.model import Model
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


def batch_of(episodes, *, rows=24, max_turns=6):
    return stack(
        episodes,
        small.agent()[0].pieces,
        max_turns=max_turns,
        max_response=40,
        row_buckets=(rows,),
        length_buckets=LENGTHS[-1:],
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
