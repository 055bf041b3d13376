"""Turns of which few slots are live, timed."""

import json

from hiper_jax.experiments.bench.live import Live, main


def test_a_turn_of_few_is_timed_beside_a_full_one(tmp_path, capsys):
    flags = Live(model="tiny", slots=8, new=12, mean=4, rounds=1, out=str(tmp_path))
    found = main(flags)
    assert "G9" in capsys.readouterr().out
    # Two shapes each: no batch that shrinks is a further program.
    assert found["programs"] == {"shrinking": 2, "plain": 2}
    assert found["equal tokens"] > 0.99
    kept = json.loads((tmp_path / "bench_live.json").read_text())
    said = kept["tokens of a response"]
    assert 1 <= said["mean"] < said["most"] <= 12
