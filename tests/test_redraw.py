"""DAPO's filter keeps tasks that tell siblings apart, and stops after its tries."""

import dataclasses

import pytest
import small

from hiper_jax.accept import SettingError
from hiper_jax.experiments import config as configs
from hiper_jax.experiments.redraw import draw, other_games


def episode(game, reward):
    made = small.episodes()[0]
    turn = dataclasses.replace(made.turns[0], reward=reward)
    return dataclasses.replace(made, game=game, turns=(turn,))


def played(returns):
    """A player of games whose two returns are known; keeps what it was asked."""
    asked = []

    def play(games, attempt):
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
