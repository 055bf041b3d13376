"""Batches that shrink to the rows that go on, and the texts they would have had."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from test_generate import CONFIG, _decode, _prefill

from hiper_jax import lm
from hiper_jax.act.generate import make_generate
from hiper_jax.networks import sampler
from hiper_jax.networks.sampler import make_sampler

ROWS, ROOM = 16, 24
STOPS = tuple(range(0, 67, 12))  # a row ends after some eleven tokens


@pytest.fixture(scope="module")
def weights():
    made = jax.jit(lm.init, static_argnums=0)(CONFIG, jax.random.key(0))
    return made | {"embed": made["embed"] * 20}  # far from uniform


@pytest.fixture(scope="module")
def asked():
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 9, ROWS).astype(np.int32)
    lengths[3] = 0  # not in use
    tokens = rng.integers(0, CONFIG.vocab_size, (ROWS, 8)).astype(np.int32)
    ids = rng.permutation(100)[:ROWS].astype(np.int32)
    return tokens, lengths, jax.random.key(4), 1.0, ids


def narrowing(sizes, decode=_decode, prefill=_prefill):
    return make_generate(
        prefill,
        decode,
        max_new=ROOM,
        eos_id=STOPS,
        pad_id=3,
        narrow=sizes,
        take_rows=lm.take_rows,
    )


@pytest.mark.parametrize("apart", [False, True])
def test_a_batch_that_shrinks_writes_the_same_texts(weights, asked, apart):
    """Also where layers lie apart, as they do when a model is served."""
    weights = lm.unstack_layers(weights) if apart else weights
    new, log_prob, count = narrowing(())(weights, *asked)
    assert len(set(count.tolist())) > 4 and count[3] == 0
    generate = narrowing((4, 8, 16))
    for got, expected in zip(
        generate(weights, *asked), (new, log_prob, count), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert generate.programs() == 1


def test_rows_that_have_ended_are_computed_no_longer(weights, asked):
    """A batch has the fewest rows of those allowed that hold what goes on."""
    steps = []

    def decode(params, token, cache):
        jax.debug.callback(steps.append, token.shape[0] + 0 * cache.count)
        return _decode(params, token, cache)

    _, _, count = narrowing((4, 8), decode)(weights, *asked)
    jax.effects_barrier()
    live = [int((count > step + 1).sum()) for step in range(int(count.max()) - 1)]
    assert [int(n) for n in steps] == [
        4 if n <= 4 else 8 if n <= 8 else 16 for n in live
    ]
    assert len(set(map(int, steps))) == 3


def test_values_go_with_their_rows(weights, asked):
    def said(read):
        logits, cache = read
        return (logits, logits[:, :2] * 3.0), cache

    def prefill(*args):
        return said(_prefill(*args))

    def decode(*args):
        return said(_decode(*args))

    plain = narrowing((), decode, prefill)(weights, *asked)
    shrunk = narrowing((4, 8), decode, prefill)(weights, *asked)
    live = np.arange(ROOM) < np.asarray(plain[2])[:, None]
    gap = np.where(live[..., None], np.asarray(plain[3]) - np.asarray(shrunk[3]), 0.0)
    assert np.abs(gap).max() < 1e-4 and np.asarray(plain[3]).shape == (ROWS, ROOM, 2)


def test_a_cache_gives_the_rows_that_are_asked_for():
    names = ("prompt_k", "prompt_v", "k", "v")
    layers = {
        n: jnp.arange(5.0).reshape(1, 5, 1, 1, 1) + i for i, n in enumerate(names)
    }
    cache = lm.Cache(**layers, lengths=jnp.arange(5), count=jnp.int32(2))
    taken = lm.take_rows(cache, jnp.array([4, 1]))
    assert taken.lengths.tolist() == [4, 1] and taken.count == 2
    for i, name in enumerate(names):
        assert getattr(taken, name).ravel().tolist() == [4 + i, 1 + i]


def test_only_long_responses_shrink_batches(monkeypatch):
    """And none without what takes rows of a cache."""
    with pytest.raises(ValueError, match="take_rows"):
        make_generate(_prefill, _decode, max_new=4, eos_id=1, narrow=(2,))
    asked, agent = [], small.agent()[0]
    make = functools.partial(make_sampler, slot_buckets=(2, 4), prompt_buckets=(8,))
    monkeypatch.setattr(
        sampler,
        "make_generate",
        lambda *a, **k: asked.append(k) or make_generate(*a, **k),
    )
    for room in (28, 512):
        make(agent, max_response=room)
    assert [k["narrow"] for k in asked] == [(), (2, 4)]
