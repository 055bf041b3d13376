"""The native engine answers as TextWorld's does, string for string."""

import json
import os
import random
import sys
from collections import Counter

import pytest
from odd_rooms import draw_room

from hiper_jax.act.envs.worlds.alfworld import (
    WORLD,
    data,
    dialect,
    game,
    native,
    versus,
)
from hiper_jax.act.envs.worlds.alfworld.write import make_games

pytest.importorskip("textworld", reason="the extra `reference` is not installed")
if sys.version_info >= (3, 13):
    pytest.skip("TextWorld does not run on 3.13", allow_module_level=True)

from hiper_jax.act.envs.worlds.alfworld import reference

# What the versions before 0.4 said in other words.
OLD_WORDS = (
    ("You arrive at {r.name}. #ex", "You arrive at {lend.name}. #ex"),
    (
        "You move the {o.name} to the {r.name}.",
        "You put the {o.name} in/on the {r.name}.",
    ),
    ('template :: "move {o} to {r}"', 'template :: "put {o} in/on {r}"'),
)


@pytest.fixture(scope="module")
def engines():
    return native.Engine(), reference.Engine()


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("games") / "made")
    make_games(
        root, train=18, seen=6, unseen=6, seed=4, receptacles=(5, 8), objects=(5, 9)
    )
    return [g for split in data.SPLITS for g in data.list_games(root, split).games]


def _old_texts():
    """The domain and the grammar of ALFWorld 0.2 and 0.3."""
    domain, grammar = dialect.stock_texts()
    domain = domain.partition("(:action help")[0] + ")"
    head, _, tail = grammar.partition("action help {")
    grammar = head + tail.partition('""";\n}')[2]
    for new, old in OLD_WORDS:
        assert new in grammar
        grammar = grammar.replace(new, old)
    return domain, grammar


def test_walks_of_every_kind_are_answered_alike(games, engines):
    found = versus.compare(games, steps=1_500, seed=1, engines=engines)
    assert found.difference == ""
    assert found.steps == 1_500 and found.games == 15


@pytest.mark.skipif(
    not os.environ.get("ALFWORLD_DATA"), reason="ALFWORLD_DATA names no data"
)
def test_published_games_are_answered_alike(engines):
    """ALFWorld's own games, where they lie on this machine."""
    listed = data.list_games(None, "valid_unseen").games
    some = random.Random(0).sample(listed, min(30, len(listed)))
    found = versus.compare(some, steps=3_000, seed=1, engines=engines)
    assert found.difference == "" and found.steps == 3_000


def test_the_comparison_sees_a_difference(games):
    class Polite(native.Engine):
        def step(self, command):
            seen = super().step(command)
            return seen._replace(text=seen.text.replace("You open", "Please open"))

    found = versus.compare(games, steps=500, engines=(native.Engine(), Polite()))
    assert found.steps < 500
    assert "native 'You open" in found.difference
    assert "stock  'Please open" in found.difference


def test_the_command_walks_through_a_folder_of_games(games):
    command, said = WORLD.commands["games diff"], []
    root = games[0].partition(data.VERSION)[0]
    command.run(command.settings(games=root, steps=40), said.append)
    assert said[-1] == "40 steps in 1 walks: no difference"
    with pytest.raises(FileNotFoundError, match="holds no games"):
        command.run(command.settings(games=root + "logic"), said.append)


@pytest.mark.parametrize("sinks", [False, True])
def test_rooms_with_all_that_is_odd_are_answered_alike(sinks, engines, tmp_path):
    """Both wordings; things in two places or none, marks, full hands at the start."""
    texts = [dialect.stock_texts(), _old_texts()]
    if sinks:  # the first published games let plain sinks clean, too
        commented = ";(receptacleType ?r SinkType)"
        assert all(commented in domain for domain, _ in texts)
        texts = [(d.replace(commented, commented[1:]), g) for d, g in texts]
    said, path = Counter(), tmp_path / "game.tw-pddl"
    for seed in range(100 * sinks, 100 * sinks + 24):
        rng = random.Random(seed)
        domain, grammar = texts[seed % 2]
        content = {
            "pddl_domain": domain,
            "grammar": grammar.replace("UNKNOWN GOAL", "be odd"),
            "pddl_problem": draw_room(rng),
        }
        path.write_text(json.dumps(content))
        try:
            engines[1].load(str(path))
        except ValueError:
            said["out of reach"] += 1  # the planner plays no game that cannot be won
            continue
        engines[0].load(str(path))
        seen = [engine.reset() for engine in engines]
        for turn in range(30):
            assert seen[0] == seen[1], f"room {seed}, turn {turn}"
            said[" ".join(seen[0].text.split()[:2])] += 1
            verb = rng.choice(sorted({c.split()[0] for c in seen[0].commands}))
            among = [c for c in seen[0].commands if c.split()[0] == verb]
            command = rng.choice(among)
            seen = [engine.step(command) for engine in engines]
    assert 3 <= said["out of reach"] < 20
    assert {"You put", "You move", "You sliced", "You turn", "This is"} <= said.keys()


def test_files_without_the_texts_are_played_as_those_with_them(games, engines):
    for path in games[:2]:
        content = game.read_file(path)
        assert content["pddl_domain"] == dialect.DOMAIN_FILE
        whole = dialect.with_texts(content)
        assert "task" not in whole and "(define" in whole["pddl_domain"]
        assert game.read_game(whole) == game.read_game(content)
