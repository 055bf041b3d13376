"""What the host does in a turn, beside a device that sleeps."""

import json

import tiny_runs

from hiper_jax.experiments.bench.host import Host, main


def test_every_side_plays_the_same_and_says_where_its_seconds_go(tmp_path, capsys):
    flags = Host(
        slots=4,
        turns=3,
        device=0.05,
        engine=0.04,
        places=5,
        rounds=1,
        world=tiny_runs.levels(tmp_path),
        out=str(tmp_path / "out"),
    )
    found = main(flags)
    shown = capsys.readouterr().out
    assert all(side in shown for side in found["medians"])
    assert len(found["medians"]) == 4 and found["prompt tokens"] > 50
    for seconds in found["medians"].values():
        assert seconds["device"] > 0.049  # a sleep is never shorter
        assert seconds["environment"] >= 0.03
        hidden_not = (seconds["turn"] - seconds["device"]) / seconds["device"]
        assert abs(seconds["not hidden"] - hidden_not) < 1e-9
    # What one wave waits for its engine is hidden from nobody; that two waves hide it
    # is a theorem of test_waves, and seconds of a busy machine would not prove it.
    assert found["medians"]["1 wave, line by line"]["turn"] > 0.08
    before, after = found["begins as the turn before's"].values()
    assert 0 < before < after < 1
    assert json.loads((tmp_path / "out" / "bench_host.json").read_text())["rounds"]
