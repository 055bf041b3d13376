"""Training on a mesh is training on one device, cut into parts."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import optax
import pytest
import small
from test_update import SETTINGS, batch_of

from hiper_jax import workdir
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import setup
from hiper_jax.lm import sharding
from hiper_jax.networks.agent import load_agent, save_agent
from hiper_jax.networks.sampler import make_sampler
from hiper_jax.networks.shapes import shapes_of

CHUNKS = dataclasses.replace(SETTINGS, chunk=8)
# Momentum keeps a state beside each weight, and steps in proportion to gradients.
TXS = [optax.sgd(rate, momentum=0.9) for rate in (10.0, 0.01)]
KEY = jax.random.key_data(jax.random.key(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random agent on disk; deep enough that its layers are scanned."""
    made, actor, critic = small.agent(vocab_size=344, depth=5)
    folder = tmp_path_factory.mktemp("agent")
    (folder / "tokenizer.json").write_text(
        made.codec.tokenizer.backend_tokenizer.to_str()
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|pad|>"})
    )
    save_agent(folder, made, actor, critic)
    return folder


def started(folder, shape=None, settings=CHUNKS, **options):
    mesh = shape and sharding.make_mesh(*shape)
    agent, actor, critic = load_agent(folder, mesh=mesh, **options)
    update, state = small.program(
        agent, actor, critic, settings, *TXS, lengths=(96,), donate=True
    )
    return agent, update, state


def whole(state):
    return jax.tree.map(np.asarray, (state.actor, state.critic, state.actor_opt))


@functools.cache
def batch():
    return batch_of(small.episodes())


@pytest.fixture(scope="module")
def alone(folder):
    """Two iterations on one device: metrics of each, and the last weights."""
    _, update, state = started(folder)
    before = whole(state)
    state, first, _ = update(state, batch())
    state, second, _ = update(state, batch())
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, whole(state))
    assert moved[0]["norm"] > 1e-3 and moved[1]["trunk"]["norm"] > 1e-3
    return jax.device_get((first, second)), whole(state)


def gathers_no_logits(text, config):
    """Weights travel along fsdp; nothing as wide as the vocabulary does."""
    widths = {
        shape.split(",")[-1]
        for shape in re.findall(r"= \(?f32\[([\d,]*)\][^=]*? all-gather\(", text)
    }
    assert str(config.width) in widths
    assert str(config.vocab_size) not in widths


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1)], ids=str)
def test_every_mesh_makes_the_same_update(folder, alone, shape):
    """Losses and weights to 1e-4 of themselves, and one program for both calls."""
    agent, update, state = started(folder, shape)
    if shape == (2, 2, 2):
        update = update.lower(state, batch()).compile()
        gathers_no_logits(update.as_text(), agent.config)
    for expected in alone[0]:
        state, metrics, _ = update(state, batch())
        for name, value in metrics.items():
            np.testing.assert_allclose(
                value, expected[name], rtol=1e-4, atol=1e-6, err_msg=name
            )
    assert shape == (2, 2, 2) or update.programs() == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        whole(state),
        alone[1],
    )


def test_state_is_cut_not_repeated(folder):
    _, _, state = started(folder, (2, 2, 2))
    for tree in (state.actor, state.critic["trunk"], state.reference):
        assert tree["layers"]["gate"].addressable_shards[0].data.shape == (5, 16, 24)
    trace = state.critic_opt[0].trace["trunk"]["layers"]["gate"]
    assert trace.sharding == state.critic["trunk"]["layers"]["gate"].sharding
    assert state.step.sharding.is_fully_replicated


def test_sampling_on_a_mesh_gives_the_same_tokens(folder):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 60, size=n) for n in (7, 30, 12, 21, 18)]
    answers = []
    for shape in (None, (2, 2, 2)):
        mesh = shape and sharding.make_mesh(*shape)
        agent, actor, _ = load_agent(folder, mesh=mesh)
        shapes = shapes_of(max_prompt=32, max_response=8, episodes=4, max_turns=4)
        make_policy = make_sampler(
            agent,
            max_response=8,
            slot_buckets=shapes.slots,
            prompt_buckets=shapes.prompts,
        )
        said = [
            make_policy(actor, jax.random.key(3), temperature)(
                prompts, np.arange(5), np.zeros(5, int)
            )
            for temperature in (0.0, 1.0)
        ]
        answers.append(said)
    for one, other in zip(*answers, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.tokens, other.tokens)
        close = functools.partial(np.testing.assert_allclose, atol=1e-5)
        jax.tree.map(close, one.log_prob, other.log_prob)


def test_a_checkpoint_comes_back_to_its_places(folder, tmp_path):
    agent, _, state = started(folder, (2, 2, 2))
    state = state.replace(actor=jax.tree.map(lambda leaf: leaf + 1, state.actor))
    workdir.save(tmp_path, 1, state)
    kept = whole(state)
    fresh = started(folder, (2, 2, 2))[2]
    back, _ = workdir.restore(tmp_path, fresh)
    jax.tree.map(np.testing.assert_array_equal, whole(back), kept)
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, back, fresh)
    assert all(jax.tree.leaves(same))
    # The same file, read by one device.
    single, _ = workdir.restore(tmp_path, started(folder)[2])
    jax.tree.map(np.testing.assert_array_equal, whole(single), kept)
    save_agent(tmp_path / "model", agent, back.actor, back.critic, tokenizer=folder)
    again = load_agent(tmp_path / "model")[1:]
    jax.tree.map(np.testing.assert_array_equal, again, kept[:2])


def test_half_precision_keeps_whole_weights(folder):
    """bfloat16 is computed in, not stepped in; the reference is kept as it is read."""
    once = dataclasses.replace(CHUNKS, minibatch=24)
    agent, update, state = started(folder, None, once, dtype="bfloat16", remat="full")
    assert state.actor["embed"].dtype == "float32"
    assert state.reference["embed"].dtype == "bfloat16"
    state, metrics, _ = update(state, batch())
    assert metrics["loss/kl"] < 1e-6  # the reference reads as the actor did
    assert state.actor["embed"].dtype == "float32"
    assert np.isfinite(metrics["loss/policy"])


def test_what_does_not_fit_the_mesh_is_named(folder):
    config = configs.Train(learn=dataclasses.replace(SETTINGS, chunk=6))

    def refused(words, **mesh):
        with pytest.raises(ValueError, match=words):
            changed = dataclasses.replace(config, mesh=configs.Mesh(**mesh))
            setup.mesh_for(folder, changed)

    refused("needs 6 devices, there are 8", fsdp=3, tensor=2)
    refused("k has 2 kv_heads.* tensor = 4 does not", fsdp=2, tensor=4)
    refused("chunk is 6 turns.* --learn.chunk to 8", fsdp=8)
    refused("data must be a whole number, 1 or more, got 0", data=0)
    assert setup.mesh_for(folder, config) is None
