"""Finds WebShop's data files and reads them piece by piece.

The full catalogue is one JSON array of several gigabytes; parsed at once it would take
many times that in memory. Here one element is decoded at a time.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

_CHUNK = 1 << 20
_BLANK = (" ", "\t", "\r", "\n")
_decode = json.JSONDecoder().raw_decode


class Files(NamedTuple):
    """The data files of one catalogue."""

    items: pathlib.Path  # items_shuffle*.json
    instructions: pathlib.Path  # items_ins_v2*.json
    human: pathlib.Path | None  # items_human_ins.json, where there is one


def find_files(directory: str | os.PathLike, items: str | None = None) -> Files:
    """Finds the three data files of a catalogue.

    Args:
      directory: the folder they lie in.
      items: the product file's name, where the folder holds several catalogues.

    Raises:
      FileNotFoundError: the folder or a file is missing.
      ValueError: the folder holds several catalogues and `items` does not say which.
    """
    folder = pathlib.Path(directory).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder: give the one that holds WebShop's data files, or "
            "make a shop."
        )
    if items is None:
        found = sorted(path.name for path in folder.glob("items_shuffle*.json"))
        if not found:
            raise FileNotFoundError(
                f"{folder} holds no items_shuffle*.json: download WebShop's data "
                "files, or make a shop."
            )
        if len(found) > 1:
            raise ValueError(
                f"{folder} holds several catalogues ({', '.join(found)}): say which "
                "one with items=."
            )
        items = found[0]
    path = folder / items
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: give a product file's name.")
    suffix = items.removeprefix("items_shuffle")
    human = folder / "items_human_ins.json"
    return Files(path, _instructions(folder, suffix), human if human.exists() else None)


def _instructions(folder, suffix) -> pathlib.Path:
    exact = folder / f"items_ins_v2{suffix}"
    if exact.is_file():
        return exact
    found = sorted(folder.glob("items_ins_v2*.json"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{exact} is missing: WebShop's attributes and instructions belong beside "
            "its products."
        )
    return found[0]


def read_array(path: pathlib.Path) -> Iterator:
    """Yields the elements of a JSON array, one at a time."""
    for _, value in _elements(path, "[", "]"):
        yield value


def read_object(path: pathlib.Path) -> Iterator[tuple]:
    """Yields the (key, value) pairs of a JSON object, one at a time."""
    yield from _elements(path, "{", "}")


def _elements(path, opening, closing) -> Iterator[tuple]:
    """Yields (key, value); the key is None in an array."""
    try:
        with open(path, encoding="utf-8") as file:
            text, size = file.read(_CHUNK), _CHUNK
            while text.isspace():
                text = file.read(_CHUNK)
            place = _skip(text, 0)
            if text[place : place + 1] != opening:
                raise ValueError(f"it does not begin with {opening}")
            place, first = place + 1, True
            while True:
                try:
                    element, end = _element(text, place, closing, first)
                except (ValueError, IndexError):
                    # Perhaps the element only goes on behind what has been read.
                    more = file.read(size)
                    if not more:
                        raise
                    text, place, size = text[place:] + more, 0, 2 * size
                    continue
                if element is None:
                    return
                yield element
                place, size, first = end, _CHUNK, False
    except (ValueError, IndexError, RecursionError) as error:
        reason = "it ends too early" if isinstance(error, IndexError) else error
        raise ValueError(
            f"{path} is no whole JSON file ({reason}): download or make it again."
        ) from error


def _element(text, place, closing, first):
    """Decodes one element; None at the closing bracket."""
    place = _skip(text, place)
    if text[place] == closing:
        return None, place
    if not first:
        place = _expect(text, place, ",")
    key = None
    if closing == "}":
        key, place = _decode(text, place)
        place = _expect(text, _skip(text, place), ":")
    value, end = _decode(text, place)
    end = _skip(text, end)
    if text[end] not in (",", closing):  # perhaps a number that goes on
        raise ValueError(f"expected a comma, found {text[end]!r}")
    return (key, value), end


def _expect(text, place, character) -> int:
    if text[place] != character:
        raise ValueError(f"expected {character!r}, found {text[place]!r}")
    return _skip(text, place + 1)


def _skip(text, place) -> int:
    while text[place : place + 1] in _BLANK:
        place += 1
    return place
