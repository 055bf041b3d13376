"""Evaluations -> success tables with 95 % intervals: text, markdown, CSV, JSON."""

import csv
import html
import io
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hiper_jax import workdir
from hiper_jax.experiments.visible import visible

OVERALL = "all"
Z = 1.959964  # two-sided 95 % of the normal distribution
_MARKUP = re.compile(r"[\\|`*\[\]~]")  # what markdown would not show as it is
_HEAD = ("split", "task type", "before", "after")


class Rate(NamedTuple):
    """How many of a number of games were won."""

    won: int
    games: int
    points: float | None = None  # sum of the games' scores, where they can be partial

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.won / self.games

    @property
    def score(self) -> float | None:
        """The mean score, in [0, 1]."""
        return None if self.points is None else self.points / self.games

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share."""
        return wilson(self.won, self.games)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{100 * self.share:.1f} % [{100 * low:.1f}, {100 * high:.1f}] "
            f"{self.won}/{self.games}"
            + ("" if self.points is None else f" score {self.score:.3f}")
        )


class Row(NamedTuple):
    """One line of a table; a missing evaluation is None."""

    split: str
    task_type: str  # OVERALL for the split as a whole
    before: Rate | None
    after: Rate | None

    @property
    def differs(self) -> bool:
        """Both are there and their intervals do not overlap."""
        if self.before is None or self.after is None:
            return False
        return not intervals_overlap(self.before.interval, self.after.interval)


def wilson(won: int, games: int) -> tuple[float, float]:
    """The 95 % score interval of a share.

        (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n),   p = won / games = won / n

    Unlike p ± z √(p(1−p)/n) it stays in [0, 1] and does not shrink to a point at p = 0
    and p = 1.

    Args:
      won: successes.
      games: trials; with none the interval is [0, 1].

    Returns:
      Its two ends, in [0, 1].

    Raises:
      ValueError: more won than played, or a negative number.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927).
    """
    if not 0 <= won <= games:
        raise ValueError(f"{won} games of {games} cannot have been won")
    if games == 0:
        return 0.0, 1.0
    share, shrink = won / games, Z * Z / games
    middle = share + shrink / 2
    half = Z * math.sqrt(share * (1 - share) / games + shrink / (4 * games))
    low, high = (middle - half) / (1 + shrink), (middle + half) / (1 + shrink)
    # At the ends the formula gives 0 and 1 but for rounding.
    return low if won else 0.0, high if won < games else 1.0


def intervals_overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether two closed intervals share a point."""
    return a[0] <= b[1] and b[0] <= a[1]


def success_table(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> list[Row]:
    """Sets two rounds of evaluation side by side.

    Args:
      before: from split to evaluation record (see `evaluate`).
      after: the same; either may lack a split.

    Returns:
      Rows split by split: the split as a whole, then its task types by name.

    Raises:
      ValueError: a split was evaluated on two different panels of games.
    """
    rows = []
    for split in sorted({*before, *after}, reverse=True):  # unseen before seen
        records = [rounds.get(split) for rounds in (before, after)]
        there = [record for record in records if record]
        # What was dropped at its start could not say what it is called.
        whole = not any("dropped" in e for r in there for e in r["episodes"])
        panels = {
            (
                r.get("manifest"),
                len(r["episodes"]),
                tuple(sorted(e["game"] for e in r["episodes"])) if whole else (),
            )
            for r in there
        }
        if len(panels) > 1:
            raise ValueError(
                f"the evaluations before and after on {split} were on different games "
                "and cannot be compared; evaluate both on one panel"
            )
        counts = [_counts(r["episodes"]) if r else {} for r in records]
        types = sorted({*counts[0], *counts[1]} - {OVERALL})
        rows += [
            Row(split, kind, *(count.get(kind) for count in counts))
            for kind in (OVERALL, *types)
        ]
    return rows


def summary(record: Mapping[str, Any]) -> str:
    """An evaluation in a line."""
    rate = _counts(record["episodes"])[OVERALL]
    low, high = rate.interval
    split = visible(record["split"], one_line=True)
    return (
        f"{split}: {rate.won}/{rate.games} won, {100 * rate.share:.1f} % "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"
        + ("" if rate.points is None else f", mean score {rate.score:.3f}")
    )


def _counts(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Rate]:
    # Where a game is only won or not, its score says nothing more.
    partial = any(e.get("score", e["won"]) != e["won"] for e in episodes)
    counts: dict[str, Rate] = {}
    for episode in episodes:
        for kind in (OVERALL, episode["task_type"]):
            won, games, points = counts.get(kind, (0, 0, 0.0))
            counts[kind] = Rate(
                won + bool(episode["won"]),
                games + 1,
                points + episode["score"] if partial else None,
            )
    return counts


def evaluations(run) -> dict[str, dict[str, dict[str, Any]]]:
    """The evaluations of a run: from tag ("before", "after", ...) to split to record.

    Raises:
      ValueError: a file in the run's `eval` folder is not an evaluation.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file in sorted((pathlib.Path(run) / "eval").glob("*.json")):
        try:
            record = _checked(json.loads(file.read_bytes()))
            found.setdefault(record["tag"], {})[record["split"]] = record
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ):
            raise ValueError(f"{file} is no evaluation; remove it") from None
    return found


def _checked(record: Any) -> dict[str, Any]:
    """The record; TypeError, ValueError or KeyError if a table cannot be made of it."""
    kinds = {"tag": str, "split": str}
    played = {"game": str, "task_type": str, "won": bool}
    for whole, part in [(kinds, record), *((played, e) for e in record["episodes"])]:
        for name, kind in whole.items():
            if not isinstance(part[name], kind):
                raise TypeError(name)
    scores = [e.get("score", 0.0) for e in record["episodes"]]
    if not scores or not all(math.isfinite(score) for score in scores):
        raise ValueError("no episode, or a score that is no number")
    if type(record.get("step", 0)) is not int:
        raise TypeError("step")
    return record


def rows_of(run) -> list[Row]:
    """The success table of a run's evaluations before and after training."""
    rounds = evaluations(run)
    return success_table(rounds.get("before", {}), rounds.get("after", {}))


def render(run) -> str:
    """The run's success table for a terminal."""
    rows = rows_of(run)
    return to_text(rows) if rows else "no evaluation yet"


def write(run) -> list[Row]:
    """Writes results.json, results.csv and results.md of a run; gives the rows."""
    run, rows = pathlib.Path(run), rows_of(run)
    workdir.write_json(run / "results.json", to_records(rows))
    workdir.write_text(run / "results.csv", to_csv(rows))
    workdir.write_text(run / "results.md", to_markdown(rows))
    return rows


def to_text(rows: Iterable[Row]) -> str:
    """Aligned columns; a star where the two intervals do not overlap."""
    return aligned(
        [
            (*_HEAD, ""),
            *((*_cells(row), "*" if row.differs else "") for row in rows),
        ]
    )


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns, for a terminal."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def to_markdown(rows: Iterable[Row]) -> str:
    """A markdown table; bold where the two intervals do not overlap."""
    lines = [_HEAD, ("---",) * len(_HEAD)]
    for row in rows:
        *names, before, after = _cells(row)
        names = [_MARKUP.sub(r"\\\g<0>", html.escape(name)) for name in names]
        lines.append((*names, before, f"**{after}**" if row.differs else after))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 6)


def to_records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Plain values for JSON; shares and interval ends in [0, 1]."""
    records = []
    for row in rows:
        record: dict[str, Any] = {"split": row.split, "task_type": row.task_type}
        for name, rate in (("before", row.before), ("after", row.after)):
            low, high = rate.interval if rate else (None, None)
            record |= {
                f"{name}_won": rate.won if rate else None,
                f"{name}_games": rate.games if rate else None,
                f"{name}_share": _rounded(rate.share if rate else None),
                f"{name}_low": _rounded(low),
                f"{name}_high": _rounded(high),
                f"{name}_score": _rounded(rate.score if rate else None),
            }
        records.append(record)
    return records


def to_csv(rows: Iterable[Row]) -> str:
    """The fields of `to_records`, a line per row."""
    blank = Row("", "", None, None)
    out = io.StringIO()
    writer = csv.DictWriter(out, to_records([blank])[0], lineterminator="\n")
    writer.writeheader()
    for record in to_records(rows):
        named = {k: visible(record[k], one_line=True) for k in ("split", "task_type")}
        writer.writerow(record | named)
    return out.getvalue()


def _cells(row: Row) -> tuple[str, ...]:
    before, after = ("-" if r is None else str(r) for r in (row.before, row.after))
    names = (visible(name, one_line=True) for name in (row.split, row.task_type))
    return *names, before, after
