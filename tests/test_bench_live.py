"""Turns of which few slots are live, timed."""

import json

import numpy as np
import pytest

from hiper_jax.experiments.bench.live import Live, main, row_steps


def test_a_turn_of_few_is_timed_beside_a_full_one(tmp_path, capsys):
    flags = Live(
        width=64,
        depth=1,
        slots=2,
        turn=3,
        long=24,
        mean=6,
        rounds=1,
        scale=100,
        out=str(tmp_path),
    )
    found = main(flags)
    shown = capsys.readouterr().out
    assert "| G9 | a turn with 1 of 2 live over a full one |" in shown
    assert "| at most 0.45 |" in shown
    # No batch that shrinks is a further program.
    assert found["programs"] == {"shrinking": 1, "not shrinking": 1}
    assert found["in equal texts"] > 0.9
    assert 0.5 <= found["rows x steps, shrinking over not"] < 0.95
    kept = json.loads((tmp_path / "bench_live.json").read_text())
    said = kept["tokens of a response"]
    assert 1 <= said["mean"] < said["most"] <= 24
    sides = ("full", "a quarter", "shrinking", "not shrinking")
    assert all(kept["medians"][side] > 0 for side in sides)


def test_rows_of_all_steps_are_counted_by_hand():
    """The first token is the prompt's; then 4, 4, 2, 2 and 1 rows have a step."""
    said = np.array([1, 6, 3, 5, 3])
    assert row_steps(said, (5,)) == 5 * 5
    assert row_steps(said, (1, 2, 4, 5)) == 4 + 4 + 2 + 2 + 1


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 64"):
        Live(width=100)
