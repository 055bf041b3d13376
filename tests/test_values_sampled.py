"""Values read while sampling are those of a pass, and take its place."""

import dataclasses
import json
import types
from typing import Any

import jax
import numpy as np
import optax
import pytest
import small
import tiny_runs
from test_shared import shared_agent
from test_together import stacked
from test_update import SETTINGS, batch_of

from hiper_jax.act.episode import from_json, to_json
from hiper_jax.act.rollout import Sampled
from hiper_jax.act.together import packed, unpacked
from hiper_jax.credit import gae_token, hiper
from hiper_jax.experiments import meeting, setup
from hiper_jax.experiments.train import train
from hiper_jax.lm import qwen_lora as lora
from hiper_jax.networks import passes
from hiper_jax.networks.assemble import policy
from hiper_jax.networks.sampler import make_sampler
from hiper_jax.update.readings import values_of_rows
from hiper_jax.update.step import rows_of

HEADS = ("switch", "low", "high")  # in another order than the critic's


@pytest.mark.parametrize("rank", [0, 2])
def test_values_read_while_sampling_are_those_of_a_pass(rank):
    """Of adapters on a frozen base, too, and of every token of every response."""
    agent, actor, critic = shared_agent()
    state = types.SimpleNamespace(actor=actor, reference=actor, critic=critic)
    if rank:
        agent = dataclasses.replace(agent, rank=rank)
        adapter = lora.init(agent.config, jax.random.key(5), rank)
        state.actor = jax.tree.map(lambda x: x + 0.05, adapter)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 60, n).astype(np.int32) for n in (3, 16, 9, 1, 12)]
    make = make_sampler(
        agent, max_response=6, slot_buckets=(4,), prompt_buckets=(16,), heads=HEADS
    )
    sample = make(policy(agent, state, valued=True), jax.random.key(3), 1.0)
    said = sample(prompts, np.arange(5), np.zeros(5, int))
    assert said.values is not None and {v.shape[1] for v in said.values} == {3}
    tokens = np.zeros((5, 24), np.int32)
    for row, prompt, response in zip(tokens, prompts, said.tokens, strict=True):
        row[: len(prompt) + len(response)] = [*prompt, *response]
    start = np.array([len(prompt) for prompt in prompts], np.int32)
    _, whole = passes.assemble(agent)(state.reference, state.actor, critic)
    read = passes.values(agent, HEADS)(whole, tokens, start, 6)
    for values, expected in zip(said.values, read, strict=True):
        np.testing.assert_allclose(values, expected[: len(values)], atol=1e-5)
    assert np.abs(read).max() > 0.1
    plain = make_sampler(agent, max_response=6, slot_buckets=(4,), prompt_buckets=(16,))
    alone = plain(policy(agent, state), jax.random.key(3), 1.0)
    others = alone(prompts, np.arange(5), np.zeros(5, int))
    assert others.values is None
    jax.tree.map(np.testing.assert_array_equal, others.tokens, said.tokens)


def valued(episodes, read):
    """The episodes as a sampler leaves them that valued its tokens."""
    rows = iter(np.asarray(read))
    return [
        dataclasses.replace(
            episode,
            turns=tuple(
                small.shifted(turn, values=next(rows)[: len(turn.response)])
                for turn in episode.turns
            ),
        )
        for episode in episodes
    ]


@pytest.fixture(scope="module")
def played():
    """Episodes of 15 turns, two of them cut short; the agent; its values of all."""
    agent, actor, critic = shared_agent()
    episodes = small.episodes()
    batch = batch_of(episodes)
    whole = critic | {"trunk": actor}
    heads = hiper.estimator(SETTINGS).heads
    read = passes.values(agent, heads)(whole, batch.tokens, batch.start, 40)
    return episodes, (agent, actor, critic), read


def test_the_update_is_that_of_a_pass(played):
    """Rows that nobody valued are read: after the last action, and of another hand."""
    episodes, made, read = played
    settings = dataclasses.replace(SETTINGS, bootstrap="same_state")
    txs = optax.sgd(0.1), optax.sgd(0.1)
    update, state = small.program(*made, settings, *txs)
    known = batch_of(valued(episodes, read))
    assert known.is_valued.sum() == 15 and int(known.num_rows) == 17
    known.is_valued[4], known.sampled_value[4] = False, np.nan
    expected = update(state, batch_of(episodes))
    found = update(state, known)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found,
        expected,
    )
    assert np.abs(found[2]["value_next_high"]).max() > 0
    off = known.replace(sampled_value=known.sampled_value + 0.1)
    told = update(state, off)[2]
    gap = told["value_low"] - expected[2]["value_low"]
    row, there = known.row, known.valid & (known.row != 4)
    np.testing.assert_allclose(gap[there], 0.1, atol=1e-5)
    np.testing.assert_allclose(gap[known.valid & (row == 4)], 0.0, atol=1e-5)


def test_values_before_every_token_are_taken_where_there_are_tokens(played):
    episodes, (agent, actor, critic), read = played
    settings = gae_token.VettaSettings()
    heads = gae_token.estimator(settings).heads
    order = [hiper.HEADS.index(name) for name in heads]
    model = passes.make_model(agent, heads)
    whole = critic | {"trunk": actor}

    def read_by(batch):
        batch, rows = rows_of(batch, (64, 96), 4)
        return values_of_rows(model, whole, batch, rows, None, len(heads))

    known = batch_of(valued(episodes, read[..., order]))
    found = np.asarray(jax.jit(read_by)(known))
    expected = np.asarray(jax.jit(read_by)(batch_of(episodes)))
    there = known.response_mask
    np.testing.assert_allclose(found[there], expected[there], atol=1e-5)
    after = slice(int(known.num_turns), int(known.num_rows))
    np.testing.assert_allclose(found[after], expected[after], atol=1e-5)
    assert (found[~there & known.is_valued[:, None]] == 0).all()


def test_values_travel_between_hosts_and_not_to_disk(played):
    episodes, (agent, _, _), read = played
    with_values = valued(episodes, read)
    whole = stacked(agent, with_values, 64, 4)
    parts = [
        packed(stacked(agent, part, 64, 2), part, agent.pieces)
        for part in (with_values[:2], with_values[2:])
    ]
    batch, _ = unpacked(parts, rows=64, trajectories=4, pad_id=agent.codec.pad_id)
    for name in ("sampled_value", "is_valued"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(whole, name))
    for one, other in zip(with_values, episodes, strict=True):
        record = to_json(one)
        assert record == to_json(other)
        assert from_json(json.loads(json.dumps(record))).turns[0].values is None


def test_hosts_that_sample_together_get_their_own_values():
    asked = [[[[1]] * 2, [0, 1], [0, 0]], [[[1]], [2], [0]]]
    ended = [[[], [], []]] * 2
    said = iter([asked, ended])
    hosts = types.SimpleNamespace(
        count=2,
        index=1,
        gather=lambda what, mine: [json.dumps(x).encode() for x in next(said)],
    )
    mesh = types.SimpleNamespace(serving="all")
    config = types.SimpleNamespace(mesh=mesh)
    run: Any = types.SimpleNamespace(hosts=hosts, config=config)

    def sample(prompts, index, turn):
        one = [np.full(2, i) for i in index]
        return Sampled(one, one, [np.full((2, 3), i) for i in index])

    with meeting.turn_by_turn(run, sample) as ask:
        answer = ask([np.ones(1, np.int32)], np.array([2]), np.array([0]))
    assert answer.values is not None and len(answer.values) == 1
    assert (answer.values[0] == 2).all() and (answer.tokens[0] == 2).all()


def test_values_are_read_so_where_sampler_and_trainer_are_one_network(tmp_path):
    base = tiny_runs.of_any_estimator(tmp_path)
    shared = dataclasses.replace(base, critic="shared")
    assert setup.sampled_heads(shared) == hiper.HEADS
    assert setup.sampled_heads(dataclasses.replace(shared, lora_rank=2)) == hiper.HEADS
    for other in (
        base,
        dataclasses.replace(shared, dtype="bfloat16"),
        dataclasses.replace(shared, offline="elsewhere", redraw=0),
    ):
        assert setup.sampled_heads(other) == ()


def test_a_run_with_a_shared_trunk_resumes_bit_for_bit(tmp_path):
    base = tiny_runs.of_any_estimator(tmp_path)
    base = dataclasses.replace(base, critic="shared", trunk_gradient=0.5)

    def go(name, **changes):
        out = str(tmp_path / name)
        train(dataclasses.replace(base, out=out, **changes), "test")
        return tmp_path / name

    whole = go("whole")
    go("cut", stop_after=1)
    cut = go("cut", resume=True)
    names = "metrics.jsonl", "episodes/000002.jsonl.gz"
    for name in names:
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    tiny_runs.check_run(whole)
