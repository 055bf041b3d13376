"""What a setting accepts: its type hint says it, and making the settings checks it.

    @dataclasses.dataclass(frozen=True)
    class Discounts:
        gamma: Share = 1.0
        horizon: Count = 50
        bootstrap: Literal["none", "same_state"] = "none"

        def __post_init__(self):
            check_fields(self)

    Discounts(gamma=2.0)  # ValueError: gamma must be a number from 0 to 1, got 2.0

One convention: a penalty is a number of 0 or more that is subtracted.
"""

import dataclasses
import functools
import math
import numbers
import reprlib
import types
import typing
from typing import Annotated, Any, Literal


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, for `Annotated`; a number without any is only finite."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False  # the least itself is refused
    finite: bool = True  # inf is refused; NaN always is
    note: str = ""  # said after the bounds where a value is refused


@dataclasses.dataclass(frozen=True)
class Rising:
    """For `Annotated`: each entry of a tuple is at least the one before."""


@dataclasses.dataclass(frozen=True)
class Filled:
    """For `Annotated`: a text that is not empty."""


Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Penalty = Annotated[
    float, Range(0, note="a penalty is subtracted, so that 0.1 takes 0.1 off")
]
Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
# Of what is made and listed one by one; nobody means more.
Several = Annotated[int, Range(1, 10_000_000)]
SeveralOrNone = Annotated[int, Range(0, 10_000_000)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Span = Annotated[tuple[Count, Count], Rising()]
Name = Annotated[str, Filled()]


class SettingError(ValueError):
    """A setting has a value that it does not accept; one line.

    Attributes:
      owner: the settings' class.
      name: the setting, with the dotted path to it where that is known.
      fault: the rest of the line: what would do, and what was given.
    """

    def __init__(self, owner: type, name: str, fault: str):
        super().__init__(f"{name} {fault}")
        self.owner, self.name, self.fault = owner, name, fault

    def within(self, path: str) -> "SettingError":
        """The same, said of settings that stand under `path` in larger ones."""
        return SettingError(self.owner, f"{path}.{self.name}", self.fault)


def check_fields(settings: Any) -> None:
    """Checks every field against its type hint; call it in `__post_init__`.

    Numbers come out as Python's own and of the hint's kind (1 as 1.0, 1e2 as 100) and
    lists as tuples, so that equal settings have equal records.

    Args:
      settings: a dataclass's instance, frozen or not.

    Raises:
      SettingError: naming the field, what would do and the value.
    """
    hints = _hints(type(settings))
    for field in dataclasses.fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        fitting = _converted(value, hint)
        if not fits(fitting, hint):
            raise SettingError(
                type(settings),
                field.name,
                f"must be {wanted(hint)}, got {_shown(value)}",
            )
        if fitting is not value:
            object.__setattr__(settings, field.name, fitting)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is one that the type hint allows."""
    base, extras = _taken_apart(hint)
    kind, inner = typing.get_origin(base), typing.get_args(base)
    if kind is Literal:
        return any(value == word and type(value) is type(word) for word in inner)
    if kind in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if kind is tuple:
        return isinstance(value, tuple) and _tuple_fits(value, inner, extras)
    if base in (int, float):
        if type(value) is not base:
            return False
        return all(_in_range(value, r) for r in _ranges(extras))
    if base is str and any(isinstance(extra, Filled) for extra in extras):
        return isinstance(value, str) and bool(value.strip())
    return not isinstance(base, type) or isinstance(value, base)


def wanted(hint: Any) -> str:
    """What a type hint allows, in words that go on after "must be"."""
    base, extras = _taken_apart(hint)
    kind, inner = typing.get_origin(base), typing.get_args(base)
    if kind is Literal:
        return _either([str(word) for word in inner])
    if kind in (typing.Union, types.UnionType):
        return _either([wanted(one) for one in inner])
    if kind is tuple:
        return _tuple_wanted(inner, extras)
    if base in (int, float):
        return " and ".join(_number_wanted(base, r) for r in _ranges(extras))
    if base is bool:
        return "true or false"
    if base is str:
        filled = any(isinstance(extra, Filled) for extra in extras)
        return "a text that is not empty" if filled else "a text"
    if base is type(None):
        return "none"
    if dataclasses.is_dataclass(base):
        return f"settings of its own ({getattr(base, '__name__', base)})"
    return f"a {getattr(base, '__name__', base)}"


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _taken_apart(hint: Any) -> tuple[Any, tuple]:
    """A hint -> what stands inside `Annotated`, and what is said of it."""
    if typing.get_origin(hint) is Annotated:
        return typing.get_args(hint)[0], hint.__metadata__
    return hint, ()


def _ranges(extras: tuple) -> list[Range]:
    return [extra for extra in extras if isinstance(extra, Range)] or [Range()]


def _in_range(value: float, bounds: Range) -> bool:
    if math.isnan(value) or (bounds.finite and math.isinf(value)):
        return False
    if bounds.above and value == bounds.least:
        return False
    return bounds.least <= value <= bounds.most


def _tuple_fits(value: tuple, inner: tuple, extras: tuple) -> bool:
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(value) != len(inner):
        return False
    if not all(fits(v, hint) for v, hint in zip(value, inner, strict=True)):
        return False
    rising = any(isinstance(extra, Rising) for extra in extras)
    return not rising or list(value) == sorted(value)


def _tuple_wanted(inner: tuple, extras: tuple) -> str:
    rising = any(isinstance(extra, Rising) for extra in extras)
    order = ", none smaller than the one before" if rising else ""
    if len(inner) == 2 and inner[1] is Ellipsis:
        return f"a list, each {wanted(inner[0])}{order}"
    same = all(hint == inner[0] for hint in inner)
    each = wanted(inner[0]) if same else "; ".join(map(wanted, inner))
    return f"{len(inner)} values, each {each}{order}"


def _number_wanted(base: type, bounds: Range) -> str:
    number = "a whole number" if base is int else "a number"
    low, high = f"{bounds.least:.16g}", f"{bounds.most:.16g}"
    if math.isinf(bounds.least) and math.isinf(bounds.most):
        text = number if base is int else "a finite number"
    elif math.isinf(bounds.least):
        text = f"{number}, {high} or less"
    elif math.isinf(bounds.most):
        text = f"{number} above {low}" if bounds.above else f"{number}, {low} or more"
    elif bounds.above:
        text = f"{number} above {low}, {high} at most"
    else:
        text = f"{number} from {low} to {high}"
    return f"{text} ({bounds.note})" if bounds.note else text


def _converted(value: Any, hint: Any) -> Any:
    """Python's own number for any library's; a tuple for a list; else untouched."""
    base, _ = _taken_apart(hint)
    kind, inner = typing.get_origin(base), typing.get_args(base)
    if kind is tuple and isinstance(value, list | tuple):
        if len(inner) == 2 and inner[1] is Ellipsis:
            inner = (inner[0],) * len(value)
        if len(inner) != len(value):
            return value
        made = tuple(_converted(v, h) for v, h in zip(value, inner, strict=True))
        same = isinstance(value, tuple) and all(
            a is b for a, b in zip(made, value, strict=True)
        )
        return value if same else made
    if isinstance(value, bool) or type(value) is base:
        return value
    if base is int and _is_whole(value):
        return int(value)
    if base is float and isinstance(value, numbers.Real):
        return _float(value)
    return value


def _is_whole(value: Any) -> bool:
    """Whether a number is whole however it is written: 100 and 1e2 are."""
    if isinstance(value, numbers.Integral):
        return True
    return isinstance(value, numbers.Real) and float(value).is_integer()


def _float(value: Any) -> Any:
    try:
        return float(value)
    except OverflowError:  # an int with hundreds of digits
        return math.inf


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if words[:-1] else words)


def _shown(value: Any) -> str:
    # A file may name a list in another many times over; written out it has no end.
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 3, 200, 200, 100
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = 30
    try:
        text = " ".join(short.repr(value).split())
    except ValueError:
        text = "a number of more digits than can be shown"
    return text if len(text) <= 80 else text[:77] + "..."
