"""Porter's stemmer, with his two later changes (-bli -> -ble, -logi -> -log).

Source: M. F. Porter, *An algorithm for suffix stripping*, Program 14(3), 1980, and the
departures of his own later program, which Lucene's English analyzer follows. The
measure m of a stem is how often a vowel is followed by a consonant in it.
"""

_STEP_2 = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("logi", "log"),
)
_STEP_3 = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
_STEP_4 = (
    "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize"
).split()


def stem(word: str) -> str:
    """The stem of a lower-case word; two letters or fewer stay."""
    if len(word) <= 2:
        return word
    word = _plurals(word)
    word = _past_and_progressive(word)
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = f"{word[:-1]}i"
    word = _replace(word, _STEP_2)
    word = _replace(word, _STEP_3)
    word = _drop(word)
    return _tidy(word)


def _plurals(word) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def _past_and_progressive(word) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    ending = next((e for e in ("ed", "ing") if word.endswith(e)), None)
    if ending is None or not _has_vowel(word[: -len(ending)]):
        return word
    word = word[: -len(ending)]
    if word.endswith(("at", "bl", "iz")):
        return f"{word}e"
    if _double_consonant(word):
        return word if word[-1] in "lsz" else word[:-1]
    if _measure(word) == 1 and _short_end(word):
        return f"{word}e"
    return word


def _replace(word, endings) -> str:
    # The first ending that fits decides, whether its stem is long enough or not; the
    # longer of two that both fit stands first.
    for ending, new in endings:
        if word.endswith(ending):
            stem = word[: -len(ending)]
            return stem + new if _measure(stem) > 0 else word
    return word


def _drop(word) -> str:
    for ending in sorted(_STEP_4, key=len, reverse=True):
        if word.endswith(ending):
            stem = word[: -len(ending)]
            if ending == "ion" and not stem.endswith(("s", "t")):
                return word
            return stem if _measure(stem) > 1 else word
    return word


def _tidy(word) -> str:
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _short_end(word[:-1])):
            word = word[:-1]
    if word.endswith("ll") and _measure(word[:-1]) > 1:
        word = word[:-1]
    return word


def _consonants(word) -> list[bool]:
    """Which letters are consonants; y is one at the start and behind a vowel."""
    found = []
    for letter in word:
        if letter == "y":
            found.append(not found or not found[-1])
        else:
            found.append(letter not in "aeiou")
    return found


def _measure(stem) -> int:
    kinds = _consonants(stem)
    return sum(
        second and not first for first, second in zip(kinds, kinds[1:], strict=False)
    )


def _has_vowel(stem) -> bool:
    return not all(_consonants(stem))


def _double_consonant(word) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _consonants(word)[-1]


def _short_end(word) -> bool:
    """Consonant, vowel, consonant other than w, x, y: the end that takes an e."""
    kinds = _consonants(word)[-3:]
    return kinds == [True, False, True] and word[-1] not in "wxy"
