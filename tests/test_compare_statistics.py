"""Numbers of a comparison, by hand: bands, paired intervals, the way to a level."""

import numpy as np
import pytest

from hiper_jax.experiments.compare import standings
from hiper_jax.experiments.compare.outcomes import Outcome, ends
from hiper_jax.experiments.compare.statistics import (
    band,
    interval,
    moving_mean,
    reached,
)


def outcome(label="hae", seed=0, after=None, **changes):
    """A finished run of four iterations, 8 episodes each, a minute each."""
    made = {
        "label": label,
        "seed": seed,
        "played": [8.0, 16.0, 24.0, 32.0],
        "success": [0.3, 0.6, 0.6, 0.9],
        "seconds": [60.0] * 4,
        "switches": [0.5, 0.5, 0.2, 0.02],
        "turns": [20.0, 20.0, 20.0, 14.0],
        "before": {"valid": {"a": False, "b": True}},
        "after": after or {"valid": {"a": True, "b": True}},
    }
    return Outcome(**made | changes)


def test_a_moving_mean_looks_back_and_says_nothing_before_it_can():
    means = moving_mean([0.0, 3.0, 6.0, 0.0], window=3)
    assert np.isnan(means[:2]).all()
    np.testing.assert_allclose(means[2:], [3.0, 3.0])


def test_a_level_is_reached_by_the_mean_and_not_by_one_lucky_iteration():
    assert reached([0.9, 0.1, 0.1, 0.9], 0.6) is None
    assert reached([0.3, 0.6, 0.6, 0.6], 0.6) == 4
    assert reached([0.6, 0.6, 0.6], 0.6) == 3  # at it is there
    assert reached([0.1, 0.2, 0.9], 0.3, window=1) == 3
    assert reached([0.9], 0.6) is None
    assert reached([], 0.6) is None


def test_a_band_is_the_mean_and_the_unbiased_deviation_of_seeds():
    mean, spread = band([[0.0, 0.5, 9.0], [1.0, 0.5]])
    np.testing.assert_allclose(mean, [0.5, 0.5])
    np.testing.assert_allclose(spread, [np.sqrt(0.5), 0.0])
    assert band([[0.25]])[1].tolist() == [0.0]


def test_an_interval_holds_its_mean_and_shrinks_with_games():
    rng = np.random.default_rng(1)
    few, many = (interval((rng.random((3, G)) < 0.5) * 1.0) for G in (20, 400))
    for found in (few, many):
        assert found.low < found.mean < found.high
    assert many.high - many.low < few.high - few.low
    sure = interval(np.ones((3, 50)))
    assert sure == (1.0, 1.0, 1.0)


def test_of_one_seed_the_interval_is_that_of_games_alone():
    """Against the normal approximation of a mean of 400 coins."""
    x = np.tile([1.0, 0.0], 200)[None]
    low, high = interval(x)[1:]
    half = 1.96 * 0.5 / np.sqrt(400)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.006)


def test_seeds_that_disagree_widen_the_interval():
    """Half the games by every seed, or all of them by half of the seeds."""
    games = np.tile([1.0, 0.0], 100)
    alike = interval(np.stack([games] * 4))
    apart = interval(np.repeat([[1.0], [1.0], [0.0], [0.0]], 200, axis=1))
    assert alike.mean == apart.mean == 0.5
    assert apart.high - apart.low > 3 * (alike.high - alike.low)


def test_games_that_all_seeds_lose_count_once():
    """Were rows of seeds taken for independent games, it would be half as wide."""
    games = np.tile([1.0, 0.0], 100)
    one, four = interval(games[None]), interval(np.stack([games] * 4))
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.1)


def test_an_interval_is_the_same_every_time_and_needs_an_outcome():
    x = np.random.default_rng(0).random((2, 30))
    assert interval(x) == interval(x)
    for empty in (np.zeros((0, 3)), np.zeros((3, 0)), np.zeros(3)):
        with pytest.raises(ValueError, match="needs outcomes"):
            interval(empty)


def test_a_gain_is_paired_by_seed_and_game():
    """The same games won: no doubt of the difference, though much of each share."""
    won = {f"g{i}": i % 2 == 0 for i in range(40)}
    more = won | {"g1": True, "g3": True}
    runs = [
        outcome("hae", 0, {"valid": won}),
        outcome("hae", 1, {"valid": won}),
        outcome("grpo", 0, {"valid": more}),
        outcome("grpo", 2, {"valid": won}),  # a seed that the first lacks
    ]
    first, second = standings.standings(runs)
    assert (first.label, first.seeds, first.gain) == ("hae", (0, 1), None)
    assert first.final.mean == 0.5 and first.deviation == 0.0
    assert second.final.mean == pytest.approx((22 / 40 + 0.5) / 2)
    assert second.deviation == pytest.approx(np.sqrt(2) * 0.025)
    assert second.gain_seeds == 1 and second.gain is not None
    assert second.gain.mean == pytest.approx(2 / 40)
    assert 0 <= second.gain.low < 0.05 < second.gain.high < 0.13
    assert second.final.high - second.final.low > 0.2
    assert first.before == 0.5


def test_runs_on_other_games_are_not_compared():
    runs = [outcome("hae"), outcome("grpo", after={"valid": {"a": True, "c": True}})]
    with pytest.raises(ValueError, match="grpo, seed 0 was examined on other games"):
        standings.standings(runs)


def test_the_way_to_a_level_is_told_in_episodes_and_minutes():
    slow = outcome(seed=1, success=[0.1, 0.2, 0.3, 0.2])
    fast = outcome(seed=2, success=[0.6, 0.6, 0.6, 0.9])
    (speed,) = standings.speeds([outcome(), slow, fast])
    assert speed.reached[0.6] == [(4, 32, 4.0), (3, 24, 3.0)]
    assert speed.reached[0.8] == []
    assert standings.median(speed.reached[0.6], speed.seeds) == [4.0, 32.0, 4.0]
    assert standings.median(speed.reached[0.8], speed.seeds) == [None] * 3
    assert standings.median([(3, 24, 3.0)], seeds=2) == [None] * 3
    assert speed.minutes == 4.0


def test_switch_statistics_are_those_of_the_ends():
    """And a planner that ends outside of the bounds has collapsed."""
    gone = outcome(seed=1, switches=[0.5, 0.1, 0.03, 0.01])
    (speed,) = standings.speeds([outcome(), gone])
    assert speed.switches == pytest.approx(((0.4 + 0.21) / 2, (0.24 + 0.14 / 3) / 2))
    assert speed.collapsed == 1
    assert speed.turns == pytest.approx((20.0, 18.0))
    assert ends([0.5, 0.25]) == (0.5, 0.25)


def test_a_line_of_the_table_is_empty_where_there_is_no_number():
    runs = [outcome(), outcome("grpo", success=[0.1] * 4)]
    rows, speeds = standings.standings(runs), standings.speeds(runs)
    first, second = (standings.record(row, speeds) for row in rows)
    assert first["gain_mean"] == "" and second["gain_mean"] == "0"
    assert first["episodes_to_60"] == "32" and second["episodes_to_60"] == ""
    assert (first["seeds_to_60"], second["seeds_to_60"]) == (1, 0)
    assert first["sd"] == "" and first["success"] == "1" and first["before"] == "0.5"
    assert list(first) == list(second)
