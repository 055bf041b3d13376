"""Reads bracketed text (PDDL) into nested lists, whatever is in it, in linear time."""

import re

MAX_DEPTH = 40  # a goal of ALFWorld's nests 10 deep
MAX_WORDS = 400_000  # its largest problem has some 8,000

_COMMENT = re.compile(r";[^\n]*")
_WORD = re.compile(r"[()]|\?[^\s()?]*|[^\s()?]+")


def read_form(text: str) -> list:
    """Reads one bracketed form.

    Args:
      text: PDDL; comments run from `;` to the end of the line, case means nothing.

    Returns:
      The form: words as lower-case strings, brackets as lists.

    Raises:
      ValueError: brackets do not match, or the text is larger or deeper than any game.
    """
    text = _COMMENT.sub("", text)
    if not text.isascii():
        raise ValueError("it holds characters that PDDL has none of")
    words = _WORD.findall(text.lower())
    if len(words) > MAX_WORDS:
        raise ValueError(f"it has more than {MAX_WORDS:,} words")
    open_forms: list[list] = [[]]
    for word in words:
        if word == "(":
            open_forms.append([])
            if len(open_forms) > MAX_DEPTH:
                raise ValueError(f"its brackets nest deeper than {MAX_DEPTH}")
        elif word == ")":
            form = open_forms.pop()
            if not open_forms:
                raise ValueError("it closes a bracket that was never opened")
            open_forms[-1].append(form)
        else:
            open_forms[-1].append(word)
    if len(open_forms) > 1:
        raise ValueError("it ends inside a bracket")
    (top,) = open_forms
    if len(top) != 1 or not isinstance(top[0], list):
        raise ValueError("it is not one bracketed form")
    return top[0]


def typed(words: list) -> list[tuple[str, str]]:
    """Reads `a b - type c - type`: (name, type) of each; the type is "object" if none.

    Raises:
      ValueError: the list is not of that form.
    """
    found: list[tuple[str, str]] = []
    names: list[str] = []
    rest = iter(words)
    for word in rest:
        if not isinstance(word, str):
            raise ValueError("it declares a bracket where a name should stand")
        if word != "-":
            names.append(word)
            continue
        kind = next(rest, None)
        if not isinstance(kind, str):
            raise ValueError("it declares names without a type")
        found += [(name, kind) for name in names]
        names = []
    return found + [(name, "object") for name in names]
