"""Made shops, the scripted shopper, and the benchmark of both."""

import itertools
import json
import random

import pytest

from hiper_jax.act.envs.worlds import webshop
from hiper_jax.act.envs.worlds.webshop import make
from hiper_jax.act.envs.worlds.webshop.make import make_shop
from hiper_jax.act.envs.worlds.webshop.shopper import decide, demonstrate, read_request
from hiper_jax.act.envs.worlds.webshop.splits import list_goals
from hiper_jax.experiments.bench import webshop as bench_webshop


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shop(tmp_path_factory.mktemp("shops") / "s", products=400, seed=7)


@pytest.fixture(scope="module")
def shop(folder):
    return webshop.load(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def test_equal_arguments_make_equal_shops(folder, tmp_path):
    assert contents(make_shop(tmp_path / "a", products=400, seed=7)) == contents(folder)
    other = contents(make_shop(tmp_path / "b", products=400, seed=8))
    assert other.keys() == contents(folder).keys() and other != contents(folder)


def test_made_files_have_the_originals_fields(folder):
    items = json.loads((folder / "items_shuffle.json").read_text())
    instructions = json.loads((folder / "items_ins_v2.json").read_text())
    human = json.loads((folder / "items_human_ins.json").read_text())
    assert len({item["asin"] for item in items}) == len(items) == 400
    assert instructions.keys() == {item["asin"] for item in items}
    assert 80 < len(human) < 190 and human.keys() < instructions.keys()
    pricings = [item["pricing"].count("$") for item in items]
    assert {pricings.count(n) > 20 for n in (0, 1, 2)} == {True}
    assert any(item["customization_options"] == "" for item in items)


def test_every_made_goal_can_be_won(shop, folder):
    for name in shop.goal_ids(range(shop.num_goals)):
        goal = shop.goal(name)
        assert shop.score(goal, goal["asin"], goal["goal_options"])[0] == 1.0, name
    people = webshop.load(folder, human_goals=True)
    assert people.num_goals > 80
    for name in people.goal_ids(range(people.num_goals)):
        goal = people.goal(name)
        options = people.product(goal["asin"]).options.items()
        chosen = {n: v for n, vs in options for v in vs if v in goal["goal_options"]}
        assert people.score(goal, goal["asin"], chosen)[0] == 1.0, name


def test_shop_is_made_whole_or_not_at_all(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("no more space")

    monkeypatch.setattr(make, "_annotation", fails)
    with pytest.raises(RuntimeError, match="no more space"):
        make_shop(tmp_path / "shop", products=50, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_said(tmp_path):
    with pytest.raises(ValueError, match="at least one product"):
        make_shop(tmp_path / "shop", products=0, seed=0)
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(FileExistsError, match="is there already"):
            make_shop(out, products=1, seed=0)
    (tmp_path / "empty").mkdir()
    assert webshop.load(make_shop(tmp_path / "empty", products=2, seed=0)).num_goals


@pytest.mark.parametrize(
    "task, words, options, bound",
    [
        (
            "Find me low sugar, non gmo honey with flavor name: maple, and size: "
            "8 ounce, and price lower than 30.00 dollars",
            "low sugar non gmo honey",
            (("flavor name", "maple"), ("size", "8 ounce")),
            30.0,
        ),
        ("I need a lamp with shade", "lamp with shade", (), float("inf")),
        ("i am looking for a tea", "tea", (), float("inf")),
    ],
)
def test_instructions_are_read(task, words, options, bound):
    assert read_request(task) == (words, options, bound)


def test_expert_buys_what_is_asked_for(shop):
    env = webshop.WebShop(shop, max_turns=15)
    rng, games = random.Random(0), list_goals(shop, "train").games[:150]
    demos = [demonstrate(env, game, rng=rng) for game in games]
    assert sum(demo.won for demo in demos) >= 0.97 * len(demos)
    for demo in demos:
        first = demo.steps[0]
        assert first.switch and first.subgoal.startswith("find ")
        assert all(step.action == step.expert_action for step in demo.steps)
        pairs = itertools.pairwise(demo.steps)
        changes = [a.subgoal != b.subgoal for a, b in pairs]
        assert [step.switch for step in demo.steps[1:]] == changes
        if demo.won:
            assert demo.steps[-1].subgoal == "buy"
    noisy = [demonstrate(env, game, noise=0.2, rng=rng) for game in games]
    assert sum(demo.won for demo in noisy) >= 0.75 * len(noisy)


def test_expert_is_a_function_of_what_a_player_sees(shop):
    """Two demonstrations that look alike to `decide` continue alike."""
    env, moves = webshop.WebShop(shop, max_turns=15), {}
    rng = random.Random(1)
    for game in list_goals(shop, "train").games[:80]:
        demo = demonstrate(env, game, noise=0.1, rng=rng)
        subgoal, played = "", []
        for step in demo.steps:
            clickables = [
                action[6:-1]
                for action in step.admissible_actions
                if action.startswith("click[")
            ]
            key = (demo.info["task"], subgoal, tuple(played[-2:]), step.observation)
            move = decide(key[0], subgoal, played[-2:], step.observation, clickables)
            assert move == (step.subgoal, step.expert_action)
            assert moves.setdefault(key, move) == move
            subgoal, played = step.subgoal, [*played, step.action]


def test_expert_turns_back_from_what_does_not_fit():
    task = "Find me honey with size: 8 ounce, and price lower than 20.00 dollars"
    results = (
        "Instruction: [SEP] x [SEP] Back to Search [SEP] Page 1 (Total results: 3) "
        "[SEP] Next > [SEP] B01 [SEP] Tea [SEP] $5.0 [SEP] B02 [SEP] Honey [SEP] $25.0 "
        "[SEP] B03 [SEP] Honey [SEP] $15.0 to $25.0 [SEP] B04 [SEP] Honey [SEP] $9.0"
    )
    clickables = ["back to search", "next >", "b01", "b02", "b03", "b04"]
    move = decide(task, "find honey", ["search[honey]"], results, clickables)
    assert move == ("find honey", "click[b04]")
    item = ["back to search", "< prev", "buy now", "12 ounce"]
    move = decide(task, "find honey", ["search[honey]", "click[b04]"], "", item)
    assert move == ("find honey, not b04", "click[< prev]")
    move = decide(task, move[0], ["click[b04]", "click[< prev]"], results, clickables)
    assert move == ("find honey, not b04", "click[b03]")
    item = [*item, "8 ounce"]
    move = decide(task, move[0], ["click[< prev]", "click[b03]"], "", item)
    assert move == ("choose size: 8 ounce", "click[8 ounce]")
    assert decide(task, move[0], ["click[b03]", "click[8 ounce]"], "", item) == (
        "buy",
        "click[buy now]",
    )


def test_benchmark_writes_its_figures(tmp_path, capsys):
    result = bench_webshop.main(tmp_path, products=(30,), envs=4, steps=200)
    written = json.loads((tmp_path / "bench_webshop.json").read_text())
    assert written == result and result["shops"][0]["products"] == 30
    assert "| 30 |" in capsys.readouterr().out
