"""Rows laid end to end: each lies in one bin, sees itself alone, and learns as ever."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import test_fetch
from test_fetch import differences
from test_update import SETTINGS, batch_of

from hiper_jax.credit import group, hiper
from hiper_jax.experiments.config import Learn
from hiper_jax.networks.model import Model
from hiper_jax.networks.passes import make_model
from hiper_jax.update import bins, chunks
from hiper_jax.update.state import Optimizers
from hiper_jax.update.step import make_update

# Three bins at once, of up to three rows: several chunks of a minibatch.
PACKED = dataclasses.replace(SETTINGS, chunk=2, minibatch=16, pack=3)


def first_fit(sizes, rooms, most):
    """The slow twin: a list of rows for each bin, or None where a row has no room."""
    found = [[] for _ in rooms]
    for row in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        for own, room in zip(found, rooms, strict=True):
            taken = sum(sizes[i] for i in own)
            if len(own) < most and taken + sizes[row] <= room:
                own.append(row)
                break
        else:
            return None
    return found


def twin(sizes, lengths, most, each, room):
    """`room` rows' bins, those of the last chunk as short as they may be."""
    count = -(-room // each) * each
    plain = first_fit(sizes, [lengths[-1]] * count, most)
    used = sum(map(bool, plain))
    full = used // each * each
    for short in lengths[:-1]:
        rooms = [lengths[-1]] * full + [short] * each + [0] * count
        if (found := first_fit(sizes, rooms[:count], most)) is not None:
            return found
    return plain


@pytest.mark.parametrize("seed", range(8))
def test_every_row_lies_in_one_bin_as_the_slow_twin_lays_it(seed):
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 97, 40).astype(np.int32)
    rows = rng.permutation(40)[:21].astype(np.int32)
    used = rng.random(21) < (0.3, 0.9)[seed % 2]
    most, each = int(rng.integers(2, 6)), int(rng.integers(1, 5))
    lengths = bins.rooms(96)
    laid, count = bins.pack(length, rows, used, lengths, most, each)
    wanted = twin([int(n) for n in length[rows[used]]], lengths, most, each, 21)
    found = [
        [int(row) for row, here in zip(*pair, strict=True) if here]
        for pair in zip(laid.rows, laid.used, strict=True)
    ]
    assert found == [[int(rows[used][i]) for i in own] for own in wanted]
    assert int(count) == -(-sum(map(bool, wanted)) // each)
    for own, shift, filled in zip(found, laid.shift, laid.filled, strict=True):
        ends = np.cumsum([0, *length[own]])
        np.testing.assert_array_equal(shift[: len(own)], ends[:-1])
        assert filled == ends[-1] <= 96


def test_the_last_chunk_is_short_where_that_is_room_enough():
    def longest(sizes):
        size = np.array(sizes, np.int32)
        rows = np.arange(len(size), dtype=np.int32)
        laid, _ = bins.pack(size, rows, size > 0, (48, 96), 4, 2)
        return [int(max(f)) for f in np.reshape(laid.filled, (-1, 2))]

    assert longest([90, 90, 90, 30, 30, 30, 0, 0])[1] == 90  # a long row is left
    assert longest([90, 90, 40, 30, 30, 0, 0, 0])[1] == 70  # one of 30 is left
    assert longest([90, 90, 40, 30, 10, 0, 0, 0])[1] == 40  # two bins of 48 hold them
    assert longest([0] * 4) == [0, 0]


def test_what_is_fed_is_the_rows_end_to_end():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 99, (6, 12)).astype(np.int32)
    length = np.array([5, 3, 7, 4, 2, 6], np.int32)
    rows = np.arange(6, dtype=np.int32)
    laid, count = bins.pack(length, rows, length > 2, (8, 16), 3, 1)
    for i in range(int(count)):
        fed = bins.feed(tokens, bins.bins_of_chunk(laid, i, 1), 16)
        own = [int(r) for r, here in zip(fed.rows, fed.used, strict=True) if here]
        texts = [tokens[r, : length[r]] for r in own]
        ids = np.concatenate([np.full(len(r), k) for k, r in enumerate(texts)])
        filled = len(ids)
        np.testing.assert_array_equal(fed.tokens[0, :filled], np.concatenate(texts))
        np.testing.assert_array_equal(fed.segment[0, :filled], ids)
        assert not fed.tokens[0, filled:].any() and (fed.segment[0, filled:] == 3).all()
        starts = fed.start(length - 1)
        for k, row in enumerate(own):
            assert fed.tokens[0, starts[k]] == tokens[row, length[row] - 1]
    said = fed.said(np.ones((6, 2), np.int32))
    np.testing.assert_array_equal(said[:, 0], np.where(fed.used, 1, -1))


# Credit of the whole batch: in groups of one nothing is learned from siblings.
NO_CRITIC = {"critic": "none", "estimator": group.estimator(group.ReinforcePP())}
# Devices, what is trained, and how often weights are fetched where rows are packed.
CASES = {
    "a critic of its own": ((1, 1, 1), {}, "chunk"),
    "no critic": ((1, 1, 1), NO_CRITIC, "chunk"),
    "a shared critic, on four devices": ((2, 2, 1), {"critic": "shared"}, "chunk"),
    "adapters, fetched once": ((2, 1, 2), {"rank": 2}, "step"),
}


def packed(case):
    """What `step_of` gives of rows in bins, as many at once as devices share."""
    shape, options, fetch = CASES[case]
    settings = dataclasses.replace(PACKED, chunk=max(2, shape[0] * shape[1]))
    return test_fetch.step_of(shape, fetch, settings=settings, **options)


@functools.cache
def alone(case):
    """The same of rows alone, in the chunks that they have always had."""
    shape, options, _ = CASES[case]
    settings = dataclasses.replace(SETTINGS, chunk=8, minibatch=16)
    return test_fetch.step_of(shape, "chunk", settings=settings, **options)


@pytest.mark.parametrize("case", CASES)
def test_packed_rows_learn_what_rows_alone_do(case):
    found = differences(alone(case), packed(case))
    assert not {name: size for name, size in found.items() if size > 5e-6}


@pytest.mark.parametrize("fault", ["they see each other", "they begin elsewhere"])
def test_rows_that_are_not_alone_are_noticed(monkeypatch, fault):
    feed = bins.feed

    def wrong(*args):
        fed = feed(*args)
        if fault == "they see each other":
            return fed._replace(segment=jnp.zeros_like(fed.segment))
        return fed._replace(shift=jnp.zeros_like(fed.shift))

    monkeypatch.setattr(chunks, "feed", wrong)
    found = differences(alone("no critic"), packed("no critic"))
    assert max(found.values()) > 1e-3


def test_two_lengths_are_compiled():
    seen = set()
    agent, actor, critic = small.agent()

    def watched(fn):
        @functools.wraps(fn)
        def apply(params, tokens, *rest, **options):
            seen.add((fn.__qualname__.split(".")[0], tokens.shape))
            return fn(params, tokens, *rest, **options)

        return apply

    model = make_model(agent, ("high", "low", "switch"))
    model = model._replace(
        score=watched(model.score), values_at=watched(model.values_at)
    )
    txs = Optimizers(test_fetch.TX, test_fetch.TX)
    init, update = make_update(model, hiper.estimator(PACKED), txs, PACKED, (64, 96))
    state = init(actor, critic, jax.random.key_data(jax.random.key(0)))
    jax.eval_shape(update, state, batch_of(small.episodes()))
    assert {shape for _, shape in seen} == {(2, 48), (2, 96)}
    assert {name for name, _ in seen} == {"score", "values_at"}


def test_a_model_that_reads_no_packed_rows_is_refused():
    def score(actor, tokens, start, targets, temperature):
        raise AssertionError

    estimator = group.estimator(group.Grpo())
    with pytest.raises(ValueError, match="`score` takes no `segment`"):
        make_update(
            Model(score), estimator, Optimizers(test_fetch.TX), Learn(pack=4), (96,)
        )
