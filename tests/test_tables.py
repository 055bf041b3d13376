"""Success tables: known intervals, honest comparisons, every rendering."""

import csv
import io
import json

import pytest

from hiper_jax import workdir
from hiper_jax.experiments.report import tables
from hiper_jax.experiments.report.tables import Rate


def _record(tag, split, results, manifest="m"):
    """`results` maps a task type to (won, games)."""
    episodes = [
        {"game": f"{kind}/{i}", "task_type": kind, "won": i < won}
        for kind, (won, games) in results.items()
        for i in range(games)
    ]
    return {"tag": tag, "split": split, "manifest": manifest, "episodes": episodes}


def _rounds(*records):
    return [
        {r["split"]: r for r in records if r["tag"] == t} for t in ("before", "after")
    ]


@pytest.fixture
def rows():
    return tables.success_table(
        *_rounds(
            _record("before", "valid_unseen", {"put": (10, 50), "cool|it": (0, 20)}),
            _record("after", "valid_unseen", {"put": (40, 50), "cool|it": (3, 20)}),
            _record("before", "valid_seen", {"put": (1, 4)}),
        )
    )


@pytest.mark.parametrize(
    "won,games,low,high",
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_wilsons(won, games, low, high):
    assert tables.wilson(won, games) == pytest.approx((low, high), abs=5e-5)
    mirrored = tables.wilson(games - won, games)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_intervals_hold_the_share_and_narrow_with_more_games():
    for games in (1, 2, 7, 50):
        for won in range(games + 1):
            low, high = tables.wilson(won, games)
            assert 0 <= low <= won / games <= high <= 1
            wider = tables.wilson(4 * won, 4 * games)
            assert wider[1] - wider[0] < high - low
    assert tables.wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 games of 2"):
        tables.wilson(3, 2)


def test_overlap_is_closed_and_symmetric():
    for a, b, expected in [
        ((0.1, 0.3), (0.2, 0.4), True),
        ((0.1, 0.2), (0.2, 0.4), True),
        ((0.1, 0.2), (0.21, 0.4), False),
        ((0.0, 1.0), (0.4, 0.5), True),
    ]:
        assert tables.intervals_overlap(a, b) is expected
        assert tables.intervals_overlap(b, a) is expected


def test_rows_go_by_split_then_task_type_and_sum_up(rows):
    assert [(r.split, r.task_type) for r in rows] == [
        ("valid_unseen", "all"),
        ("valid_unseen", "cool|it"),
        ("valid_unseen", "put"),
        ("valid_seen", "all"),
        ("valid_seen", "put"),
    ]
    assert rows[0].before == Rate(10, 70) and rows[0].after == Rate(43, 70)
    assert rows[3].before == Rate(1, 4) and rows[3].after is None
    assert [r.differs for r in rows] == [True, False, True, False, False]


def test_different_games_are_not_compared():
    same = {"put": (1, 4)}
    before = _record("before", "valid_unseen", same)
    for after in (
        _record("after", "valid_unseen", same, manifest="other"),
        _record("after", "valid_unseen", {"put": (1, 5)}),
    ):
        with pytest.raises(ValueError, match="valid_unseen were on different games"):
            tables.success_table(*_rounds(before, after))


def test_text_is_aligned_and_marks_what_differs(rows):
    lines = tables.to_text(rows).splitlines()
    assert lines[1].split() == (
        "valid_unseen all 14.3 % [7.9, 24.3] 10/70 61.4 % [49.7, 72.0] 43/70 *".split()
    )
    starts = {line.index("%") for line in lines[1:4]}
    assert max(starts) - min(starts) <= 1
    assert lines[0].index("after") == lines[1].index("61.4")
    assert lines[4].endswith(" -") and "*" not in lines[4]


def test_markdown_has_one_cell_per_column_and_bold_differences(rows):
    lines = tables.to_markdown(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}
    assert "**61.4 % [49.7, 72.0] 43/70**" in lines[2]
    assert "cool\\|it" in lines[3] and "**" not in lines[3]


def test_a_runs_results_are_written_in_every_form(tmp_path, rows):
    assert tables.render(tmp_path) == "no evaluation yet"
    for record in (
        _record("before", "valid_unseen", {"put": (10, 50), "cool|it": (0, 20)}),
        _record("after", "valid_unseen", {"put": (40, 50), "cool|it": (3, 20)}),
        _record("at-0005", "valid_unseen", {"put": (20, 50)}),
        _record("before", "valid_seen", {"put": (1, 4)}),
    ):
        name = f"{record['tag']}-{record['split']}.json"
        workdir.write_json(tmp_path / "eval" / name, record)
    assert tables.write(tmp_path) == rows
    assert tables.render(tmp_path) == tables.to_text(rows)
    records = json.loads((tmp_path / "results.json").read_text())
    assert records[0]["before_share"] == round(10 / 70, 6)
    assert records[3]["after_won"] is None
    read = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert [r["task_type"] for r in read] == [r.task_type for r in rows]
    assert read[0]["after_won"] == "43" and read[3]["after_low"] == ""
    assert (tmp_path / "results.md").read_text() == tables.to_markdown(rows)


def test_a_file_that_is_no_evaluation_is_named(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "torn.json").write_text('{"tag": "bef')
    with pytest.raises(ValueError, match="torn.json is no evaluation"):
        tables.render(tmp_path)
