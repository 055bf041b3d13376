"""What a page says a token carries is what the update trained it with."""

import dataclasses

import numpy as np
import pytest
import small
from test_stack import stacked

from hiper_jax.credit import group, hiper
from hiper_jax.experiments.progress import with_credit
from hiper_jax.experiments.report.credit_tokens import HIGH, LOW, SWITCH, carriers

ALL = {"high_on_switch": True, "switch_on_kept": True, "switch_on_loose": True}
OFF = dict.fromkeys(ALL, False)


def spread(episodes, config):
    """[R] summed advantage and [R] whether there is any, turn by turn, from disk."""
    bits = iter(carriers(episodes, small.agent()[0].pieces, config))
    for episode in episodes:
        for t in range(len(episode.turns)):
            carried = next(bits)
            if "advantage" in episode.credit:
                yield episode.credit["advantage"][t] * (carried > 0), carried > 0
                continue
            parts = ((LOW, "low"), (HIGH, "high"), (SWITCH, "switch"))
            yield (
                sum(
                    episode.credit[f"advantage_{name}"][t] * ((carried & bit) > 0)
                    for bit, name in parts
                ),
                carried > 0,
            )


def broken(episodes):
    """The episodes, with a response that has lost a block among them."""
    first = episodes[0]
    text = "<switch>KEEP</switch> well <action>look</action>"
    tokens = np.array(small.codec().encode_response(text), np.int32)
    turn = dataclasses.replace(
        first.turns[2],
        response=tokens,
        log_prob=np.zeros(len(tokens), np.float32),
        text=text,
    )
    turns = (*first.turns[:2], turn, *first.turns[3:])
    return [dataclasses.replace(first, turns=turns), *episodes[1:]]


@pytest.mark.parametrize(
    ("mode", "learn"), [("corrected", OFF), ("corrected", ALL), ("paper", OFF)]
)
def test_three_advantages_stand_on_the_tokens_that_the_update_trained(mode, learn):
    episodes = broken(small.episodes())
    batch = stacked(episodes, mode=mode)
    values = np.random.default_rng(0).normal(size=(len(batch.tokens), 3))
    estimator = hiper.estimator(hiper.Settings(**learn))
    credit = estimator.assign(batch, values.astype(np.float32))
    told = with_credit(episodes, {k: np.asarray(v) for k, v in credit.turn.items()})
    config = {"reading": {"mode": mode, "format": "plan"}, "learn": learn}
    found = list(spread(told, config))
    assert len(found) == int(batch.num_turns)
    advantage, mask = np.asarray(credit.advantage), np.asarray(credit.mask)
    for n, (sums, carried) in enumerate(found):
        R = len(carried)
        np.testing.assert_array_equal(carried, mask[n, :R])
        np.testing.assert_allclose(sums * carried, advantage[n, :R] * carried, 1e-5)
    assert 0 < sum(carried.sum() for _, carried in found)


def test_one_advantage_a_turn_stands_on_all_its_tokens():
    episodes = small.episodes()
    batch = stacked(episodes)
    credit = group.estimator(group.Grpo()).assign(batch, np.zeros((48, 0)))
    told = with_credit(episodes, {k: np.asarray(v) for k, v in credit.turn.items()})
    for n, (sums, carried) in enumerate(spread(told, {})):
        assert carried.all()
        np.testing.assert_allclose(sums, np.asarray(credit.advantage)[n, : len(sums)])


def test_what_was_not_learned_from_yet_has_its_blocks():
    episodes = small.episodes()
    bits = carriers(episodes, small.agent()[0].pieces, {})
    assert all(set(row.tolist()) >= {LOW, SWITCH} for row in bits)
    assert carriers([], small.agent()[0].pieces, {}) == []
