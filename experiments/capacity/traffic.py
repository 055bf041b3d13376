"""What a compiled program sends between devices, and how much of it between hosts.

The text of the program is walked from its entrance; a loop counts as often as it runs.

    all-gather of s bytes over n devices      every device sends (n - 1) / n s
    reduce-scatter that leaves s bytes        (n - 1) s
    all-reduce of s bytes                     2 (n - 1) / n s
    all-to-all of s bytes                     (n - 1) / n s

Into a host comes at least what its devices lack and others have: with n devices on h
hosts an all-gather brings (h - 1) / h of s into each, and so on with h in n's place.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

# Bytes sent per byte of the result by each of n.
SENT: Mapping[str, Callable[[int], float]] = {
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
}
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_SIZES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_NAMED = re.compile(r"(?:body|to_apply|calls)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(SENT)})(-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_OP = re.compile(r'op_name="([^"]*)"')


class Sent(NamedTuple):
    """A collective operation of a program."""

    kind: str
    size: int  # bytes of its result, a device's
    groups: np.ndarray  # [G, n] devices that take part together
    times: int  # how often it runs
    name: str  # where in the source

    def by_device(self) -> float:
        """Bytes that each device sends, all times together."""
        return self.times * self.size * SENT[self.kind](self.groups.shape[1])

    def into_host(self, per_host: int) -> float:
        """Bytes that come into a host at least, all times together.

        Groups that have the same devices' hosts in common each bring their own.
        """
        hosts = self.groups // per_host
        most = 0.0
        for host in np.unique(hosts):
            total = 0.0
            for group in hosts[(hosts == host).any(axis=1)]:
                there, n = len(np.unique(group)), len(group)
                # A reduce-scatter leaves a host n / there shards of its own.
                size = self.size * (n // there if self.kind == "reduce-scatter" else 1)
                total += size * SENT[self.kind](there)
            most = max(most, total)
        return self.times * most


def sent(text: str, times: Callable[[str], int]) -> list[Sent]:
    """The collective operations of a compiled program, from its text.

    Args:
      text: `jax.stages.Compiled.as_text()`.
      times: the name of a loop in the source -> how often it runs, for loops whose
        count is data; of a choice the first branch is taken.
    """
    found, entry = computations(text)
    return list(_walk(found, entry, 1, times))


def loops_of(rows: int, minibatch: int, chunk: int, heads: int) -> Callable[[str], int]:
    """How often the loops of an update run, whose counts are data: for `sent`.

    Args:
      rows: of the batch.
      minibatch, chunk: rows of an optimizer step and of what is fed at once.
      heads: chunks of states that the head is applied to, of one chunk of rows.
    """

    def times(name: str) -> int:
        words = re.sub(r"\w+\(|\)", "", name).split("/")
        *_, scope, _ = ["", *(word for word in words if word != "shard_map")]
        if scope == "score":
            return heads
        if scope == "gradient":
            return -(-minibatch // chunk)
        if scope in ("values", "reference", "teacher"):
            return -(-rows // chunk)
        return -(-rows // minibatch)

    return times


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation of a program's text, and its entrance's name."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            lines = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("  "):
            lines.append(line)
    return found, entry


def _walk(
    computations: dict[str, list[str]],
    name: str,
    factor: int,
    times: Callable[[str], int],
) -> Iterator[Sent]:
    for line in computations.get(name, ()):
        where = found[1] if (found := _OP.search(line)) else ""
        if made := _COLLECTIVE.search(line):
            size = size_of(made[1]) // (2 if made[3] else 1)
            yield Sent(made[2], size, _groups(line), factor, where)
            continue
        count = factor
        if " while(" in line:
            known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            count *= int(known[1]) if known else times(where)
        inner = _NAMED.findall(line)
        if branches := _BRANCHES.search(line):
            inner.append(branches[1].split(",")[0].strip().lstrip("%"))
        for other in inner:
            yield from _walk(computations, other, count, times)


def size_of(shapes: str) -> int:
    """Bytes of the arrays that a program's text names."""
    return sum(
        _SIZES.get(kind, 4) * math.prod(int(n) for n in sizes.split(",") if n)
        for kind, sizes in _SHAPE.findall(shapes)
    )


def _groups(line: str) -> np.ndarray:
    """[G, n] devices, from each of the three ways that XLA writes them."""
    listed = re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", line)
    if listed:
        groups = re.findall(r"\{([\d,]+)\}", listed[1])
        return np.array([[int(x) for x in group.split(",")] for group in groups])
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^ ]*)\))? \{([^}]*)\}",
        line,
    )
    if named:
        return _along(named[1], named[2], named[3])
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=(\S*?),? ", line + " ")
    if counted is None:
        raise ValueError(f"a collective of unknown groups: {line.strip()[:160]}")
    return _counted(counted[2]).reshape([int(x) for x in counted[1].split(",")])


def _counted(written: str) -> np.ndarray:
    """Devices in an order such as [2,4]T(1,0): counted up in two rows, turned over."""
    sizes, _, axes = written.partition("T")
    over = [int(x) for x in sizes.strip("[]").split(",")]
    ids = np.arange(math.prod(over)).reshape(over)
    if axes:
        ids = ids.transpose([int(x) for x in axes.strip("()").split(",")])
    return ids


def _along(mesh: str, order: str | None, axes: str) -> np.ndarray:
    """Groups along axes of a mesh: 'a'=2,'b'=4 and 'b', or 'b':(2)2 for a part of it.

    A part of size m behind k is the middle of an axis that is cut into k, m and the
    rest.
    """
    sizes = [(name, int(n)) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh)]
    cut = re.findall(r"'(\w+)':\((\d+)\)(\d+)", axes)
    parts = {name: (int(k), int(m)) for name, k, m in cut}
    asked = re.findall(r"'(\w+)'", axes)
    shape: list[int] = []
    place: dict[str, int] = {}
    for name, size in sizes:
        k, m = parts.get(name, (1, size))
        place[name] = len(shape) + 1
        shape += [k, m, size // (k * m)]
    ids = np.arange(math.prod(shape)) if order is None else _counted(order)
    along = [place[name] for name in asked]
    ids = np.moveaxis(ids.reshape(shape), along, range(-len(along), 0))
    return ids.reshape(-1, math.prod(shape[i] for i in along))
