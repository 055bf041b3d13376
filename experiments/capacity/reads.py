"""What a step of a loop takes from a device's memory, by the text of its program.

Counted are the operations of the loop's body: what they read of memory and write to
it. Arrays that lie nearer to the arithmetic (a TPU's VMEM, marked `S(1)`) cost nothing,
a copy that is begun and awaited counts once, and of an array from which an operation
only takes a part, or in which it changes one, that part counts.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from hiper_jax.experiments.capacity.traffic import computations, size_of

_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b[a-z]+\d*\[[\d,]*\](?:\{[^{}]*\})?")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_CALLS = re.compile(r"\bcalls=%?([\w.\-]+)")
# Names for what is there already, or what an earlier line counts.
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "iota"}
_FREE |= {"while", "after-all", "partition-id", "replica-id"}
_TAKES = ("gather", "dynamic-slice")
_CHANGES = "dynamic-update-slice"


class Line(NamedTuple):
    """An operation of a computation."""

    result: str  # shapes and layouts, as written
    kind: str
    operands: list[str]  # names
    rest: str  # all that follows its name


def of_loop(text: str) -> int:
    """Bytes that one step of a program's largest loop reads and writes.

    Args:
      text: `jax.stages.Compiled.as_text()`.

    Raises:
      ValueError: the program has no loop.
    """
    found, _ = computations(text)
    bodies = [found[name] for name in _BODY.findall(text) if name in found]
    if not bodies:
        raise ValueError("the program has no loop")
    body = _lines(max(bodies, key=len))
    return sum(_bytes(line, body, found) for line in body.values())


def _lines(written: list[str]) -> dict[str, Line]:
    found = {}
    for text in written:
        if made := _LINE.match(text):
            name, result, kind, rest = made.groups()
            inside = re.sub(r"\{[^{}]*\}", "", rest).split(")")[0]
            found[name] = Line(result, kind, re.findall(r"%([\w.\-]+)", inside), rest)
    return found


def _bytes(line: Line, body: Mapping[str, Line], found: Mapping[str, list[str]]) -> int:
    if line.kind in _FREE or line.kind.endswith("-done"):
        return 0
    if line.kind in ("copy-start", "slice-start", "async-start"):
        # Where from, where to: as much as arrives is read, and written.
        ends = _ARRAY.findall(line.result)[:2]
        moved = min(map(size_of, ends))
        return sum(moved for array in ends if _in_memory(array))
    given = [body[name] for name in line.operands if name in body]
    if line.kind == _CHANGES:
        return 2 * _held(given[1].result) if _in_memory(line.result) else 0
    if line.kind in _TAKES:
        read = size_of(line.result) if _in_memory(given[0].result) else 0
        return read + _held(line.result)
    inner = _CALLS.search(line.rest) if line.kind == "fusion" else None
    parts = _parts(_lines(found[inner[1]])) if inner and inner[1] in found else {}
    total = _held(line.result)
    for place, operand in enumerate(given):
        if place not in parts:
            total += _held(operand.result)
        elif _held(operand.result):
            part, changed = parts[place]
            total += part
            if changed and operand.result.split("{")[0] in line.result:
                # It is changed where it lies: the rest is not written again.
                total -= _held(operand.result) - part
    return total


def _parts(inside: Mapping[str, Line]) -> dict[int, tuple[int, bool]]:
    """Place of a parameter of which only parts are used -> their bytes, if changed."""
    found = {}
    for name, line in inside.items():
        if line.kind != "parameter":
            continue
        uses = [u for u in inside.values() if name in u.operands]
        first = all(u.operands[0] == name for u in uses)
        place = int(line.rest.split(")")[0])
        if uses and first and all(u.kind in _TAKES for u in uses):
            found[place] = sum(size_of(use.result) for use in uses), False
        elif len(uses) == 1 and first and uses[0].kind == _CHANGES:
            found[place] = size_of(inside[uses[0].operands[1]].result), True
    return found


def _in_memory(array: str) -> bool:
    return "S(1)" not in array and "S(2)" not in array


def _held(shapes: str) -> int:
    """Bytes of those arrays of a result that lie in the device's memory."""
    return sum(size_of(array) for array in _ARRAY.findall(shapes) if _in_memory(array))
