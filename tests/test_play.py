"""Games played by a scripted person."""

import io
import json
import pathlib

import pytest

from hiper_jax.experiments.play import play


class Corridor:
    """Three rooms in a row; the lamp is in the last."""

    def __init__(self, max_turns=5):
        self.max_turns, self.closed = max_turns, False

    def _info(self):
        actions = ["go west", "go east", "look"] + ["take lamp"] * (self.room == 2)
        return {
            "task": "take the lamp.",
            "admissible_actions": actions,
            "won": self.won,
            "task_type": "take",
            "game": "corridor",
        }

    def reset(self, task):
        self.room, self.turn, self.won, self.sent = 0, 0, False, []
        return f"You are in room 0 of {task}.\nIt is dark.", self._info()

    def step(self, action):
        self.sent.append(action)
        self.turn += 1
        move = {"go west": -1, "go east": 1}.get(action, 0)
        self.room = min(2, max(0, self.room + move))
        self.won = action == "take lamp" and self.room == 2
        truncated = not self.won and self.turn == self.max_turns
        reward = 10.0 if self.won else 0.0
        return f"Room {self.room}.", reward, self.won, truncated, self._info()

    def close(self):
        self.closed = True


def _play(env, *lines, end=EOFError):
    """Plays with these lines, then `end`; gives (won, everything shown)."""
    lines, shown = list(lines), []

    def read(prompt):
        shown.append(prompt)
        if not lines:
            raise end
        return lines.pop(0)

    won = play(env, "the house", read=read, write=shown.append, width=60)
    assert env.closed and not lines
    return won, "\n".join(shown)


def test_a_game_is_won_by_numbers_and_by_words():
    env = Corridor()
    won, shown = _play(env, "2", " Go East ", "take")
    assert won
    assert env.sent == ["go east", "go east", "take lamp"]
    assert "Task: take the lamp." in shown
    assert "You are in room 0 of the house.\nIt is dark." in shown
    assert "1 go west  2 go east  3 look" in shown
    assert "turn 3: take lamp   reward 10, in all 10" in shown
    assert shown.endswith("You won in 3 turns, with a return of 10.")


def test_help_blank_lines_and_wrong_numbers_cost_no_turn():
    env = Corridor()
    won, shown = _play(env, "help", "", "0", "9", "?", "quit")
    assert not won and env.sent == []
    assert shown.count("lists the actions again") == 2
    assert shown.count("1 go west") == 2
    assert "no action 9; they go from 1 to 3" in shown
    assert shown.endswith("You left after 0 turns; the game was not won.")


def test_what_is_not_listed_or_ambiguous_is_sent_as_typed():
    env = Corridor()
    _, shown = _play(env, "go", "Search[red Lamp]", "quit")
    assert env.sent == ["go", "Search[red Lamp]"]
    assert shown.count("sent as you typed it") == 2


def test_the_turn_limit_ends_a_game():
    won, shown = _play(Corridor(max_turns=2), "look", "3")
    assert not won
    assert shown.endswith("The limit of 2 turns is reached; not won.")


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_leaving_is_polite(end):
    won, shown = _play(Corridor(), "look", end=end)
    assert not won
    assert shown.endswith("You left after 1 turn; the game was not won.")


def test_an_environment_that_fails_is_closed_too():
    class Broken(Corridor):
        def step(self, action):
            raise RuntimeError("the game crashed")

    env = Broken()
    with pytest.raises(RuntimeError, match="crashed"):
        play(env, "x", read=lambda _: "look", write=lambda _: None)
    assert env.closed


def test_a_made_game_is_won_by_following_the_expert(tmp_path):
    from hiper_jax.act.envs.worlds.alfworld import data
    from hiper_jax.act.envs.worlds.alfworld import write as make
    from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld

    root = str(tmp_path / "games")
    make.make_games(
        root, train=1, seen=0, unseen=0, seed=1, receptacles=(6, 7), objects=(5, 6)
    )
    game = data.list_games(root, "train").games[0]

    class Watched(AlfWorld):
        def reset(self, task):
            return self._keep(super().reset(task))

        def step(self, action):
            return self._keep(super().step(action))

        def _keep(self, result):
            self.info = result[-1]
            return result

    env, shown = Watched(max_turns=50), []
    moves = iter(json.loads(pathlib.Path(game).read_text())["walkthrough"])

    def read(prompt):
        action = next(moves)
        return str(env.info["admissible_actions"].index(action) + 1)

    assert play(env, game, read=read, write=shown.append, width=80)
    assert any(line.startswith("Task: ") for line in shown)
    assert shown[-1].startswith("You won in ")
    assert "return of 10." in shown[-1]


def test_a_search_is_typed_and_a_shop_is_left(capsys, monkeypatch, tmp_path):
    from hiper_jax.act.envs.worlds.webshop.make import make_shop
    from hiper_jax.experiments.cli import main

    shop = make_shop(tmp_path / "shop", products=20, seed=0)
    monkeypatch.setattr("sys.stdin", io.StringIO("search[free]\nbuy\nquit\n"))
    with pytest.raises(SystemExit) as stop:
        main(["play", str(shop)])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "turn 1: search[free]" in said and "Total results" in said
    # `buy` begins no action on a page of results.
    assert said.count("(not one of the listed actions") == 1
