"""Every estimator by name: what all of them keep, and each through a real batch."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_groups as twin
import small
from test_update import SETTINGS, batch_of

import hiper_jax as hj

ROWS, TURNS = 12, 8
SIBLINGS = ("reward", "valid", "group")
NODES = (*SIBLINGS, "anchor")
# Name -> what it takes. The last three are whitened over the batch.
METHODS = {
    "grpo": SIBLINGS,
    "drgrpo": SIBLINGS,
    "rloo": SIBLINGS,
    "gigpo": NODES,
    "hgpo": NODES,
    "g2po": (*NODES, "success"),
    "graphgpo": (*NODES, "success"),
    "crbc": (*NODES, "action", "success"),
    "reinforce_pp_baseline": (*SIBLINGS, "tokens"),
    "reinforce_pp": ("reward", "valid", "tokens"),
}
ALONE = [name for name in METHODS if not name.startswith("reinforce")]


@pytest.fixture(scope="module")
def compiled():
    """Name -> the method on a dict of arrays, one program each."""

    def of(name):
        def call(given):
            arrays = (given[field] for field in METHODS[name])
            return getattr(hj, name)(*arrays, penalty=given["penalty"])

        return jax.jit(call), call

    return {name: of(name) for name in METHODS}


def given(trajectories, **places):
    return twin.arrays(trajectories, ROWS, TURNS, **places)


@pytest.mark.parametrize("name", METHODS)
def test_compiled_is_eager_and_padding_is_zero(compiled, name):
    arrays = given(twin.random_trajectories(7))
    jitted, eager = compiled[name]
    got = np.asarray(jitted(arrays))
    np.testing.assert_allclose(eager(arrays), got, rtol=1e-5, atol=1e-5)
    assert got.shape == (ROWS, TURNS) and got.dtype == np.float32
    assert np.isfinite(got).all() and (got[~arrays["valid"]] == 0).all()
    assert np.abs(got).max() > 0.1
    rounded = {"reward": arrays["reward"].astype(jnp.bfloat16)}
    low = jax.eval_shape(eager, arrays | rounded)
    assert low.dtype == jnp.bfloat16 and low.shape == got.shape


@pytest.mark.parametrize("name", METHODS)
def test_where_the_record_stands_does_not_matter(compiled, name):
    trajectories = twin.random_trajectories(7)
    jitted, _ = compiled[name]
    left, right = jitted(given(trajectories)), jitted(given(trajectories, shift=2))
    np.testing.assert_allclose(right[:, 2:], left[:, :-2], rtol=1e-4, atol=1e-5)
    assert not right[:, :2].any()


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_siblings_does_not_matter(compiled, name):
    """Nor that of tasks, nor what number a task, an anchor or an action has."""
    trajectories = twin.random_trajectories(7)
    order = np.random.default_rng(0).permutation(len(trajectories))
    jitted, _ = compiled[name]
    before = np.asarray(jitted(given(trajectories)))
    after = np.asarray(jitted(given([trajectories[b] for b in order])))
    np.testing.assert_allclose(after[: len(order)], before[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALONE)
def test_other_tasks_do_not_matter(compiled, name):
    trajectories = twin.random_trajectories(7)
    others = [dict(one, task=9) for one in twin.random_trajectories(8)[:2]]
    for one in others:
        one["anchor"] = [(9, where) for _, where in one["anchor"]]
        one["reward"] = [100.0 * r + 1 for r in one["reward"]]
    jitted, _ = compiled[name]
    alone = np.asarray(jitted(given(trajectories)))
    together = np.asarray(jitted(given([*trajectories, *others])))
    here = len(trajectories)
    np.testing.assert_allclose(together[:here], alone[:here], rtol=1e-5, atol=1e-5)
    assert together[here:].any()


def siblings():
    """Six episodes of two tasks with shared observations, as a stacked batch."""
    episodes = small.episodes(0, (5, 3, 6, 1, 4, 4), (True, False, False) * 2)
    rng = np.random.default_rng(0)
    made = []
    for b, episode in enumerate(episodes):
        turns = tuple(
            dataclasses.replace(turn, observation=f"room {rng.integers(2)}")
            for turn in episode.turns
        )
        made.append(dataclasses.replace(episode, game="ab"[b > 2], turns=turns))
    batch = batch_of(made, rows=32)
    B, (N, R) = len(made), batch.response.shape
    return batch.replace(
        strategy=np.array([0, 0, 1, 2, 3, 3], np.int32),
        strategy_row=np.full(B, -1, np.int32),
        flagged=rng.random(batch.valid.shape) < 0.3,
        teacher_log_prob=-rng.exponential(size=(N, R)).astype(np.float32),
        entropy=rng.exponential(size=(N, R)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def batch():
    return jax.tree.map(jnp.asarray, siblings())


def values_for(estimator, batch):
    rng = np.random.default_rng(1)
    N, R = batch.response.shape
    at = estimator.read_at(batch)
    H = len(estimator.heads)
    shape = (N, R, H) if at is None else (N, H)
    assert at is None or at.shape == shape
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("name", hj.ESTIMATORS)
def test_through_a_batch(name, batch):
    Settings, make = hj.find_estimator(name)
    estimator = make(Settings(invalid_action_penalty=0.25))
    values = values_for(estimator, batch)
    credit = jax.jit(estimator.assign)(batch, values)
    N, R = batch.response.shape
    assert credit.advantage.shape == credit.mask.shape == (N, R)
    assert credit.advantage.dtype == jnp.float32 and credit.mask.dtype == bool
    assert credit.return_.shape == credit.reads.shape == values.shape
    assert all(x.shape == batch.valid.shape for x in credit.turn.values())
    assert all(x.shape == () for x in credit.metrics.values())
    for leaf in jax.tree.leaves(credit):
        assert np.isfinite(np.asarray(leaf, float)).all()
    carried = np.asarray(credit.mask)
    real = np.asarray(batch.response_mask & batch.is_turn[:, None])
    assert not (carried & ~real).any() and carried.any()
    assert not np.asarray(credit.advantage)[~carried].any()
    assert np.abs(np.asarray(credit.advantage)).max() > 0.1
    reads = np.asarray(credit.reads).reshape(N, -1)
    assert not reads[~np.asarray(batch.is_turn)].any()
    if name not in ("hae", "hae_group"):  # those credit blocks
        np.testing.assert_array_equal(carried, real)


@pytest.mark.parametrize("name", ["hae", "hae_group", "gae_turn", "gigpo", "strata"])
def test_a_dropped_episode_changes_nothing(name, batch):
    """A trajectory without a turn: no credit, no metric knows of it."""
    Settings, make = hj.find_estimator(name)
    floor = {"switch_rate_floor": 0.9, "switch_rate_floor_coef": 0.5}
    known = {field.name for field in dataclasses.fields(Settings)}
    estimator = make(Settings(**floor if floor.keys() <= known else {}))
    B, N = len(batch.won), batch.tokens.shape[0]
    played = small.episodes(0, (5, 3, 6, 1, 4, 4), (True,) * B)
    blank = batch_of(played, rows=N, num_episodes=B + 2)
    assert blank.valid.shape[0] == B + 2 and not blank.valid[B:].any()
    padded = {
        field: jnp.concatenate([value, jnp.asarray(getattr(blank, field)[B:])])
        for field, value in vars(batch).items()
        if field not in ("strategy", "strategy_row", "flagged")
        and getattr(value, "shape", ())[:1] == (B,)
    }
    padded |= {
        "strategy": jnp.concatenate([batch.strategy, jnp.array([B, B + 1])]),
        "strategy_row": jnp.pad(batch.strategy_row, (0, 2), constant_values=-1),
        "flagged": jnp.pad(batch.flagged, ((0, 2), (0, 0))),
    }
    wide = batch.replace(**padded)
    values = values_for(estimator, batch)
    one = jax.jit(estimator.assign)(batch, values)
    two = jax.jit(estimator.assign)(wide, values)
    assert two.metrics.keys() == one.metrics.keys()
    shared = ("advantage", "mask", "return_", "reads", "metrics")
    for field in shared:
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
            getattr(two, field),
            getattr(one, field),
        )
    for part in two.turn.values():
        assert not np.asarray(part)[B:].any()


@pytest.mark.parametrize("name", ["grpo", "gigpo", "rloo", "drgrpo"])
def test_how_much_of_the_advantages_penalties_alone_make(name, batch):
    """The second task's siblings all lose; every second turn was refused."""
    Settings, make = hj.find_estimator(name)
    second = batch.group == batch.group[3]
    lost = jnp.where(second[:, None], 0.0, batch.reward)
    assert np.unique(np.asarray(lost[~second].sum(1))).size > 1
    odd = jnp.arange(lost.shape[1])[None] % 2 == 0
    batch = batch.replace(reward=lost, action_valid=batch.valid & odd)

    def share(**settings):
        credit = make(Settings(**settings)).assign(batch, jnp.zeros((0, 0)))
        told = np.square(np.asarray(credit.turn["advantage"]))
        expected = told[np.asarray(second)].sum() / told.sum()
        share = float(credit.metrics["group/of_penalties"])
        np.testing.assert_allclose(share, expected, rtol=1e-5)
        return share

    assert share(refused_penalty=0.0) == 0
    if name in ("grpo", "gigpo"):  # which divide by a deviation: however small it is
        assert share(refused_penalty=1e-3) > 0.1
    else:
        assert 0 < share(refused_penalty=1e-3) < 1e-4


@pytest.mark.parametrize("name", ["gae_turn", "gigpo", "crbc"])
def test_a_turns_advantage_is_on_all_its_tokens(name, batch):
    Settings, make = hj.find_estimator(name)
    estimator = make(Settings())
    credit = estimator.assign(batch, values_for(estimator, batch))
    for b, t in zip(*np.nonzero(batch.valid), strict=True):
        n = int(batch.row[b, t])
        here = np.asarray(credit.advantage[n])[np.asarray(batch.response_mask[n])]
        np.testing.assert_array_equal(here, credit.turn["advantage"][b, t])


@pytest.mark.parametrize("name", ["gae_turn", "vetta", "gigpo", "hae_group"])
def test_the_update_takes_it(name):
    """One head, two heads at every token, none: traced to the end, none compiled."""
    Settings, make = hj.find_estimator(name)
    estimator = make(Settings())
    agent, actor, critic = small.agent()
    optimizers = [optax.sgd(1.0), optax.sgd(1.0)]
    if not estimator.heads:
        agent = dataclasses.replace(agent, critic="none")
        critic, optimizers = None, optimizers[:1]
    model = hj.make_model(agent, estimator.heads)
    init, update = hj.make_update(model, estimator, optimizers, SETTINGS, (96,))
    state = jax.eval_shape(
        lambda: init(actor, critic, jax.random.key_data(jax.random.key(0)))
    )
    _, metrics, turns = jax.eval_shape(update, state, siblings())
    losses = {name for name in metrics if name.startswith("loss/value")}
    assert losses == {f"loss/value_{head}" for head in estimator.heads}
    assert "advantage" in turns or "advantage_low" in turns


def test_what_a_system_must_hand_over_is_named(batch):
    for name, field in (("strata", "strategy"), ("gear", "entropy")):
        Settings, make = hj.find_estimator(name)
        with pytest.raises(ValueError, match=f"batch.*{field}"):
            make(Settings()).assign(batch.replace(**{field: None}), None)


def test_strategies_carry_their_own_credit(batch):
    """The rows that wrote the strategies carry A_strategy on all their tokens."""
    Settings, make = hj.find_estimator("strata")
    N = batch.response.shape[0]
    spare = [n for n in range(N) if not batch.is_turn[n]][:4]
    rows = np.full(6, -1, np.int32)
    rows[:4] = spare
    mask = batch.response_mask.at[jnp.array(spare), :3].set(True)
    credit = make(Settings()).assign(
        batch.replace(strategy_row=jnp.asarray(rows), response_mask=mask),
        jnp.zeros((N, 0)),
    )
    out = hj.strata(
        batch.reward, batch.valid, batch.group, batch.strategy, batch.flagged
    )
    first = [0, 2, 3, 4]  # an episode under each strategy
    for n, b in zip(spare, first, strict=True):
        np.testing.assert_allclose(credit.advantage[n, :3], out.strategy[b])
        assert credit.mask[n, :3].all() and not credit.mask[n, 3:].any()


@pytest.mark.parametrize("name", hj.ESTIMATORS)
def test_settings_check_themselves(name):
    Settings, _ = hj.find_estimator(name)
    assert dataclasses.is_dataclass(Settings) and Settings() == Settings()
    for bad in (-0.1, float("nan"), "1"):
        with pytest.raises(ValueError, match="invalid_action_penalty"):
            Settings(invalid_action_penalty=bad)
    for field in dataclasses.fields(Settings):
        if isinstance(field.default, str):
            with pytest.raises(ValueError, match=field.name):
                Settings(**{field.name: "nosuch"})


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"'ppo'; there are crbc, drgrpo"):
        hj.find_estimator("ppo")


def test_the_names_are_those_of_the_field_and_cost_nothing():
    wanted = (
        "gae_token gae_turn gae_bilevel vetta grpo drgrpo rloo reinforce_pp "
        "reinforce_pp_baseline gigpo hgpo g2po graphgpo crbc hae hae_group strata gear"
    )
    assert set(hj.ESTIMATORS) == set(wanted.split())
    code = "import sys, hiper_jax; hiper_jax.ESTIMATORS; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "False", done.stderr
