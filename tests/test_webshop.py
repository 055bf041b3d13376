"""The shop as an environment: the original's walks, and what holds of any play."""

import functools
import gzip
import json
import pathlib
import random
import subprocess
import sys

import pytest

from hiper_jax.act.envs.pool import Pool
from hiper_jax.act.envs.worlds import webshop
from hiper_jax.act.envs.worlds.webshop import pages
from hiper_jax.act.envs.worlds.webshop.catalogue import make_product
from hiper_jax.act.envs.worlds.webshop.make import make_shop
from hiper_jax.act.envs.worlds.webshop.world import parse

GOLDEN = pathlib.Path(__file__).parent / "golden" / "webshop"
NOT_NOUNS = {"a", "and", "for", "in", "of", "the", "with"}


def golden_nouns(text):
    words = (word for word in text.split() if word.isascii() and word.isalpha())
    return [word for word in words if word.lower() not in NOT_NOUNS]


@functools.cache
def walks(kind):
    with gzip.open(GOLDEN / f"walks_{kind}_goals.json.gz", "rt", encoding="utf-8") as f:
        return json.load(f)


@functools.cache
def golden_shop(kind):
    given = walks(kind)
    return webshop.load(
        GOLDEN,
        human_goals=kind == "human",
        search=given["rankings"].__getitem__,
        nouns=golden_nouns,
        prices=given["prices"],
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shops") / "shop"
    return webshop.load(make_shop(folder, products=60, seed=1))


def seen(observation, info):
    return observation, info["has_search_bar"], info["clickables"]


@pytest.mark.parametrize("kind", ["synthetic", "human"])
def test_every_step_of_the_original_walks(kind):
    given, steps = walks(kind), 0
    for walk in given["walks"]:
        env = webshop.WebShop(golden_shop(kind), walk["goal"])
        start = walk["start"]
        assert seen(*env.reset()) == tuple(
            start[name] for name in ("observation", "has_search_bar", "clickables")
        )
        for step in walk["steps"]:
            steps += 1
            observation, reward, terminated, truncated, info = env.step(step["action"])
            assert observation == step["observation"]
            assert terminated == step["done"] and not truncated
            assert info["task_score"] == pytest.approx(step["reward"], abs=1e-9)
            assert info["won"] == (step["done"] and step["reward"] == 1.0)
            assert reward == (10.0 if info["won"] else 0.0)
            if step["done"]:
                parts = info["score_parts"]
                assert parts == pytest.approx(step["reward_parts"], abs=1e-9)
            else:
                assert info["has_search_bar"] == step["has_search_bar"]
                assert info["clickables"] == step["clickables"]
    assert steps == {"synthetic": 527, "human": 322}[kind]


@pytest.mark.parametrize("kind", ["synthetic", "human"])
def test_goals_are_the_original_ones(kind):
    """All but the bound on the price, which is drawn."""
    shop, given = golden_shop(kind), walks(kind)
    goals = [shop.goal(name) for name in shop.goal_ids(range(shop.num_goals))]
    assert len(goals) == given["n_goals"]

    def fixed(goal):
        text = goal["instruction_text"].split(", and price lower than ")[0]
        rest = {k: v for k, v in goal.items() if k not in ("price_upper", "weight")}
        return json.dumps({**rest, "instruction_text": text}, sort_keys=True)

    ours = {fixed(goal): goal for goal in goals}
    for walk in given["walks"]:
        goal, wanted = ours[fixed(walk["goal"])], walk["goal"]
        assert goal["weight"] == pytest.approx(wanted["weight"], abs=1e-15)
        for bound in (goal["price_upper"], wanted["price_upper"]):
            price = shop.price(goal["asin"])
            if price >= 980:
                assert bound == 1000000
            else:
                assert bound % 10 == 0 and price + 10 < bound <= price + 40
        keys = list(wanted)
        assert list(goal) == keys and list(goal["goal_options"]) == list(
            wanted["goal_options"]
        )


def item(**fields):
    basic = {
        "asin": "B000000001",
        "name": "Plain Tea",
        "full_description": "",
        "small_description": [],
        "product_category": "Food \u203a Tea",
        "category": "grocery",
        "query": "Tea ",
        "pricing": "",
        "customization_options": "",
    }
    return make_product({**basic, **fields}, {}, [])


def test_pages_by_hand():
    product = item(
        name=" Mint & Co <b>Tea</b> ",
        pricing="$1,299.5$2,000",
        small_description=["one", "", "two\n"],
        customization_options={
            "Size": [{"value": " 7.5/Wide "}, {"value": "XL"}],
            "Color": None,
            "Fit": [{"value": "xl"}],
        },
    )
    head = "Instruction: [SEP] buy tea [SEP] Back to Search [SEP] < Prev"
    page = pages.item_page("buy tea", product)
    assert page.observation == (
        f"{head} [SEP] size [SEP] 7.5 | wide [SEP] xl [SEP] fit [SEP] xl [SEP] "
        "Mint & Co <b>Tea</b> [SEP] Price: $1299.5 to $2000.0 [SEP] Rating: N.A. "
        "[SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    )
    assert page.clickables == (
        *("back to search", "< prev", "description", "features", "reviews", "buy now"),
        *("7.5 | wide", "xl"),
    )
    # A missing text leaves no trace, an empty bullet point an empty text.
    assert pages.sub_page("buy tea", product, "description").observation == head
    features = pages.sub_page("buy tea", product, "features").observation
    assert features == f"{head} [SEP] one [SEP]  [SEP] two"
    page = pages.results_page("buy tea", [product], 2, 11)
    assert page.observation == (
        "Instruction: [SEP] buy tea [SEP] Back to Search [SEP] Page 2 (Total results: "
        "11) [SEP] < Prev [SEP] Next > [SEP] B000000001 [SEP] Mint & Co <b>Tea</b> "
        "[SEP] $1299.5 to $2000.0"
    )
    assert page.clickables == ("back to search", "< prev", "next >", "b000000001")
    bought = pages.done_page("B1", {"size": "men's <9>", "color": "a&b"}, 0.5)
    assert r'{"color": "a\u0026b", "size": "men\u0027s \u003c9\u003e"}' in (
        bought.observation
    )


@pytest.mark.parametrize(
    "action, wanted",
    [
        ("click[Buy Now]", ("click", "buy now")),
        ("search[Red Tea] and more", ("search", "red tea")),
        ("search[a] click[b]", ("search[a] click", "b")),
        ("search[a]b]", ("search", "a]b")),
        ("search[[a]", ("search[", "a")),
        ("search[]", ("search[]", None)),
        ("search[]]", ("search", "]")),
        ("[a]", ("[a]", None)),
        ("search[tea", ("search[tea", None)),
        ("search[tea]\nclick[x]", ("search", "tea")),
        ("\nsearch[tea]", ("\nsearch[tea]", None)),
        ("", ("", None)),
    ],
)
def test_actions_are_read_as_in_the_original(action, wanted):
    import re

    match = re.match(r"(.+)\[(.+)\]", action)
    original = (match[1], match[2].lower()) if match else (action, None)
    assert parse(action) == wanted == original


def test_option_shared_by_two_names_goes_to_the_later(tmp_path):
    entry = {
        "asin": "B000000001",
        "name": "Plain Tea",
        "full_description": "tea",
        "small_description": ["tea"],
        "product_category": "Food \u203a Tea",
        "query": "tea",
        "customization_options": {
            "Color": [{"value": "black"}],
            "Trim": [{"value": "black"}, {"value": "Description"}],
        },
    }
    told = {"instruction": "buy tea", "instruction_attributes": ["tea"]}
    (tmp_path / "items_shuffle.json").write_text(json.dumps([entry]))
    (tmp_path / "items_ins_v2.json").write_text(json.dumps({"B000000001": told}))
    env = webshop.WebShop(webshop.load(tmp_path))
    env.reset("B000000001-0")
    env.step("search[tea]")
    env.step("click[b000000001]")
    env.step("click[black]")
    # The button goes before the option of that name.
    assert env.step("click[description]")[0].endswith("< Prev [SEP] tea")
    env.step("click[< prev]")
    observation = env.step("click[buy now]")[0]
    assert '{"trim": "black"}' in observation


def test_fuzzed_actions_neither_crash_nor_corrupt(shop):
    """Ten thousand actions; the episode so far, played again, looks the same."""
    rng, env, again = random.Random(0), webshop.WebShop(shop), webshop.WebShop(shop)
    games = shop.goal_ids(range(shop.num_goals))
    texts = ["search[", "]", "click[", "\n", "\x00", "\ud800", "é", "<r>", "next >", ""]
    before, products = shop.goal(games[0]), shop.num_products
    played = 0
    while played < 10_000:
        game, actions, over = rng.choice(games), [], False
        observation, info = env.reset(game)
        while not over and played < 10_000:
            chance = rng.random()
            if chance < 0.7 and info["clickables"]:
                action = f"click[{rng.choice(info['clickables'])}]"
            elif chance < 0.85:
                action = f"search[{' '.join(rng.choices(info['task'].split(), k=3))}]"
            else:
                action = "".join(
                    rng.choices(texts + list("abc[] "), k=rng.randint(0, 9))
                )
            actions.append(action)
            last = (observation, info)
            observation, reward, terminated, truncated, info = env.step(action)
            played, over = played + 1, terminated or truncated
            assert isinstance(observation, str) and observation
            assert 0.0 <= info["task_score"] <= 1.0
            assert reward == 10.0 * (info["task_score"] == 1.0)
            assert not (terminated and truncated)
            if parse(action)[0] not in ("search", "click"):
                assert (observation, info) == last
        if rng.random() < 0.1:
            again.reset(game)
            for action in actions:
                end = again.step(action)
            assert end == (observation, reward, terminated, truncated, info)
    assert shop.goal(games[0]) == before and shop.num_products == products


def test_long_actions_are_read_at_once():
    assert parse("[" * 200_000)[1] is None
    assert parse("click[" + "[" * 200_000)[1] is None


def test_turn_limit_truncates_and_never_terminates(shop):
    env = webshop.WebShop(shop, shop.goal(shop.goal_ids([0])[0]), max_turns=3)
    env.reset()
    ends = [env.step("search[tea]")[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_purchase_pays_once_and_only_a_perfect_one(shop):
    name = shop.goal_ids([0])[0]
    goal = shop.goal(name)
    env = webshop.WebShop(shop, reward=1.0, max_turns=9)
    env.reset(name)
    env.step(f"search[{goal['name']}]")
    env.step(f"click[{goal['asin'].lower()}]")
    for value in goal["goal_options"].values():
        env.step(f"click[{value}]")
    observation, reward, terminated, _, info = env.step("click[buy now]")
    assert (reward, terminated, info["won"], info["task_score"]) == (1.0, True, True, 1)
    later = env.step("click[buy now]")
    assert later == (observation, 0.0, True, False, info)
    assert (info["game"], info["task_type"]) == (name, goal["category"])
    assert info["task"] == goal["instruction_text"]


def test_partial_reward_pays_the_scores_share(shop):
    name = shop.goal_ids([0])[0]
    goal = shop.goal(name)
    for partial in (False, True):
        env = webshop.WebShop(shop, reward=2.0, max_turns=9, partial=partial)
        env.reset(name)
        env.step(f"search[{goal['name']}]")
        env.step(f"click[{goal['asin'].lower()}]")  # and no option chosen
        _, reward, terminated, _, info = env.step("click[buy now]")
        assert terminated and 0 < info["task_score"] < 1 and not info["won"]
        assert reward == (2.0 * info["task_score"] if partial else 0.0)


def test_admissible_actions_all_do_something(shop):
    env = webshop.WebShop(shop)
    _, info = env.reset(shop.goal_ids([0])[0])
    assert info["admissible_actions"] == ["search[<your query>]"]
    info = env.step("search[free]")[4]
    assert info["admissible_actions"][:2] == ["click[back to search]", "click[next >]"]


def test_misuse_is_said(shop):
    env = webshop.WebShop(shop)
    with pytest.raises(ValueError, match="call reset"):
        env.step("search[tea]")
    with pytest.raises(ValueError, match="takes a goal's id"):
        env.reset()
    with pytest.raises(ValueError, match="no synthetic goal 'B0-7'"):
        env.reset("B0-7")
    with pytest.raises(ValueError, match="max_turns"):
        webshop.WebShop(shop, max_turns=0)


def test_pool_plays_with_one_shop_per_worker(tmp_path):
    folder = str(make_shop(tmp_path / "shop", products=20, seed=3))
    shop = webshop.load(folder)
    games = shop.goal_ids(range(3))
    make_env = functools.partial(webshop.make_env, folder, max_turns=4)
    with Pool(make_env, 3, workers=1) as pool:
        starts = pool.reset(range(3), games)
        there = pool.step(range(3), ["search[free]"] * 3)
    for game, start, step in zip(games, starts, there, strict=True):
        env = webshop.WebShop(shop, max_turns=4)
        assert env.reset(game) == start
        assert env.step("search[free]") == step


def test_importing_costs_neither_jax_nor_the_search_library():
    code = f"""
import sys
from hiper_jax.act.envs.worlds import webshop
assert "numpy" not in sys.modules and "bm25s" not in sys.modules
shop = webshop.load({str(GOLDEN)!r})
shop.search("green tea")
heavy = ("jax", "numba", "spacy", "torch")
print([name for name in heavy if name in sys.modules], "bm25s" in sys.modules)
import hiper_jax.act.envs.worlds.webshop.shopper
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[0] == "[] True", run.stderr
