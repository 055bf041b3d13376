"""Episodes become arrays: nothing lost, nothing invented, token ids untouched."""

import dataclasses

import numpy as np
import pytest
import small

from hiper_jax.act.stack import stack


def stacked(episodes, **changes):
    arguments = dict(
        max_turns=6, max_response=40, row_buckets=(24, 48), length_buckets=(96, 128)
    )
    return stack(episodes, small.agent()[0].pieces, **(arguments | changes))


def test_rows_hold_the_ids_that_were_sampled():
    episodes = small.episodes()
    batch = stacked(episodes)
    for b, episode in enumerate(episodes):
        for t, turn in enumerate(episode.turns):
            n = batch.row[b, t]
            start, length = batch.start[n], batch.length[n]
            np.testing.assert_array_equal(batch.tokens[n, :start], turn.prompt)
            np.testing.assert_array_equal(batch.tokens[n, start:length], turn.response)
            K = len(turn.response)
            np.testing.assert_array_equal(batch.response[n, :K], turn.response)
            assert batch.response_mask[n].sum() == K
            np.testing.assert_array_equal(batch.old_log_prob[n, :K], turn.log_prob)


def test_every_turn_has_one_row_and_segments_number_the_subgoals():
    episodes = small.episodes()
    batch = stacked(episodes)
    rows = batch.row[batch.valid]
    assert sorted(rows) == list(range(int(batch.num_turns)))
    assert batch.is_turn.sum() == batch.num_turns == 15
    for b, episode in enumerate(episodes):
        expected = np.cumsum([t.switch for t in episode.turns]) - 1
        K = len(episode.turns)
        np.testing.assert_array_equal(batch.segment[b, :K], expected)
        assert (batch.segment[b, K:] == -1).all()


def test_only_what_was_cut_short_has_a_row_for_the_state_after():
    batch = stacked(small.episodes())
    np.testing.assert_array_equal(batch.next_row >= 0, [False, True, False, True])
    for n in batch.next_row[batch.next_row >= 0]:
        assert not batch.is_turn[n]
        assert batch.length[n] == batch.start[n] > 0
        assert not batch.action_mask[n].any()
    assert batch.num_rows == 17


def test_termination_stands_at_the_last_turn_of_what_ended():
    batch = stacked(small.episodes())
    np.testing.assert_array_equal(batch.terminated.sum(axis=1), [1, 0, 1, 0])
    assert batch.terminated[0, 4] and batch.terminated[2, 5]


def test_the_blocks_cover_the_response():
    batch = stacked(small.episodes())
    n = int(batch.row[0, 0])
    codec = small.codec()
    text = {
        name: codec.decode(batch.response[n][getattr(batch, f"{name}_mask")[n]])
        for name in ("switch", "subgoal", "action")
    }
    assert text["switch"] == "<switch>SWITCH</switch>"
    assert text["subgoal"].startswith("<subgoal>find book")
    assert text["action"].endswith("</action>")
    assert batch.action_mask[n][batch.response_mask[n].sum() - 1]  # end of message
    before_action = codec.decode(batch.response[n][: batch.value_low_at[n]])
    assert before_action.endswith("</subgoal>")


@pytest.mark.parametrize(
    ("text", "loose"),
    [
        (small.RESPONSE.format("KEEP", "find book: bed 1", "go to bed 1"), ""),
        (
            "<switch>go to bed 1</subgoal><action>go to bed 1</action>",
            "<switch>go to bed 1</subgoal>",
        ),
        (
            "<switch>KEEP</switch><subgoal>find book<action>go to bed 1</action>",
            "<subgoal>find book",
        ),
        ("go to bed 1", "go to bed 1"),
    ],
)
def test_what_breaks_the_form_carries_the_actions_credit(text, loose):
    """Else nothing would discourage it; the published code trains it on nothing."""
    codec = small.codec()
    episode = small.episodes()[0]
    response = np.array(codec.encode_response(text), np.int32)
    turn = small.shifted(
        episode.turns[0], response=response, log_prob=np.zeros(len(response))
    )
    episode = dataclasses.replace(episode, turns=(turn, *episode.turns[1:]))
    fixed, paper = (stacked([episode], mode=m) for m in ("corrected", "paper"))
    n = int(fixed.row[0, 0])
    mask = fixed.action_mask[n].copy()
    assert mask[len(response) - 1]  # the end of message
    owned = mask | fixed.subgoal_mask[n] | fixed.switch_mask[n]
    np.testing.assert_array_equal(owned, fixed.response_mask[n])
    block = text[text.find("<action>") :] if "<action>" in text else ""
    assert codec.decode(fixed.response[n][mask]) == loose + block
    published = paper.action_mask[n] | paper.subgoal_mask[n] | paper.switch_mask[n]
    assert "<switch>go" not in codec.decode(paper.response[n][published])


def test_equal_subgoals_have_equal_numbers():
    episodes = small.episodes()
    batch = stacked(episodes)
    for b, episode in enumerate(episodes):
        for t in range(1, len(episode.turns)):
            same = episode.turns[t].subgoal == episode.turns[t - 1].subgoal
            assert same == (batch.subgoal_id[b, t] == batch.subgoal_id[b, t - 1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_turns": 4}, "max_turns=4"),
        ({"max_response": 3}, "max_response is 3"),
        ({"row_buckets": (8,)}, "largest bucket"),
        ({"length_buckets": (16,)}, "largest bucket"),
    ],
)
def test_what_does_not_fit_is_said(changes, words):
    with pytest.raises(ValueError, match=words):
        stacked(small.episodes(), **changes)


def test_nothing_to_stack_is_said():
    with pytest.raises(ValueError, match="no episodes"):
        stacked([])
    empty = dataclasses.replace(small.episodes()[0], turns=())
    with pytest.raises(ValueError, match="0 turns"):
        stacked([empty])
