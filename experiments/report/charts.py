"""Curves -> SVG that is read without a script: on light, on dark and in numbers.

Colours stand in attributes, so that a chart is whole where a page's style is forbidden;
where it is not, the page's style turns words and grid to its own ink. A chart's numbers
are in its text for those who do not see it, and under the pointer for those who do.
"""

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hiper_jax.experiments.visible import visible

INK = "#5b6570"  # words where a page has no style of its own: 5.9 to 1 on white
# Each 3 to 1 or better on white and on the dark page's cards.
COLOURS = (
    *("#2e79f5", "#d15a1e", "#23874f", "#9c5ee7", "#da4972"),
    *("#9c7936", "#118696", "#767820", "#d83fa9", "#777e8d"),
)
DASHES = ("", "7 3", "2 3", "9 3 2 3")  # lines differ for those who see no colours
SIZE = (420.0, 250.0)  # of a chart, in its own units
WIDE = (720.0, 360.0)
STOPS = 200  # places along a chart that tell their values
LEFT, RIGHT, TOP, BOTTOM = 52.0, 10.0, 8.0, 38.0  # margins
STYLE = (
    "text{fill:#5b6570}@media(prefers-color-scheme:dark){text{fill:#98a3ae}}"
    ".stop:hover .tip{visibility:visible}"
)


class Line(NamedTuple):
    """One curve, K points."""

    label: str
    x: Any  # [K] places, in rising order
    y: Any  # [K] values; NaN where there is none
    low: Any = None  # [K] lower ends of a band or of intervals; None without
    high: Any = None  # [K]
    dots: bool = False  # points with intervals, not a curve
    raw: Any = None  # [K] what y is a smooth of, drawn faintly


class Chart(NamedTuple):
    """A drawn chart."""

    name: str  # of the file
    title: str
    caption: str
    svg: str  # one element, to stand in a page
    legend: str  # the names of its lines as HTML; "" for a single one
    table: tuple[tuple[str, ...], ...]  # its numbers, a head and a row per place

    @property
    def file(self) -> str:
        """The chart as a file of its own."""
        head, _, rest = self.svg.partition(">")
        head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        return f"{head}><style>{STYLE}</style>{rest}\n"


class _Frame(NamedTuple):
    """Where values lie on a chart."""

    size: tuple[float, float]
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A place and a value -> a point of the chart."""
        width = self.size[0] - LEFT - RIGHT
        height = self.size[1] - TOP - BOTTOM
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return LEFT + width * across, TOP + height * (1 - up)


def chart(
    name: str,
    title: str,
    caption: str,
    lines: Sequence[Line],
    *,
    percent: bool = False,
    stacked: bool = False,
    along: str = "iteration",
    size: tuple[float, float] = SIZE,
) -> Chart:
    """Draws lines into one chart.

    Args:
      name: of its file.
      title: what it shows.
      caption: what its lines are.
      lines: one or more, each with a finite value.
      percent: values are shares in [0, 1].
      stacked: the lines are parts of a whole, drawn as areas on each other.
      along: what the places are.
      size: width and height.
    """
    frame = _frame(lines, percent, stacked, size)
    drawn = [*_axes(frame, percent, along)]
    below = np.zeros(0)
    for n, line in enumerate(lines):
        if stacked:
            below = below if n else np.zeros(len(line.x))
            drawn.append(_area(frame, line, below, n))
            below = below + np.nan_to_num(np.asarray(line.y, float))
        else:
            drawn += _line(frame, line, n)
    names = (along, *(visible(line.label, one_line=True) for line in lines))
    rows = _rows(lines, percent)
    drawn += _stops(frame, names, rows)
    told = _escaped(f"{title}. {_told(lines, percent, along)}")
    width, height = (f"{side:g}" for side in size)
    svg = (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{told}" font-family="system-ui, sans-serif" '
        f'font-size="13">{"".join(drawn)}</svg>'
    )
    table = (names, *(row for _, row in rows))
    return Chart(name, title, caption, svg, _legend(lines), table)


def shown(value: float, percent: bool) -> str:
    """A value in few digits, with a real minus sign; "" for NaN."""
    if not math.isfinite(value):
        return ""
    text = f"{100 * value:.1f} %" if percent else f"{value:.4g}"
    return text.replace("-", "−")


def ticks(low: float, high: float, number: int = 6) -> list[float]:
    """Round values from `low` to `high`, about `number` of them."""
    wide = (high - low) or 1.0
    rough = wide / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _frame(lines, percent: bool, stacked: bool, size) -> _Frame:
    x = np.concatenate([np.asarray(line.x, float) for line in lines])
    if percent:
        y = np.array([0.0, 1.0])
    else:
        ends = (v for line in lines for v in (line.y, line.low, line.high, line.raw))
        every = [np.asarray(v, float) for v in ends if v is not None]
        y = np.concatenate(every)
        y = y[np.isfinite(y)]
        y = y if len(y) else np.zeros(1)
    low, high = float(y.min()), float(y.max())
    room = 0.0 if stacked else 0.06 * ((high - low) or abs(high) or 1.0)
    left, right = float(x.min()), float(x.max())
    if left == right:
        left, right = left - 0.5, right + 0.5
    return _Frame(size, (left, right), (low - room, high + room))


def _axes(frame: _Frame, percent: bool, along: str):
    width, height = frame.size
    floor = height - BOTTOM
    for value in ticks(*frame.y):
        y = frame.at(frame.x[0], value)[1]
        label = f"{100 * value:.0f} %" if percent else f"{value:g}".replace("-", "−")
        yield (
            f'<path d="M{LEFT:g} {y:.1f}H{width - RIGHT:g}" stroke="#7d8794" '
            f'stroke-opacity=".3"></path><text x="{LEFT - 6:g}" y="{y + 4:.1f}" '
            f'text-anchor="end" fill="{INK}">{label}</text>'
        )
    for value in ticks(*frame.x):
        if value != int(value) and frame.x[1] - frame.x[0] >= 1:
            continue
        x = frame.at(value, frame.y[0])[0]
        yield (
            f'<text x="{x:.1f}" y="{floor + 16:g}" text-anchor="middle" '
            f'fill="{INK}">{value:g}</text>'
        )
    yield (
        f'<text x="{(LEFT + width - RIGHT) / 2:g}" y="{height - 4:g}" '
        f'text-anchor="middle" fill="{INK}">{_escaped(along)}</text>'
    )


def _line(frame: _Frame, line: Line, n: int):
    colour = _colour(n)
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    if line.dots:
        for k in np.flatnonzero(np.isfinite(y)):
            at, up = frame.at(x[k], y[k])
            if line.low is not None and line.high is not None:
                low, high = (frame.at(x[k], v[k])[1] for v in (line.low, line.high))
                yield (
                    f'<path d="M{at:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" '
                    'stroke-width="1.6"></path>'
                )
            yield f'<circle cx="{at:.1f}" cy="{up:.1f}" r="4" fill="{colour}"></circle>'
        return
    if line.low is not None and line.high is not None:
        low, high = np.asarray(line.low, float), np.asarray(line.high, float)
        there = np.isfinite(low) & np.isfinite(high)
        around = [*zip(x[there], high[there], strict=True)]
        around += [*zip(x[there], low[there], strict=True)][::-1]
        if around:
            path = "L".join("{:.1f} {:.1f}".format(*frame.at(*p)) for p in around)
            yield f'<path d="M{path}Z" fill="{colour}" fill-opacity=".16"></path>'
    if line.raw is not None:
        yield _curve(frame, x, np.asarray(line.raw, float), colour, "", 1.0, 0.4)
    yield _curve(frame, x, y, colour, _dash(n), 2.0, 1.0)
    if np.isfinite(y).sum() == 1:
        k = int(np.flatnonzero(np.isfinite(y))[0])
        at, up = frame.at(x[k], y[k])
        yield f'<circle cx="{at:.1f}" cy="{up:.1f}" r="4" fill="{colour}"></circle>'


def _curve(frame, x, y, colour: str, dash: str, width: float, opacity: float) -> str:
    path, pen = [], "M"
    for place, value in zip(x, y, strict=True):
        if not math.isfinite(value):
            pen = "M"  # a gap stays a gap
            continue
        path.append(f"{pen}{'{:.1f} {:.1f}'.format(*frame.at(place, value))}")
        pen = "L"
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<path d="{"".join(path)}" fill="none" stroke="{colour}" '
        f'stroke-width="{width:g}" stroke-opacity="{opacity:g}"{dashes}></path>'
    )


def _area(frame: _Frame, line: Line, below: np.ndarray, n: int) -> str:
    x = np.asarray(line.x, float)
    top = below + np.nan_to_num(np.asarray(line.y, float))
    if len(x) == 1:  # over one place an area has no width
        x, below, top = np.array(frame.x), below.repeat(2), top.repeat(2)
    around = [*zip(x, top, strict=True), *[*zip(x, below, strict=True)][::-1]]
    path = "L".join("{:.1f} {:.1f}".format(*frame.at(*point)) for point in around)
    return f'<path d="M{path}Z" fill="{_colour(n)}" stroke="#fff"></path>'


def _rows(lines, percent: bool) -> list[tuple[float, tuple[str, ...]]]:
    """Places, and their values as words; spread evenly where there are too many."""
    places = sorted({float(x) for line in lines for x in np.asarray(line.x, float)})
    if len(places) > STOPS:
        chosen = np.linspace(0, len(places) - 1, STOPS).round().astype(int)
        places = [places[k] for k in chosen]
    values = [dict(_measured(line)) for line in lines]
    nothing = float("nan")
    return [
        (x, (f"{x:.4g}", *(shown(v.get(x, nothing), percent) for v in values)))
        for x in places
    ]


def _stops(frame: _Frame, names: Sequence[str], rows):
    """What the pointer finds: a line at each place, and the values there."""
    width, height = frame.size
    across = [frame.at(x, frame.y[0])[0] for x, _ in rows]
    edges = [LEFT, *((a + b) / 2 for a, b in zip(across, across[1:], strict=False))]
    edges.append(width - RIGHT)
    for k, (_, cells) in enumerate(rows):
        told = [f"{n} {c}" for n, c in zip(names, cells, strict=True) if c]
        left = across[k] < width / 2
        anchor, side = ("start", 6) if left else ("end", -6)
        tip = "".join(
            f'<tspan x="{across[k] + side:.1f}" dy="{15 if i else 0}">'
            f"{_escaped(t)}</tspan>"
            for i, t in enumerate(told)
        )
        yield (
            f'<g class="stop"><rect x="{edges[k]:.1f}" y="{TOP:g}" '
            f'width="{max(edges[k + 1] - edges[k], 0.1):.1f}" '
            f'height="{height - TOP - BOTTOM:g}" fill="#000" fill-opacity="0">'
            f"<title>{_escaped(chr(10).join(told))}</title></rect>"
            f'<g class="tip" visibility="hidden" pointer-events="none">'
            f'<path d="M{across[k]:.1f} {TOP:g}V{height - BOTTOM:g}" '
            f'stroke="#7d8794"></path><text y="{TOP + 12:g}" fill="{INK}" '
            f'text-anchor="{anchor}">{tip}</text></g></g>'
        )


def _told(lines, percent: bool, along: str) -> str:
    """The chart in words and numbers."""
    parts = []
    for line in lines:
        points = [(v, x) for x, v in _measured(line) if math.isfinite(v)]
        if not points:
            continue
        (value, place), last = points[0], points[-1]
        said = [f"{line.label}: {shown(value, percent)} at {along} {place:.4g}"]
        if len(points) > 1:
            low, high = min(points, key=_value), max(points, key=_value)
            said.append(f"{shown(last[0], percent)} at {last[1]:.4g}")
            said.append(f"least {shown(low[0], percent)} at {low[1]:.4g}")
            said.append(f"most {shown(high[0], percent)} at {high[1]:.4g}")
        parts.append(", ".join(said))
    return "; ".join(parts) + "."


def _measured(line: Line) -> list[tuple[float, float]]:
    """Places and values, not smoothed."""
    values = line.y if line.raw is None else line.raw
    return [(float(x), float(v)) for x, v in zip(line.x, values, strict=True)]


def _value(point: tuple[float, float]) -> float:
    return point[0]


def _legend(lines: Sequence[Line]) -> str:
    """Each line's name beside a piece of it."""
    if len(lines) < 2:
        return ""
    items = ""
    for n, line in enumerate(lines):
        mark = (
            f'<circle cx="13" cy="5" r="4" fill="{_colour(n)}"></circle>'
            if line.dots
            else f'<path d="M0 5H26" stroke="{_colour(n)}" stroke-width="3" '
            f'stroke-dasharray="{_dash(n)}"></path>'
        )
        items += (
            f'<li><svg width="26" height="10" aria-hidden="true">{mark}</svg> '
            f"{_escaped(line.label)}</li>"
        )
    return f'<ul class="legend">{items}</ul>'


def _colour(n: int) -> str:
    return COLOURS[n % len(COLOURS)]


def _dash(n: int) -> str:
    return DASHES[n % len(DASHES)]


def _escaped(said: object) -> str:
    return html.escape(visible(said), quote=True)
