"""Text -> search terms, close to Lucene's English analyzer.

The same steps in the same order: words by Unicode's rules, lower case, no possessive
's, no stop words, Porter's stemmer. What differs:

* Words are cut by a regular expression for the rules that matter in product texts
  (letters and digits, a point or apostrophe between letters, a point or comma between
  digits, single CJK signs); emoji and scripts without spaces (Thai, Khmer) are cut
  otherwise than by Lucene.
* Words of more than 255 letters are kept whole.
"""

import re

from hiper_jax.act.envs.worlds.webshop import porter

_STOP = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the "
    "their then there these they this to was will with".split()
)
_IDEOGRAPH = "\u3041-\u3096\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = rf"[^\W\d_{_IDEOGRAPH}]"
_WORD = re.compile(
    rf"[{_IDEOGRAPH}]"
    rf"|[^\W{_IDEOGRAPH}]+"
    rf"(?:(?:(?<=\d)[.,;](?=\d)|(?<={_LETTER})['.:\u2018\u2019\u00b7](?={_LETTER}))"
    rf"[^\W{_IDEOGRAPH}]+)*"
)
_POSSESSIVE = ("'s", "\u2019s", "\uff07s")


def words(text: str) -> list[str]:
    """Cuts a text into lower-case words."""
    return _WORD.findall(text.lower())


def term(word: str) -> str:
    """The search term of a lower-case word; "" for a stop word."""
    if word.endswith(_POSSESSIVE):
        word = word[:-2]
    return "" if word in _STOP else porter.stem(word)


def terms(text: str) -> list[str]:
    """The search terms of a text, in order, repetitions kept."""
    return [found for word in words(text) if (found := term(word))]
