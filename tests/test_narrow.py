"""Batches that shrink to the rows that go on, and the texts they would have had.

First a counting model without rounding, whose rows must be equal bit for bit; then a
real one with a shared trunk, as a run samples with it.
"""

import collections
import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from test_rollout import Counting
from test_waves import play

from hiper_jax import lm
from hiper_jax.act import generate as generation
from hiper_jax.act.generate import make_generate
from hiper_jax.lm import sharding
from hiper_jax.networks import sampler
from hiper_jax.networks.assemble import policy
from hiper_jax.networks.sampler import make_sampler

ROWS, ROOM, SIZES = 16, 24, (3, 8)
STOPS = tuple(range(1, 67, 6))  # a row ends after some six tokens


class Counted:
    """Writes down how many rows each decode step has."""

    def __init__(self):
        self._rows = []

    def __call__(self, step, token):
        jax.debug.callback(self._rows.append, token.shape[0] + 0 * step)

    def taken(self) -> list[int]:
        jax.effects_barrier()
        rows, self._rows[:] = [int(n) for n in self._rows], []
        return rows


def expected_rows(count, sizes) -> list[int]:
    """Of each step the fewest rows that hold what goes on."""
    live = [int((count > step).sum()) for step in range(1, int(count.max()))]
    return [min(n for n in sizes if n >= here) for here in live]


def counter(sizes, counted=lambda step, token: None):
    """A model of whole numbers: a row's state is of its own prompt and tokens alone.

    params["shift"] says how many places away a shrinking batch takes its cache from.
    """

    def read(state):
        logits = (state[:, None] * 7 + jnp.arange(67)[None] * 29) % 64 / 16.0
        return logits, jnp.stack([state, -state], axis=1).astype(jnp.float32)

    def prefill(params, tokens, lengths, room):
        del lengths, room
        places = jnp.arange(1, tokens.shape[1] + 1)
        state = (tokens * places[None]).sum(axis=1) % 509
        return read(state), (state, jnp.int32(0), params["shift"])

    def decode(params, token, cache):
        del params
        state, step, shift = cache
        counted(step, token)
        state = (state * 31 + token * 17 + step) % 509
        return read(state), (state, step + 1, shift)

    def take_rows(cache, rows):
        state, step, shift = cache
        return state[jnp.roll(rows, shift)], step, shift

    return make_generate(
        prefill,
        decode,
        max_new=ROOM,
        eos_id=STOPS,
        pad_id=3,
        narrow=sizes,
        take_rows=take_rows,
    )


@pytest.fixture(scope="module")
def asked():
    rng = np.random.default_rng(2)
    lengths = np.full(ROWS, 5, np.int32)
    lengths[3] = 0  # not in use
    tokens = rng.integers(0, 67, (ROWS, 5)).astype(np.int32)
    ids = rng.permutation(100)[:ROWS].astype(np.int32)
    return tokens, lengths, jax.random.key(4), ids


def told(generate, asked, heat, shift=0):
    *first, ids = asked
    found = generate({"shift": jnp.int32(shift)}, *first, heat, ids)
    return jax.device_get(found)


@pytest.fixture(scope="module")
def plain(asked):
    generate = counter(())
    return {heat: told(generate, asked, heat) for heat in (0.0, 1.0)}


def same(some, others):
    """Tokens, log-probs, counts, and values of what was said: bit for bit."""
    for a, b in zip(some[:3], others[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    said = (np.arange(ROOM) < some[2][:, None])[..., None]
    np.testing.assert_array_equal(some[3] * said, others[3] * said)


def test_a_batch_that_shrinks_writes_what_it_would_have(asked, plain):
    """In one program, with the fewest rows of those allowed at every step."""
    counted = Counted()
    generate = counter(SIZES, counted)
    for heat, expected in plain.items():
        same(told(generate, asked, heat), expected)
        count = expected[2]
        steps = counted.taken()
        assert steps == expected_rows(count, (*SIZES, ROWS))
        assert set(steps) == {*SIZES, ROWS} and count[3] == 0
    assert generate.programs() == 1
    # A cache's rows from the wrong place are other texts: the test would notice.
    with pytest.raises(AssertionError, match="not equal"):
        same(told(generate, asked, 1.0, shift=1), plain[1.0])


def test_rows_that_are_put_back_elsewhere_are_noticed(asked, plain, monkeypatch):
    right = generation._put
    monkeypatch.setattr(
        generation,
        "_put",
        lambda whole, state, place: right(whole, state, jnp.roll(place, 1)),
    )
    with pytest.raises(AssertionError, match="not equal"):
        same(told(counter((4,)), asked, 1.0), plain[1.0])


HEADS = ("switch", "low", "high")
SLOTS, PROMPTS = (4, 8), (200,)  # four blocks of queries: `attention.causal`


@pytest.fixture(scope="module")
def served():
    """An agent with a shared trunk that often ends, and its weights to sample with."""
    agent, actor, critic = small.agent(vocab_size=338)  # of which a mesh takes halves
    ends = tuple(range(1, 338, 12))
    codec = dataclasses.replace(agent.codec, end_ids=ends)
    agent = dataclasses.replace(agent, codec=codec, critic="shared")
    heads = {k: critic[k] for k in ("value", "value_bias")}
    state = types.SimpleNamespace(actor=actor, reference=actor, critic=heads)
    return agent, policy(agent, state, valued=True)


def made(agent, long, counted=None):
    """A run's sampler, to which responses of `long` tokens are long."""
    make = functools.partial(
        make_sampler,
        max_response=ROOM,
        slot_buckets=SLOTS,
        prompt_buckets=PROMPTS,
        heads=HEADS,
    )
    model = sampler.generation

    def watched(*of):
        prefill, decode = model(*of)

        def step(params, token, cache):
            if counted:
                counted(cache.count, token)
            return decode(params, token, cache)

        return prefill, step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "LONG", long)
        patch.setattr(sampler, "generation", watched)
        return make(agent)


@pytest.fixture(scope="module")
def both(served):
    """Samplers that shrink and do not, and what the first one's steps were."""
    counted = Counted()
    return made(served[0], ROOM, counted), made(served[0], ROOM + 1), counted


near = functools.partial(np.testing.assert_allclose, atol=1e-5)


def close(some, others):
    """Equal tokens; log-probs and values to rounding."""
    assert len(some.tokens) == len(others.tokens)
    jax.tree.map(np.testing.assert_array_equal, some.tokens, others.tokens)
    jax.tree.map(near, some.log_prob, others.log_prob)
    jax.tree.map(near, some.values, others.values)


def mesh_of(*shape):
    return sharding.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])


def long_and_short():
    rng = np.random.default_rng(0)
    return [rng.integers(5, 300, n).astype(np.int32) for n in (70, 3, 41, 1, 72, 20, 9)]


def test_a_model_that_shrinks_says_the_same_and_values_it_the_same(served, both):
    """Of long prompts and short ones, the likeliest tokens and drawn ones."""
    prompts, (shrinking, whole, counted) = long_and_short(), both
    for heat in (0.0, 1.0):
        said = [
            make(served[1], jax.random.key(3), heat)(prompts, np.arange(7), np.zeros(7))
            for make in (shrinking, whole)
        ]
        close(*said)
        count = np.array([len(ids) for ids in said[1].tokens])
        steps = counted.taken()
        assert steps == expected_rows(count, SLOTS) and len(set(count)) > 4
        assert min(collections.Counter(steps)[n] for n in SLOTS) >= 4
        assert said[0].values[0].shape == (count[0], 3)
    assert shrinking.programs() == whole.programs() == 1


def test_two_waves_of_batches_that_shrink_play_the_episodes_of_one(served, both):
    shrinking, whole, counted = both
    games = ["5", "6", "7", "8"] * 4  # four turns each, none is won

    def played(make, waves):
        sample = make(served[1], jax.random.key(5), 1.0)
        return play(Counting(16), sample, games, waves=waves)[0]

    expected = played(whole, 1)
    counted.taken()
    for waves in (1, 2):
        found = played(shrinking, waves)
        assert set(counted.taken()) == set(SLOTS)
        for a, b in zip(found, expected, strict=True):
            for x, y in zip(a.turns, b.turns, strict=True):
                np.testing.assert_array_equal(x.prompt, y.prompt)
                np.testing.assert_array_equal(x.response, y.response)
                some, others = (x.log_prob, x.values), (y.log_prob, y.values)
                jax.tree.map(near, some, others)
                assert y.values is not None


def test_on_devices_that_share_heads_a_batch_shrinks_to_the_same(served, both):
    agent = dataclasses.replace(served[0], mesh=mesh_of(1, 1, 2))
    said = [
        make(served[1], jax.random.key(3), 1.0)(
            long_and_short(), np.arange(7), np.zeros(7)
        )
        for make in (made(agent, ROOM), both[1])
    ]
    close(*said)


@pytest.mark.parametrize("apart", [False, True])
def test_a_cache_gives_the_rows_that_are_asked_for(apart):
    """Whether layers are stacked or lie apart."""
    names = ("prompt_k", "prompt_v", "k", "v")
    layers = {
        n: jnp.arange(10.0).reshape(2, 5, 1, 1, 1) + i for i, n in enumerate(names)
    }
    if apart:
        layers = {n: tuple(both) for n, both in layers.items()}
    cache = lm.Cache(**layers, lengths=jnp.arange(5), count=jnp.int32(2))
    taken = lm.take_rows(cache, jnp.array([4, 1]))
    assert taken.lengths.tolist() == [4, 1] and taken.count == 2
    for i, name in enumerate(names):
        rows = np.stack(getattr(taken, name)).ravel()
        assert rows.tolist() == [4 + i, 1 + i, 9 + i, 6 + i]


def test_only_long_responses_on_one_device_shrink_batches(served):
    assert sampler.narrower((2, 4), 28, None) == ()
    assert sampler.narrower((2, 4), 127, None) == ()
    assert sampler.narrower((2, 4), 128, None) == (2, 4)
    for shape, sizes in (((1, 1, 2), (2, 4)), ((2, 1, 1), ()), ((1, 2, 1), ())):
        assert sampler.narrower((2, 4), 512, mesh_of(*shape)) == sizes
    with pytest.raises(ValueError, match="take_rows"):
        make_generate(lambda *a: a, lambda *a: a, max_new=4, eos_id=1, narrow=(2,))


def test_short_responses_have_the_program_that_they_had(served):
    """What a quickstart samples by is the text of a batch that cannot shrink."""
    agent, weights = served
    key = jax.eval_shape(functools.partial(jax.random.key, 0))

    def text(room, long):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampler, "LONG", long)
            make = make_sampler(
                agent, max_response=room, slot_buckets=SLOTS, prompt_buckets=PROMPTS
            )
        rows = jax.ShapeDtypeStruct((8,), "int32")
        tokens, heat = (
            jax.ShapeDtypeStruct((8, 200), "int32"),
            jax.ShapeDtypeStruct((), "float32"),
        )
        lowered = make.lower(make.lay_out(weights), tokens, rows, key, heat, rows)
        return lowered.as_text()

    assert text(28, sampler.LONG) == text(28, 10**9)
    assert text(128, sampler.LONG) != text(128, 10**9)
