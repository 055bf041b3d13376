"""Rows of several hosts make the batch that one host makes."""

import dataclasses

import numpy as np
import pytest
import small

from hiper_jax.act.episode import Strategy
from hiper_jax.act.stack import rows_needed, stack, written
from hiper_jax.act.together import framed, packed, unframed, unpacked


def stacked(agent, episodes, rows, number):
    return stack(
        episodes,
        agent.pieces,
        max_turns=6,
        max_response=40,
        row_buckets=(rows,),
        length_buckets=(96,),
        num_episodes=number,
        pad_id=agent.codec.pad_id,
    )


def followed(episodes):
    """Episodes 2 k and 2 k + 1 follow strategy k; the last follows none."""
    out = []
    for i, one in enumerate(episodes):
        turn = one.turns[0]
        strategy = Strategy(
            "search",
            turn.prompt[:9],
            turn.response[: 5 + i // 2],
            turn.log_prob[: 5 + i // 2],
            i,
            0,
        )
        strategy = out[i - 1].strategy if i % 2 else strategy
        out.append(dataclasses.replace(one, strategy=strategy, flagged=(0,) * (i % 3)))
    return [*out[:-1], episodes[-1]]


def same(batch, expected):
    for name, value in vars(expected).items():
        found = getattr(batch, name)
        if value is None:
            assert found is None, name
            continue
        assert np.asarray(found).dtype == np.asarray(value).dtype, name
        np.testing.assert_array_equal(found, value, err_msg=name)


@pytest.mark.parametrize("sizes", [(8,), (4, 4), (1, 2, 5), (2, 2, 3, 1)])
def test_strategies_are_those_that_one_host_stacks(sizes):
    """Uneven parts, and a strategy that stands in two of them, its rows once."""
    agent, _, _ = small.agent()
    whole = followed(small.episodes(0) + small.episodes(1))
    assert len(written(whole)) == 4
    parts, begin = [], 0
    for size in sizes:
        part, begin = whole[begin : begin + size], begin + size
        exact = stacked(agent, part, rows_needed(part), 0)
        assert exact.num_rows == len(exact.tokens) == rows_needed(part)
        parts.append(packed(exact, part, agent.pieces))
    batch, counts = unpacked(
        unframed(framed(parts)), rows=64, trajectories=9, pad_id=agent.codec.pad_id
    )
    assert tuple(counts) == sizes
    same(batch, stacked(agent, whole, 64, 9))
    assert (batch.strategy_row >= 0).sum() == 4 and batch.flagged.any()


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_batch_of_several_hosts_is_that_of_one(hosts, lost):
    """Every field, bit for bit, with tasks that hosts share and episodes dropped."""
    agent, _, _ = small.agent()
    whole = small.episodes(0) + small.episodes(1)
    whole[6] = dataclasses.replace(whole[6], game=whole[0].game)
    whole[3] = whole[7]  # equal turns on two hosts
    size = len(whole) // hosts
    groups = [whole[h * size : (h + 1) * size] for h in range(hosts)]
    if lost:
        groups[0] = groups[0][lost:]
    left = [episode for group in groups for episode in group]
    expected = stacked(agent, left, 64, len(whole))
    parts = [
        packed(stacked(agent, group, 64, size), group, agent.pieces)
        for group in groups
        if group
    ]
    batch, counts = unpacked(
        parts, rows=64, trajectories=len(whole), pad_id=agent.codec.pad_id
    )
    assert sum(counts) == len(left)
    for name, value in vars(expected).items():
        found = getattr(batch, name)
        if value is None:
            assert found is None
            continue
        assert np.asarray(found).dtype == np.asarray(value).dtype, name
        np.testing.assert_array_equal(found, value, err_msg=name)
    assert len(set(expected.group.tolist())) < len(whole)


def test_a_field_that_nobody_brings_together_is_refused():
    agent, _, _ = small.agent()
    episodes = small.episodes(0)
    batch = stacked(agent, episodes, 64, 4)
    batch = batch.replace(entropy=batch.old_log_prob)
    with pytest.raises(ValueError, match="entropy of a Batch is not brought together"):
        packed(batch, episodes, agent.pieces)
