"""Strategies on disk, in a batch and in the credit."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import small
from test_strategy import play, written

import hiper_jax as hj
from hiper_jax.act.episode import from_json, to_json
from hiper_jax.credit.strata import StrataSettings, estimator
from hiper_jax.experiments import config as configs
from hiper_jax.experiments.report.episode_page import episode_page


def test_episodes_on_disk_keep_strategy_and_flags_and_others_have_neither():
    (episode,) = play([written("go", 3)], ["2"])
    for flagged in (None, (), (0, 1)):
        record = to_json(dataclasses.replace(episode, flagged=flagged))
        again = from_json(record)
        assert again.flagged == flagged
        assert (again.strategy.text, again.strategy.number) == ("go", 3)
        for name in ("prompt", "response", "log_prob"):
            mine, theirs = (getattr(e.strategy, name) for e in (again, episode))
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
    record = to_json(play(None)[0])
    assert not {"strategy", "flagged"} & record.keys()
    assert from_json(record).strategy is None
    good = to_json(episode)
    for bad in ({"flagged": [2]}, {"flagged": ["0"]}, {"strategy": "go"}):
        with pytest.raises((TypeError, ValueError)):
            from_json(good | bad)


def stacked(episodes, **changes):
    return hj.stack(
        episodes,
        small.agent()[0].pieces,
        **{
            "max_turns": 4,
            "max_response": 60,
            "row_buckets": (24,),
            "length_buckets": (300,),
        }
        | changes,
    )


def test_rows_that_wrote_strategies_follow_the_turns_and_are_trained():
    plans = [written("go to desk 1", 7), written("look", 9)]
    games, who = ["2", "9", "3", "2"], [plans[1], plans[0], plans[1], plans[0]]
    episodes = play(who, games)
    episodes[2] = dataclasses.replace(episodes[2], flagged=(0, 2))
    batch, plain = stacked(episodes, num_episodes=5), stacked(play(None, games))
    mixed = play([written("look", 3), written("go to desk 1", 3)], games[:2])
    np.testing.assert_array_equal(stacked(mixed).strategy, [0, 1])  # other iterations
    assert plain.strategy is None and plain.flagged is None
    turns = int(plain.num_turns)
    assert batch.num_turns == turns + 2 and batch.num_rows == turns + 3
    np.testing.assert_array_equal(batch.strategy, [0, 1, 0, 1, -1])
    np.testing.assert_array_equal(batch.strategy_row[:2], [turns, turns + 1])
    assert (batch.strategy_row[2:] == -1).all()
    assert batch.flagged.sum() == 2 and batch.flagged[2, [0, 2]].all()
    for row, plan in zip(batch.strategy_row, plans[::-1], strict=False):
        said = batch.response[row, batch.response_mask[row]]
        np.testing.assert_array_equal(said, plan.response)
        np.testing.assert_array_equal(
            batch.tokens[row, : batch.start[row]], plan.prompt
        )
        assert batch.is_turn[row] and (batch.old_log_prob[row, : len(said)] < 0).all()
    assert batch.next_row[1] == turns + 2 and not batch.is_turn[turns + 2]


def test_their_tokens_carry_the_strategys_credit_and_a_flag_its_steps():
    """Returns 2, 0 under one strategy and 3, 4 under the other: best halves 2, 4."""
    plans = [written("go to desk 1", 0), written("look", 1)]
    games = ["2", "9", "3", "4"]
    episodes = play([plans[0], plans[0], plans[1], plans[1]], games)
    for b, value in enumerate((2.0, 0.0, 3.0, 4.0)):
        turns = [dataclasses.replace(t, reward=0.0) for t in episodes[b].turns]
        turns[-1] = dataclasses.replace(turns[-1], reward=value)
        episodes[b] = dataclasses.replace(episodes[b], game="one", turns=tuple(turns))
    episodes[0] = dataclasses.replace(episodes[0], flagged=(1,))
    batch = jax.tree.map(np.asarray, stacked(episodes, num_episodes=6))
    assign = jax.jit(estimator(StrataSettings()).assign)
    credit = assign(batch, np.zeros((24, 0)))
    z = 1 / (2**0.5 + 1e-6)
    for row, value in zip(batch.strategy_row, (-z, z), strict=False):
        mask = batch.response_mask[row]
        np.testing.assert_allclose(credit.advantage[row][mask], value, rtol=1e-5)
        assert (credit.mask[row] == mask).all()
    trained = np.asarray(credit.mask).any(axis=1)
    np.testing.assert_array_equal(trained, batch.is_turn)
    step = np.asarray(credit.turn["advantage"])
    assert step[0, 0] > step[0, 1] > 0 > step[1, 0]
    assert not step[4:].any()


def test_a_page_shows_the_strategy_as_text_and_marks_what_was_flagged():
    (episode,) = play([written("look <b>here</b>")], ["3"])
    unread = episode_page(episode, title="Lost")
    assert "look &lt;b&gt;here&lt;/b&gt;" in unread and "could not be read" in unread
    judged = episode_page(dataclasses.replace(episode, flagged=(0, 2)), title="Lost")
    assert judged.count("judged useless") == 2 and "could not be read" not in judged
    (bare,) = play(None, ["3"])
    assert "strategy" not in episode_page(bare, title="Lost")


def test_the_update_makes_the_better_strategy_likelier_than_the_other():
    """Whichever it is. Steps are worth the same under each: nothing else is learned."""
    agent, actor, _ = small.agent()
    agent = dataclasses.replace(agent, critic="none")
    kind = configs.learning("strata")
    settings = kind(kl_coef=0.0, entropy_coef=0.0, minibatch=24, chunk=8)
    rule = estimator(settings)
    update, state = small.program(
        agent, actor, None, settings, optax.sgd(6.0), estimator=rule, lengths=(300,)
    )
    score = jax.jit(hj.make_model(agent, ()).score)
    plans = [written("go to desk 1", 0), written("look", 1)]
    who = [plans[0], plans[0], plans[1], plans[1]]
    gains = []
    for games in (["2", "2", "9", "9"], ["9", "9", "2", "2"]):  # 9 is never reached
        episodes = [dataclasses.replace(e, game="one") for e in play(who, games)]
        batch = stacked(episodes)
        after, metrics, _ = update(state, batch)
        assert metrics["strategy/reward"] == 0.5
        rows = batch.strategy_row[:2]
        said = batch.response_mask[rows]
        ids = np.where(said, batch.response[rows], -1)
        likely = []
        for params in (actor, after.actor):
            read = batch.tokens[rows], batch.start[rows], ids, 1.0
            likely.append(np.where(said, score(params, *read)[0], 0).sum(axis=1))
        first, second = likely[1] - likely[0]
        gains.append(first - second)
    assert gains[0] > 0.01 and gains[1] < -0.01, gains
