"""A setting says in its type hint what it accepts, and refuses all else by name."""

import dataclasses
import math
from typing import Annotated, Literal

import numpy as np
import pytest

from hiper_jax import accept
from hiper_jax.accept import (
    Count,
    Filled,
    Name,
    NotNegative,
    Penalty,
    Positive,
    Range,
    Rising,
    Seed,
    SettingError,
    Share,
    Span,
    Whole,
)


@dataclasses.dataclass(frozen=True)
class Part:
    gamma: Share = 1.0
    clip: Annotated[float, Range(0, finite=False)] = math.inf

    def __post_init__(self):
        accept.check_fields(self)


@dataclasses.dataclass(frozen=True)
class Everything:
    rate: Positive = 1.0
    norm: NotNegative = 0.0
    penalty: Penalty = 0.0
    shift: float = -1.0
    chunk: Count = 8
    rank: Whole = 0
    seed: Seed = 0
    rooms: Span = (6, 9)
    names: tuple[str, ...] = ()
    levels: Annotated[tuple[float, ...], Rising()] = (0.5, 0.5, 1.0)
    on: bool = False
    kind: Literal["k1", "k2", "k3"] = "k1"
    text: str = ""
    out: Name = "runs"
    part: Part = Part()
    maybe: Count | None = None

    def __post_init__(self):
        accept.check_fields(self)


BAD = {
    "rate": [0, 0.0, -1.0, math.nan, math.inf, "1", True, None, [1.0]],
    "norm": [-1e-9, math.nan, -math.inf, "x", False],
    "penalty": [-0.3, math.nan, math.inf],
    "shift": [math.nan, math.inf, -math.inf, "0", True, 10**400],
    "chunk": [0, -1, 0.0, 2.5, math.nan, math.inf, "8", True, None],
    "rank": [-1, 0.5, "x", False],
    "seed": [-1, 2**32, 1.5, "0"],
    "rooms": [(9, 6), (0, 3), (6,), (6, 7, 8), 6, "67", (6, 7.5), ("6", "7")],
    "names": ["abc", (1,), 3],
    "levels": [(1.0, 0.5), (math.nan,), ("x",)],
    "on": [0, 1, "true", None],
    "kind": ["x", "K1", 1, None, ""],
    "text": [3, None, True],
    "out": ["", "  ", 3],
    "part": [3, {"gamma": 1.0}, None],
    "maybe": [0, -1, "x", 1.5],
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in BAD.items() for v in values]
)
def test_a_bad_value_is_refused_in_one_line_with_its_name(name, value):
    with pytest.raises(SettingError) as caught:
        Everything(**{name: value})
    said = str(caught.value)
    assert said.startswith(f"{name} must be ") and ", got " in said
    assert "\n" not in said and len(said) < 250
    assert caught.value.name == name and caught.value.owner is Everything


def test_every_kind_of_field_is_tried():
    assert set(BAD) == {field.name for field in dataclasses.fields(Everything)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 1e-30),
        ("norm", 0),
        ("penalty", 0.3),
        ("shift", -5),
        ("chunk", 1),
        ("rank", 0),
        ("seed", 2**32 - 1),
        ("rooms", (6, 6)),
        ("names", ("a", "b")),
        ("levels", ()),
        ("on", True),
        ("kind", "k3"),
        ("text", "anything"),
        ("maybe", 3),
        ("part", Part(gamma=0)),
    ],
)
def test_a_good_value_is_kept(name, value):
    assert getattr(Everything(**{name: value}), name) == value


def test_numbers_and_lists_become_pythons_own():
    made = Everything(
        rate=np.float32(0.5), chunk=np.int64(3), shift=2, rooms=[np.int32(6), 7]
    )
    assert made == Everything(rate=0.5, chunk=3, shift=2.0, rooms=(6, 7))
    assert [type(v) for v in (made.rate, made.chunk, made.shift, made.rooms[0])] == [
        float,
        int,
        float,
        int,
    ]
    assert type(Everything(chunk=1e2).chunk) is int
    assert hash(made) == hash(Everything(rate=0.5, chunk=3, shift=2.0, rooms=(6, 7)))


def test_replacing_checks_again_and_inherited_fields_are_checked():
    with pytest.raises(SettingError, match="^gamma must be a number from 0 to 1"):
        dataclasses.replace(Part(), gamma=1.5)

    @dataclasses.dataclass(frozen=True)
    class More(Part):
        steps: Count = 1

    with pytest.raises(SettingError, match="^gamma "):
        More(gamma=math.nan)
    with pytest.raises(SettingError, match="^steps "):
        More(steps=0)


def test_infinity_passes_where_it_is_allowed_and_nan_nowhere():
    assert Part(clip=math.inf).clip == math.inf
    with pytest.raises(SettingError, match="^clip must be a number, 0 or more"):
        Part(clip=math.nan)


def test_a_negative_penalty_is_told_of_the_convention():
    with pytest.raises(SettingError, match="subtracted, so that 0.1 takes 0.1 off"):
        Everything(penalty=-0.1)


def test_a_path_goes_before_the_name():
    with pytest.raises(SettingError) as caught:
        Part(gamma=2)
    inner = caught.value.within("learn")
    assert str(inner) == "learn.gamma must be a number from 0 to 1, got 2"
    assert inner.owner is Part and inner.name == "learn.gamma"


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Share, "a number from 0 to 1"),
        (Positive, "a number above 0"),
        (Count, "a whole number, 1 or more"),
        (float, "a finite number"),
        (int, "a whole number"),
        (Annotated[float, Range(most=3)], "a number, 3 or less"),
        (Annotated[float, Range(0, 1, above=True)], "a number above 0, 1 at most"),
        (
            Span,
            "2 values, each a whole number, 1 or more, none smaller than the one "
            "before",
        ),
        (tuple[str, ...], "a list, each a text"),
        (tuple[int, str], "2 values, each a whole number; a text"),
        (Literal["a", "b", "c"], "a, b or c"),
        (Literal["a"], "a"),
        (Count | None, "a whole number, 1 or more or none"),
        (bool, "true or false"),
        (Annotated[str, Filled()], "a text that is not empty"),
        (Part, "settings of its own (Part)"),
        (dict, "a dict"),
    ],
)
def test_what_would_do_is_said_in_words(hint, words):
    assert accept.wanted(hint) == words
