"""DAPO's filter keeps tasks that tell siblings apart, and stops after its tries."""

import dataclasses
import types

import numpy as np
import pytest
import small
from host_threads import each

from hiper_jax.accept import SettingError
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import meeting
from hiper_jax.experiments.redraw import draw, other_games
from hiper_jax.hosts import HostError


def episode(game, reward):
    made = small.episodes()[0]
    turn = dataclasses.replace(made.turns[0], reward=reward)
    return dataclasses.replace(made, game=game, turns=(turn,))


def played(returns):
    """A player of games whose two returns are known; keeps what it was asked."""
    asked = []

    def play(games, attempt, first):
        del first
        asked.append((attempt, tuple(games[::2])))
        out = [episode(g, returns[g][i % 2]) for i, g in enumerate(games)]
        return out, {"environment": 1.0}

    return play, asked


RETURNS = {"a": (1, 1), "b": (0, 1), "c": (0, 0), "d": (1, 0), "e": (0, 0)}


def filtered(first, later, tries):
    play, asked = played(RETURNS)
    names = iter(later)

    def others(number, attempt):
        return [game for _ in range(number) for game in [next(names)] * 2]

    games = [game for game in first for _ in range(2)]
    return draw(play, games, others, siblings=2, tries=tries), asked


def test_tasks_without_a_difference_make_room_for_others():
    drawn, asked = filtered("abc", "edd", 10)
    assert [e.game for e in drawn.episodes] == ["b", "b", "d", "d", "d", "d"]
    assert asked == [(0, ("a", "b", "c")), (1, ("e", "d")), (2, ("d",))]
    assert [e.game for e in drawn.first] == list("aabbcc")
    assert drawn.spent == {"environment": 3.0}
    assert drawn.metrics == {
        "redraw/tasks": 3.0,
        "redraw/flat": 0.5,
        "redraw/learned_from": 1.0,
    }


def test_after_the_last_try_tasks_without_a_difference_fill_up():
    drawn, asked = filtered("abc", "ecec", 2)
    assert len(asked) == 3
    assert [e.game for e in drawn.episodes] == ["b", "b", "a", "a", "c", "c"]
    assert drawn.metrics["redraw/learned_from"] == pytest.approx(1 / 3)


def test_without_tries_nothing_is_filtered():
    drawn, asked = filtered("abc", "", 0)
    assert [e.game for e in drawn.episodes] == list("aabbcc") and len(asked) == 1
    assert drawn.metrics == {}


def test_what_is_drawn_again_depends_on_seed_step_and_try_alone():
    known = [str(i) for i in range(50)]
    one = other_games(known, 3, 4, 7, 2, 1)
    assert one == other_games(known, 3, 4, 7, 2, 1) and len(set(one)) == 4
    assert one[::2] == one[1::2]
    assert one != other_games(known, 3, 4, 7, 2, 2)
    assert one != other_games(known, 4, 4, 7, 2, 1)
    assert len(other_games(known[:3], 0, 5, 0, 2, 1)) == 10


def test_a_filter_without_siblings_is_refused():
    with pytest.raises(SettingError, match="compares samples"):
        configs.Train(redraw=10)
    assert configs.Train(redraw=10, samples=2).siblings == 2


@pytest.mark.parametrize("count", [2, 3])
def test_several_hosts_draw_what_one_draws(count):
    """The same episodes in the same order, tasks told apart by all hosts' returns."""
    games = [game for game in "cbaead" for _ in range(2)]
    later = {1: "eebc", 2: "cdab", 3: "bdea"}

    def others(number, attempt):
        return [game for game in later[attempt][:number] for _ in range(2)]

    def drawn_by(hosts, tries):
        asked = []

        def play(names, attempt, first):
            asked.append((attempt, first, len(names)))
            out = [episode(g, RETURNS[g][i % 2]) for i, g in enumerate(names)]
            if not attempt:  # the fifth episode is dropped
                out = [e for i, e in enumerate(out, start=first) if i != 4]
            return out, {"environment": 1.0}

        return draw(play, games, others, siblings=2, tries=tries, hosts=hosts), asked

    for tries in (1, 2, 3):
        alone, _ = drawn_by(None, tries)
        parts, _ = each(lambda hosts, tries=tries: drawn_by(hosts, tries), count)
        held = [iter(drawn.episodes) for drawn, _ in parts]
        for drawn, _ in parts:
            assert drawn.metrics == alone.metrics
            assert drawn.runs == parts[0][0].runs
        order = [next(held[h]) for h, n in parts[0][0].runs for _ in range(n)]
        assert [e.game for e in order] == [e.game for e in alone.episodes]
        assert all(not list(rest) for rest in held)
        # Shares of every try are in order, side by side.
        for attempt in range(tries + 1):
            said = [a[1:] for _, asked in parts for a in asked if a[0] == attempt]
            ends = [0, *np.cumsum([n for _, n in said]).tolist()]
            assert [first for first, _ in said] == ends[:-1]


def test_a_host_that_fails_in_a_later_try_ends_all_where_they_meet():
    def work(hosts):
        guard = types.SimpleNamespace(together=False)

        def play(names, attempt, first):
            with meeting.together(hosts, guard, f"try {attempt}"):
                if attempt and hosts.index:
                    raise OSError("the game is gone")
                return [episode(game, 0.0) for game in names], {"environment": 1.0}

        def others(number, attempt):
            return ["a", "a"] * number

        try:
            with meeting.together(hosts, guard, "iteration"):
                draw(play, ["a"] * 8, others, siblings=2, tries=2, hosts=hosts)
        except Exception as error:
            return guard.together, error
        return None

    (first, said), (second, own) = each(work)[0]
    assert first and second  # so that both save what they began with
    assert isinstance(own, OSError) and isinstance(said, HostError)
    assert "process 1 on " in str(said) and "the game is gone" in str(said)
