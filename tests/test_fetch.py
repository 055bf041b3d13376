"""Weights fetched once a step: the numbers of a fetch a chunk, and far less traffic."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax
import pytest
import small
from test_update import SETTINGS, batch_of

from hiper_jax import lm
from hiper_jax.credit import group
from hiper_jax.experiments.capacity import traffic
from hiper_jax.experiments.config import Mesh
from hiper_jax.lm import sharding, sharding_rows
from hiper_jax.lm import value_heads as heads
from hiper_jax.networks import assemble
from hiper_jax.networks.own_rows import whole

# Plain steps with momentum: what is kept of one step is its gradient.
TX = optax.sgd(0.1, momentum=0.9)
# Three chunks of an optimizer step, and of the values and the reference.
SETTINGS = dataclasses.replace(SETTINGS, chunk=8, minibatch=24)


def program(shape, fetch, estimator=None, depth=1, settings=SETTINGS, **options):
    """The update of a small agent on a mesh, and its start."""
    agent, actor, critic = small.agent(vocab_size=344, depth=depth)
    mesh = sharding.make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])
    agent = dataclasses.replace(agent, mesh=mesh, fetch=fetch, **options)
    if agent.critic == "none":
        critic = None
    elif agent.critic == "separate" and not agent.rank:
        critic["trunk"] = {k: v for k, v in actor.items() if k != "head"}
        critic["trunk"] = jax.tree.map(lambda x: x * 1.1, critic["trunk"])
    else:
        critic = {k: v for k, v in critic.items() if k != "trunk"}
    places = sharding.shardings(lm.abstract(agent.config), mesh)
    actor = jax.device_put(actor, places)
    if critic is not None:
        specs = heads.abstract(agent.config, trunk="trunk" in critic)
        critic = jax.device_put(critic, sharding.shardings(specs, mesh))
    txs = [TX] * (1 if critic is None else 2)
    return small.program(
        agent, actor, critic, settings, *txs, estimator=estimator, lengths=(96,)
    )


@functools.cache
def stepped(case, fetch):
    """What `step_of` gives of a case."""
    shape, options = CASES[case]
    return step_of(shape, fetch, **options)


def step_of(shape, fetch, **options):
    """Weights, gradients, metrics and values after one iteration's optimizer steps."""
    update, state = program(shape, fetch, **options)
    if options.get("rank"):  # adapters that change nothing have no gradient, either
        moved = jax.tree.map(lambda x: x + 0.05, (state.actor, state.critic))
        state = state.replace(actor=moved[0], critic=moved[1])
    state, metrics, told = update(state, batch_of(small.episodes()))
    kept = state.actor, state.critic, state.actor_opt, state.critic_opt
    return jax.tree.map(np.asarray, (kept, metrics, told))


CASES = {
    "a critic of its own": ((1, 2, 2), {}),
    "a shared critic": ((2, 2, 1), {"critic": "shared"}),
    "adapters": ((2, 1, 2), {"rank": 2}),
    "no critic": (
        (1, 4, 1),
        {"critic": "none", "estimator": group.estimator(group.Grpo())},
    ),
}


def differences(one, other):
    """The largest of each array, in terms of its largest entry; of metrics, of 1."""
    pairs = zip(
        jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other), strict=True
    )
    return {
        jax.tree_util.keystr(path): np.abs(a - b).max()
        / max(np.abs(a).max(), 1.0 if path[0].idx else 1e-6)
        for (path, a), (_, b) in pairs
    }


@pytest.mark.parametrize("case", CASES)
def test_a_fetch_a_step_gives_the_numbers_of_a_fetch_a_chunk(case):
    found = differences(*(stepped(case, fetch) for fetch in ("chunk", "step")))
    off = {name: size for name, size in found.items() if size > 5e-6}
    assert not off


def test_gradients_that_do_not_meet_are_noticed(monkeypatch):
    """A seeded fault: half of what the devices have added up is lost."""
    expected = stepped("no critic", "chunk")
    add = sharding_rows.added_up

    def halved(specs, gradients):
        return jax.tree.map(lambda g: g / 2, add(specs, gradients))

    monkeypatch.setattr(sharding_rows, "added_up", halved)
    found = differences(expected, stepped.__wrapped__("no critic", "step"))
    assert max(found.values()) > 0.1


def test_weights_and_gradients_travel_once_a_step():
    """Two steps of four chunks: three fetches and a sum a chunk, or one of each."""
    sent = {}
    for fetch in ("chunk", "step"):
        # So deep that layers are scanned: a loop's gathers are not hoisted from it.
        update, state = program((1, 4, 1), fetch, critic="shared", depth=5)
        text = update.lower(state, batch_of(small.episodes())).compile().as_text()
        loops = traffic.loops_of(rows=64, minibatch=32, chunk=8, heads=1)
        found = traffic.sent(text or "", loops)
        sent[fetch] = sum(one.by_device() for one in found)
        matrices = [x for x in found if x.size > 2_000 and x.kind == "all-gather"]
        times = {x.times for x in matrices if "gradient" in x.name}
        assert times == {2} if fetch == "step" else max(times) >= 8
    assert sent["step"] < sent["chunk"] / 3


def test_gradients_are_shared_out_without_being_made_whole():
    """Each device scatters its own part along `tensor`, gathered from nobody."""
    update, state = program((1, 2, 2), "step", critic="shared")
    text = update.lower(state, batch_of(small.episodes())).compile().as_text()
    found = traffic.sent(text or "", traffic.loops_of(64, 32, 8, 1))
    shared = [x for x in found if "scatter" in x.name]
    assert shared and not [x for x in shared if x.kind == "all-gather"]


def test_a_mesh_that_cuts_no_rows_has_nothing_to_fetch():
    agent, _, _ = small.agent()
    for shape, once in (((1, 1, 2), False), ((1, 2, 1), True), ((2, 1, 1), True)):
        mesh = sharding.make_mesh(*shape, devices=jax.devices()[:2])
        made = dataclasses.replace(agent, mesh=mesh, fetch="step")
        assert made.fetches_once == once
    assert not dataclasses.replace(agent, fetch="step").fetches_once


def test_fetched_weights_are_what_a_chunk_makes_of_them():
    """Matrices in the compute type, tables rounded to it, small weights as they are."""
    agent, actor, _ = small.agent(vocab_size=344)
    config = dataclasses.replace(agent.config, dtype="bfloat16")
    mesh = sharding.make_mesh(1, 4, 2)
    agent = dataclasses.replace(agent, mesh=mesh, fetch="step", config=config)
    specs = agent.leaves[0]
    found = jax.jit(lambda x: whole(agent, specs, x))(actor)
    assert found["layers"]["gate"].dtype == "bfloat16"
    assert found["layers"]["gate"].sharding.shard_shape((2, 32, 48)) == (2, 32, 24)
    for name in ("embed", "norm"):
        assert found[name].dtype == "float32"
    rounded = np.asarray(actor["embed"].astype("bfloat16").astype("float32"))
    np.testing.assert_array_equal(found["embed"], rounded)
    np.testing.assert_array_equal(found["norm"], actor["norm"])
    held = jax.jit(lambda x: assemble.held(agent, x, 0))(found)
    assert held["layers"]["gate"].sharding == found["layers"]["gate"].sharding


def test_the_setting_is_checked():
    never: Any = {"fetch": "never"}
    with pytest.raises(ValueError, match="fetch"):
        Mesh(**never)
