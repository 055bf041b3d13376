"""Words of a text as the terms that are searched for."""

import pytest

from hiper_jax.act.envs.worlds.webshop import porter, scanner


@pytest.mark.parametrize(
    "text, terms",
    [
        ("The Running Shoes", ["run", "shoe"]),
        ("women's 7.5-inch t-shirts", ["women", "7.5", "inch", "t", "shirt"]),
        ("don't 1,000 u.s.a. a_b", ["don't", "1,000", "u.s.a", "a_b"]),
        ("into the not if", []),
        ("\u8336\u53f6 tea", ["\u8336", "\u53f6", "tea"]),
        ("caf\u00e9 & <b>", ["caf\u00e9", "b"]),
    ],
)
def test_terms_are_lucenes(text, terms):
    assert scanner.terms(text) == terms


@pytest.mark.parametrize(
    "words, stem",
    [
        ("caresses", "caress"),
        ("ponies", "poni"),
        ("cats", "cat"),
        ("us", "us"),
        ("agreed", "agre"),
        ("feed", "feed"),
        ("plastered", "plaster"),
        ("sing", "sing"),
        ("conflated", "conflat"),
        ("sized", "size"),
        ("hopping", "hop"),
        ("falling", "fall"),
        ("grokking", "grok"),
        ("filing", "file"),
        ("happy", "happi"),
        ("sky", "sky"),
        ("relational rational", "relat ration"),
        ("conditional digitizer", "condit digit"),
        ("possibly apology", "possibl apolog"),
        ("vietnamization hopefulness", "vietnam hope"),
        ("electrical formative", "electr form"),
        ("adoption station criterion", "adopt station criterion"),
        ("replacement adjustment dependent", "replac adjust depend"),
        ("probate rate cease controlling", "probat rate ceas control"),
        ("oscillators", "oscil"),
    ],
)
def test_stems_by_hand(words, stem):
    assert " ".join(map(porter.stem, words.split())) == stem
