"""Every setting of every command, and values that it must refuse.

Fields are found in the tree of commands, bad values in their type hints.
"""

import dataclasses
import math
import typing
from typing import Annotated, Any, Literal, NamedTuple

import pytest

from hiper_jax.accept import Filled, Range, Rising
from hiper_jax.experiments import commands
from hiper_jax.experiments.cli import main
from hiper_jax.experiments.flags import Group, Leaf
from hiper_jax.experiments.settings import (
    parts,
)


class Field(NamedTuple):
    """A setting, wherever it stands."""

    command: str
    owner: Any  # the part that it is a field of: an instance or a class
    path: str  # with dots
    hint: Any  # as annotated


def leaves(node: Group | Leaf, words: str = ""):
    if isinstance(node, Leaf):
        yield words.strip(), node
    else:
        for name, member in node.members().items():
            yield from leaves(member, f"{words} {name}")


COMMANDS = dict(leaves(commands.tree(commands.Early())))


def fields_of(command: str) -> list[Field]:
    kind, _, default = COMMANDS[command].load()
    top = default if isinstance(default, kind) else kind
    found = []
    for path, part in parts(top):
        owner = part if isinstance(part, type) else type(part)
        hints = typing.get_type_hints(owner, include_extras=True)
        for field in dataclasses.fields(owner):
            name = ".".join(filter(None, (path, field.name)))
            found.append(Field(command, part, name, hints[field.name]))
    return found


def plain(hint: Any) -> tuple[Any, tuple]:
    """A hint -> what stands inside `Annotated`, and what is said of it."""
    if typing.get_origin(hint) is Annotated:
        return typing.get_args(hint)[0], hint.__metadata__
    return hint, ()


def flag_of(field: Field) -> str:
    """The flag of a setting: its path, or as its hint spells the last part."""
    _, extras = plain(field.hint)
    spelled = [name for extra in extras if (name := getattr(extra, "name", None))]
    path, _, last = field.path.rpartition(".")
    words = [path] if path else []
    return "--" + ".".join([*words, *(spelled or [last])]).replace("_", "-")


def is_value(field: Field) -> bool:
    """Whether a setting is a value, rather than settings of its own."""
    return not dataclasses.is_dataclass(plain(field.hint)[0])


def tried() -> list[Field]:
    """Every field of every class once, in the first command that has it."""
    found: dict[tuple[type, str], Field] = {}
    for command in COMMANDS:
        for field in fields_of(command):
            owner = field.owner if isinstance(field.owner, type) else type(field.owner)
            same = owner.__module__, owner.__qualname__, field.path
            found.setdefault(same, field)
    return list(found.values())


FIELDS = tried()


VALUES = [field for field in FIELDS if is_value(field)]


def named(field: Field) -> str:
    return f"{field.command}: {field.path}"


def bad_values(hint: Any) -> list:
    """Values that settings of this type must refuse."""
    base, extras = plain(hint)
    kind, inner = typing.get_origin(base), typing.get_args(base)
    if kind is Literal:
        return ["nosuch", 3, None]
    if kind is tuple:
        found = ["few", 6]
        for bad in bad_values(inner[0]):
            found.append((bad,) if inner[-1] is Ellipsis else (bad,) * len(inner))
        if inner[-1] is not Ellipsis:
            one = good_number(inner[0])
            found += [(one,), (one,) * (len(inner) + 1)]
        if any(isinstance(extra, Rising) for extra in extras):
            found.append((good_number(inner[0]) + 1, good_number(inner[0])))
        return found
    if base is bool:
        return ["maybe", 3, 0, 1.0, None]
    if base is str:
        filled = any(isinstance(extra, Filled) for extra in extras)
        return ([""] if filled else []) + [3, False, None]
    assert base in (int, float), hint
    found = ["nosuch", math.nan, True, None, [1]]
    found += [-math.inf] + ([1.5] if base is int else [])
    if all(extra.finite for extra in extras if isinstance(extra, Range)):
        found.append(math.inf)
    for bounds in (extra for extra in extras if isinstance(extra, Range)):
        step = 1 if base is int else 1e-6
        if math.isfinite(bounds.least):
            found += [bounds.least - step, -5]
            found += [bounds.least] if bounds.above else []
        if math.isfinite(bounds.most):
            found.append(bounds.most + step)
    return found


def good_number(hint: Any) -> Any:
    base, extras = plain(hint)
    if base is str:
        return "x"
    bounds = next(extra for extra in extras if isinstance(extra, Range))
    return max(bounds.least, -1.0) + 1


def as_flag(field: Field, value: Any) -> list[str] | None:
    """The words that would set it so; None where a command line cannot say it."""
    base, _ = plain(field.hint)
    flag = flag_of(field)
    if base is str:
        return [f"{flag}="] if value == "" else None
    if isinstance(value, tuple):
        words = [str(v) for v in value if isinstance(v, str | int | float)]
        texts = plain(typing.get_args(base)[0])[0] is str
        return None if texts or len(words) < len(value) else [flag, *words]
    if typing.get_origin(base) is tuple or value is None or isinstance(value, list):
        return None
    return None if value is True and base is not bool else [f"{flag}={value}"]


def flags_of(field: Field) -> list[list[str]]:
    """Some of the bad values as flags: they are the same checks, and a parser each."""
    words = [as_flag(field, value) for value in bad_values(field.hint)]
    said = [w for w in words if w is not None]
    return said[:2] + said[4:][-1:]


def needed_words(command: str, besides: Field) -> list[str]:
    """Words without which a command says that something is missing."""
    found = []
    for field in fields_of(command):
        if not isinstance(field.owner, type) or field.path == besides.path:
            continue
        (made,) = (f for f in dataclasses.fields(field.owner) if f.name == field.path)
        if made.default is dataclasses.MISSING:
            word = str((*typing.get_args(plain(field.hint)[0]), "somewhere")[0])
            flag = flag_of(field)
            found += [word] if positional(field) else [flag, word]
    return found


def positional(field: Field) -> bool:
    return any("Positional" in repr(extra) for extra in plain(field.hint)[1])


def refusal(capsys, words: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == ""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("hiper: "), said.err
    return lines[0]


def names(said: str, path: str) -> bool:
    """Whether a line names a setting, as a flag or with its dotted path."""
    return path.replace("_", "-") in said.replace("_", "-")
