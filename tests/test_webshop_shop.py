"""Files, catalogue, search, goals and task lists of a shop."""

import collections
import gzip
import itertools
import json
import math
import pathlib
import random
import re

import numpy as np
import pytest

from hiper_jax.act.envs.worlds import webshop
from hiper_jax.act.envs.worlds.webshop import files, goals, scanner, search
from hiper_jax.act.envs.worlds.webshop import shelf as store
from hiper_jax.act.envs.worlds.webshop.make import make_shop
from hiper_jax.act.envs.worlds.webshop.splits import leak, list_goals

GOLDEN = pathlib.Path(__file__).parent / "golden" / "webshop"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shop(tmp_path_factory.mktemp("shops") / "s", products=300, seed=2)


@pytest.fixture(scope="module")
def shop(folder):
    return webshop.load(folder)


def rankings():
    found = {}
    for kind in ("synthetic", "human"):
        with gzip.open(GOLDEN / f"walks_{kind}_goals.json.gz", "rt") as file:
            found |= json.load(file)["rankings"]
    return found


def slow_bm25(texts, words, k1=0.9, b=0.4):
    """Lucene's formula, one document and one term at a time."""
    mean = sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        total = 0.0
        for word in words:
            holds = sum(word in other for other in texts)
            tf = text.count(word)
            idf = math.log(1 + (len(texts) - holds + 0.5) / (holds + 0.5))
            total += idf * tf / (tf + k1 * (1 - b + b * len(text) / mean))
        scores.append(total)
    return np.array(scores)


def test_search_is_bm25(shop):
    products = [store.product(shop.store, i) for i in range(shop.num_products)]
    texts = [scanner.terms(search.text(product)) for product in products]
    rng = random.Random(0)
    for _ in range(10):
        words = search.text(rng.choice(products)).split()
        words = " ".join(rng.choices(words, k=rng.randint(1, 4)))
        scores = slow_bm25(texts, scanner.terms(words))
        found = search.rank(shop.store, words)
        assert len(found) == min(50, int((scores > 0).sum()))
        assert sorted(scores[found], reverse=True) == pytest.approx(scores[found])
        if found:
            others = np.delete(scores, found)
            assert others.max() <= scores[found[-1]] + 1e-5
        for one, other in zip(found, found[1:], strict=False):
            if texts[one] == texts[other]:
                assert one < other  # equal texts keep the catalogue's order


def test_search_finds_nothing_in_nothing(shop):
    for words in ("", "the of and", "zzzz", " ", "\ud800"):
        assert shop.search(words) == ()


def ranking_agreement(shop, rankings):
    """Compares the shop's search with reference rankings, query -> asins.

    Returns:
      Means over the queries: the shared part of the hits (Jaccard), the shared part of
      the first ten, and how many pairs of shared hits stand in the same order.
    """
    shared, top, pairs = [], [], []
    for words, wanted in rankings.items():
        found = shop.search(words)
        if not wanted and not found:
            continue
        shared.append(len(set(found) & set(wanted)) / len(set(found) | set(wanted)))
        if wanted:
            first = set(wanted[:10])
            top.append(len(first & set(found[:10])) / len(first))
        place = {asin: i for i, asin in enumerate(found)}
        common = [place[asin] for asin in wanted if asin in place]
        orders = [a < b for a, b in itertools.combinations(common, 2)]
        if orders:
            pairs.append(sum(orders) / len(orders))
    return {
        name: sum(values) / max(len(values), 1)
        for name, values in (("hits", shared), ("top10", top), ("pairs", pairs))
    }


def test_search_against_the_walks_rankings():
    """Those were made over title and description only, by plain BM25 on whole words.

    On the same two fields the rankings agree but for stemming, k1, b and the length
    norm; on all four fields ours also finds what the walks' ranking cannot know.
    """
    wanted = rankings()
    shop = webshop.load(GOLDEN)
    all_fields = ranking_agreement(shop, wanted)
    builder = search.Builder()
    for place in range(shop.num_products):
        builder.add(store.product(shop.store, place)._replace(bullets=[], options={}))
    index = dict(zip(store.Store._fields[-5:], builder.finish(), strict=True))
    same_fields = ranking_agreement(
        webshop.Shop(
            shop.store._replace(**index),
            human_goals=False,
            search=None,
            nouns=shop.nouns,
            prices={},
            seed=0,
        ),
        wanted,
    )
    assert same_fields["hits"] == 1.0
    assert same_fields["top10"] > 0.85 and same_fields["pairs"] > 0.87
    assert all_fields["hits"] > 0.8 and all_fields["top10"] > 0.75


def test_mapped_catalogue_equals_the_one_in_memory(folder, shop, monkeypatch):
    monkeypatch.setattr(store, "SMALL", 0)
    for _ in range(2):  # built and saved, then found again
        mapped = webshop.load(folder)
        for ours, theirs in zip(shop.store, mapped.store, strict=True):
            if isinstance(ours, dict):
                assert ours == theirs
            else:
                assert isinstance(theirs, np.memmap)
                np.testing.assert_array_equal(ours, theirs)
    assert len([p for p in (folder / ".hiper").iterdir() if p.is_dir()]) == 1
    name = shop.goal_ids([7])[0]
    assert mapped.goal(name) == shop.goal(name)
    assert mapped.search("free tea") == shop.search("free tea")


def test_changed_files_make_a_new_catalogue(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SMALL", 0)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.glob("*.json"):
        (copy / path.name).write_bytes(path.read_bytes())
    items = json.loads((copy / "items_shuffle.json").read_text())
    assert webshop.load(copy).num_products == 300
    (copy / "items_shuffle.json").write_text(json.dumps(items[:250]))
    assert webshop.load(copy).num_products == 250


def test_unwritable_folder_uses_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SMALL", 0)
    monkeypatch.setenv("HIPER_CACHE", str(tmp_path / "cache"))
    shop = tmp_path / "shop"
    shop.mkdir()
    for path in folder.glob("*.json"):
        (shop / path.name).write_bytes(path.read_bytes())
    (shop / ".hiper").write_text("in the way")
    assert webshop.load(shop).num_products == 300
    assert list((tmp_path / "cache" / "webshop").glob("items_shuffle-*"))


def test_products_are_cleaned_as_in_the_original(tmp_path):
    entry = {
        "name": "Tea",
        "full_description": None,
        "small_description": "one line",
        "product_category": "Food",
        "query": " Green TEA",
        "pricing": "",
    }
    entries = [
        {**entry, "asin": "B1"},
        {**entry, "asin": "B1", "name": "again"},
        {**entry, "asin": "nan"},
        {**entry, "asin": "ELEVENCHARS"},
        {**entry, "asin": "B2", "pricing": "$5.38$42.12$50", "query": "x"},
        {**entry, "asin": "B3", "pricing": "19.99"},
    ]
    (tmp_path / "items_shuffle_1000.json").write_text(json.dumps(entries))
    (tmp_path / "items_ins_v2_1000.json").write_text(
        json.dumps({"B2": {"attributes": ["a"], "instruction": None}})
    )
    shop = webshop.load(tmp_path)
    assert (shop.num_products, shop.num_goals) == (3, 0)
    first, second, third = (shop.product(asin) for asin in ("B1", "B2", "B3"))
    assert (first.title, first.description, first.bullets) == ("Tea", "", ["one line"])
    assert (first.query, first.price_tag, first.attributes) == (
        "green tea",
        "$100.0",
        ["DUMMY_ATTR"],
    )
    assert (second.price_tag, second.amounts) == ("$5.38 to $42.12", [5.38, 42.12])
    assert 5.38 <= shop.price("B2") <= 42.12 and shop.price("B3") == 100.0
    assert shop.price("B2") == webshop.load(tmp_path).price("B2")
    assert shop.price("B2") != webshop.load(tmp_path, seed=1).price("B2")
    assert webshop.load(tmp_path, prices={"B2": 7.0}).price("B2") == 7.0


def test_synthetic_goals_are_all_combinations(shop):
    by_product = collections.defaultdict(list)
    names = shop.goal_ids(range(shop.num_goals))
    for name in names:
        by_product[name.split("-")[0]].append(shop.goal(name))
    assert len(set(names)) == shop.num_goals
    for asin, found in by_product.items():
        product = shop.product(asin)
        number = math.prod(len(values) for values in product.options.values())
        options = {json.dumps(goal["goal_options"]) for goal in found}
        assert len(found) == len(options) == number
        assert len({goal["price_upper"] for goal in found}) == 1
        for goal in found:
            assert list(goal["goal_options"]) == sorted(product.options)
    weights = [goal["weight"] for found in by_product.values() for goal in found]
    asked = {
        attribute
        for found in by_product.values()
        for goal in found
        for attribute in goal["attributes"]
    }
    share = sum(
        goal["weight"] * len(goal["attributes"])
        for found in by_product.values()
        for goal in found
    )
    assert min(weights) > 0 and share == pytest.approx(len(asked))


@pytest.mark.parametrize("price", [0.5, 10.0, 969.0, 970.0, 979.0, 980.0, 5000.0])
def test_bound_is_the_larger_of_two_of_four(price):
    above = [10.0 * i for i in range(1, 100) if 10.0 * i > price][:4]
    drawn = {goals.draw_bound(price, f"key {i}") for i in range(200)}
    assert drawn == (set(above[1:]) if len(above) > 1 else {1000000})


def test_canonical_splits_are_disjoint_and_whole(folder, shop):
    train, valid = list_goals(shop, "train"), list_goals(shop, "valid")
    assert len(valid.games) == min(500, shop.num_goals // 5)
    assert not set(train.games) & set(valid.games)
    everything = shop.goal_ids(range(shop.num_goals))
    assert sorted(train.games + valid.games) == sorted(everything)
    again = list_goals(webshop.load(folder), "train")
    assert again == train and train.hash != valid.hash
    other = list_goals(webshop.load(folder, seed=5), "train")
    assert other.games == train.games and other.hash != train.hash
    order = list(everything)
    random.Random(233).shuffle(order)
    assert valid.games + train.games == tuple(order)


def test_paper_splits_leak(shop):
    lists = [
        list_goals(shop, "train", protocol="paper", worker=worker) for worker in (0, 1)
    ]
    valid = list_goals(shop, "valid", protocol="paper")
    assert len(valid.games) == 500
    assert len(lists[0].games) == shop.num_goals - 500
    assert set(lists[0].games) != set(lists[1].games)
    order = list(shop.goal_ids(range(shop.num_goals)))
    random.Random(1).shuffle(order)
    assert lists[1].games == tuple(order[500:])
    seen = [set(valid.games) & set(found.games) for found in lists]
    assert leak(shop, workers=1) == len(seen[0]) / 500 > 0
    assert leak(shop, workers=2) == len(seen[0] | seen[1]) / 500 > 0.6
    assert leak(shop, workers=16) > 0.99


def test_wrong_lists_are_said(shop, tmp_path):
    with pytest.raises(ValueError, match="Unknown split 'test'"):
        list_goals(shop, "test")
    with pytest.raises(ValueError, match="Unknown protocol 'x'"):
        list_goals(shop, "train", protocol="x")
    small = webshop.load(make_shop(tmp_path / "s", products=3, seed=0))
    with pytest.raises(ValueError, match="too few for paper train"):
        list_goals(small, "train", protocol="paper")


def broken(tmp_path, name, text):
    for path in GOLDEN.glob("items*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text)
    return tmp_path


GOOD = (GOLDEN / "items_shuffle.json").read_text()
ENTRY = json.loads(GOOD)[0]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("items_shuffle.json", None, r"holds no items_shuffle\*\.json: download"),
        ("items_ins_v2.json", None, "items_ins_v2.json is missing"),
        ("items_human_ins.json", None, "holds no items_human_ins.json"),
        ("items_shuffle.json", GOOD[:5000], "is no whole JSON file"),
        ("items_shuffle.json", GOOD.rstrip()[:-1], "it ends too early"),
        ("items_shuffle.json", "", "it does not begin with"),
        ("items_shuffle.json", "[]", "holds no product"),
        ("items_shuffle.json", "[3]", "entry 0 is broken"),
        ("items_shuffle.json", '[{"asin": "B1"}]', "product B1 has no 'name'"),
        (
            "items_shuffle.json",
            json.dumps([{**ENTRY, "pricing": "$1.2.3"}]),
            r"unreadable price '\$1\.2\.3'",
        ),
        (
            "items_shuffle.json",
            json.dumps([{**ENTRY, "customization_options": {"Color": [3]}}]),
            "unreadable options 'Color'",
        ),
        ("items_ins_v2.json", "[]", "it does not begin with {"),
        ("items_human_ins.json", '{"B0SH7460PG": [{}]}', "has no 'instruction'"),
    ],
)
def test_broken_files_get_one_clear_line(tmp_path, name, text, message):
    folder = broken(tmp_path, name, text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        webshop.load(folder, human_goals=True)
    assert "\n" not in str(caught.value)


def test_wrong_folders_get_one_clear_line(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        webshop.load(tmp_path / "nowhere")
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "items_shuffle_1000.json").write_text("[]")
    with pytest.raises(ValueError, match="several catalogues .* items="):
        webshop.load(tmp_path)
    assert webshop.load(tmp_path, items="items_shuffle.json").num_products == 300
    with pytest.raises(FileNotFoundError, match="items_shuffle_9.json is missing"):
        webshop.load(tmp_path, items="items_shuffle_9.json")


def test_files_are_read_piece_by_piece(tmp_path, monkeypatch):
    """Whatever the pieces' length, the elements are those of the whole."""
    rng = random.Random(0)
    kinds = [1, -2.5e3, "a]},", None, {"k": [1, "\u00e9"], "}": '"'}]
    values = rng.choices(kinds, k=40)
    named = {f"key {i}": value for i, value in enumerate(values)}
    for indent in (None, 2):
        (tmp_path / "array").write_text(json.dumps(values, indent=indent))
        (tmp_path / "object").write_text(" " + json.dumps(named, indent=indent) + "\n")
        for size in (1, 3, 64, 1 << 20):
            monkeypatch.setattr(files, "_CHUNK", size)
            assert list(files.read_array(tmp_path / "array")) == values
            assert dict(files.read_object(tmp_path / "object")) == named


def test_injected_search_is_held_to_the_shop():
    asins = [entry["asin"] for entry in json.loads(GOOD)]
    shop = webshop.load(GOLDEN, search=lambda words: ["B000000000", *asins])
    assert shop.search("anything") == tuple(asins[:50])
    assert re.fullmatch(r"[0-9a-f]{64}", shop.hash)
