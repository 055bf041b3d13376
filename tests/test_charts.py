"""Charts: numbers in their place, in words, and readable by everybody."""

import pathlib
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import hiper_jax.experiments.report
from hiper_jax.experiments.report import charts
from hiper_jax.experiments.report.charts import Line, chart, shown, ticks

FOLDER = pathlib.Path(hiper_jax.experiments.report.__file__).parent


def one(*lines, **options):
    return chart("name", "Title", "Caption", lines, **options)


def numbers(path):
    return [float(x) for x in re.findall(r"-?[\d.]+", path)]


def test_points_lie_where_their_values_say():
    """x: 1 to 3 over the width; y: 0 to 1 with 6 % of room above and below."""
    svg = ElementTree.fromstring(
        one(Line("a", [1, 2, 3], [0.0, 0.5, 1.0]), percent=True).svg
    )
    path = next(p for p in svg.iter("path") if p.get("stroke-width") == "2")
    at = np.array(numbers(path.get("d"))).reshape(3, 2)
    width, height = charts.SIZE
    left, right = charts.LEFT, width - charts.RIGHT
    np.testing.assert_allclose(at[:, 0], [left, (left + right) / 2, right], atol=0.06)
    tall = height - charts.TOP - charts.BOTTOM
    expected = charts.TOP + tall * (1 - (np.array([0, 0.5, 1]) + 0.06) / 1.12)
    np.testing.assert_allclose(at[:, 1], expected, atol=0.06)


def test_a_gap_stays_a_gap_and_a_single_value_is_seen():
    nan = float("nan")
    made = one(Line("a", [1, 2, 3, 4], [1.0, nan, 2.0, 3.0]))
    path = next(
        p for p in ElementTree.fromstring(made.svg).iter("path") if p.get("fill")
    )
    assert path.get("d").count("M") == 2 and path.get("d").count("L") == 1
    assert made.table[2] == ("2", "") and made.table[3] == ("3", "2")
    assert "<circle" in one(Line("a", [1], [1.0])).svg and "<circle" not in made.svg


def test_a_band_goes_along_its_upper_and_back_along_its_lower_ends():
    made = one(Line("a", [0, 1], [0.5, 0.5], [0.25, 0.0], [0.75, 1.0]), percent=True)
    svg = ElementTree.fromstring(made.svg)
    path = next(p for p in svg.iter("path") if p.get("fill-opacity") == ".16")
    x, y = np.array(numbers(path.get("d"))).reshape(4, 2).T
    assert x[0] == x[3] < x[1] == x[2] and y[1] < y[0] < y[3] < y[2]


def test_parts_of_a_whole_stand_on_each_other():
    made = one(
        Line("a", [1, 2], [0.25, 0.5]), Line("b", [1, 2], [0.75, 0.5]), stacked=True
    )
    areas = [
        np.array(numbers(p.get("d"))).reshape(4, 2)
        for p in ElementTree.fromstring(made.svg).iter("path")
        if p.get("stroke") == "#fff"
    ]
    np.testing.assert_array_equal(areas[0][:2], areas[1][:1:-1])
    alone = one(Line("a", [1], [1.0]), stacked=True)
    assert len(set(numbers(alone.svg.split('<path d="M')[-2]))) > 2  # it has a width


def test_numbers_are_in_the_words_in_the_table_and_under_the_pointer():
    made = one(
        Line("won", [1, 2, 3], [0.5, 0.25, 1.0]),
        Line("lost", [2], [0.75]),
        percent=True,
    )
    words = ElementTree.fromstring(made.svg).get("aria-label")
    for expected in (
        "Title. won: 50.0 % at iteration 1, 100.0 % at 3",
        "least 25.0 % at 2",
        "most 100.0 % at 3",
        "lost: 75.0 % at iteration 2",
    ):
        assert expected in words
    assert made.table == (
        ("iteration", "won", "lost"),
        ("1", "50.0 %", ""),
        ("2", "25.0 %", "75.0 %"),
        ("3", "100.0 %", ""),
    )
    titles = [t.text for t in ElementTree.fromstring(made.svg).iter("title")]
    assert titles[1] == "iteration 2\nwon 25.0 %\nlost 75.0 %"
    long = one(Line("a", np.arange(1000), np.zeros(1000)))
    assert len(long.table) == charts.STOPS + 1 and long.table[-1][0] == "999"


def test_names_of_others_are_names():
    attack = '"><script>alert(1)</script>\u202e&'
    made = one(Line(attack, [1], [1.0]), Line("b", [1], [1.0]), along=attack)
    for source in (made.svg, made.file, made.legend):
        ElementTree.fromstring(source)
        assert "<script" not in source and "\u202e" not in source
        assert "\\u202e" in source


@pytest.mark.parametrize("low", [0, -3.7, 1e-6, 123456.0])
@pytest.mark.parametrize("wide", [0.0, 1e-7, 1.06, 30, 4e5])
def test_ticks_are_few_round_and_inside(low, wide):
    found = ticks(low, low + wide)
    assert len(found) <= 8
    if wide:
        assert len(found) >= 2
        assert low - 1e-6 * wide <= found[0] and found[-1] <= low + wide * (1 + 1e-6)
    assert ticks(0, 1) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_values_are_short():
    assert shown(-0.00012345, False) == "−0.0001234" and shown(0.5, True) == "50.0 %"
    assert shown(float("nan"), True) == "" == shown(float("inf"), False)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    """Of WCAG 2: from 1, none, to 21."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def mixed(a, b, share):
    """`color-mix(in srgb, a share, b)`."""
    pairs = [(int(a[i : i + 2], 16), int(b[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * x + (1 - share) * y):02x}" for x, y in pairs)


def themes():
    """The page's colours by name, on light and on dark."""
    style = (FOLDER / "report.css").read_text()
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    return {"light": light, "dark": light | dark}


def test_contrast_is_measured_as_defined():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#ffffff", "#3b76d9") < 4.5  # what segments had once


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_words_have_4_5_to_1_and_all_marks_3_to_1(theme):
    colours = themes()[theme]
    card, back, line = (colours[name] for name in ("card", "back", "line"))
    for ground in (card, back, line, colours["note"]):
        assert contrast(colours["text"], ground) >= 4.5
    for name in ("soft", "good", "bad"):
        for ground in (card, back):
            assert contrast(colours[name], ground) >= 4.5, name
    for ground in (card, back, line):
        assert contrast(colours["soft"], ground) >= 4.5
    for n in range(7):
        assert contrast("#ffffff", colours[f"hue{n}"]) >= 4.5, n
        assert contrast(colours[f"hue{n}"], card) >= 3, n
    for name in ("plus", "minus"):
        for ground in (card, line):
            assert contrast(colours[name], ground) >= 3, name
    tints = [(colours[name], 0.5) for name in ("plus", "minus", "bad")]
    tints += [(colours[name], 0.3) for name in ("plus", "good", "soft")]
    tints.append(("#9c5ee7", 0.3))
    for colour, share in tints:
        assert contrast(colours["text"], mixed(colour, card, share)) >= 4.5, colour
    for colour in charts.COLOURS:
        assert contrast(colour, card) >= 3, colour
    if theme == "light":  # a page without its style is white
        assert contrast(charts.INK, "#ffffff") >= 4.5


def test_what_is_told_is_what_was_measured_not_its_smooth():
    made = one(Line("a", [1, 2], [0.5, 0.5], raw=[0.0, 1.0]))
    assert made.table == (("iteration", "a"), ("1", "0"), ("2", "1"))
    assert "a: 0 at iteration 1, 1 at 2" in made.svg
