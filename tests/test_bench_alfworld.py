"""The bench of ALFWorld's engines runs, and its figures have the order they should."""

import importlib.util
import json

from hiper_jax.experiments.bench import alfworld as bench


def test_the_bench_measures_both_engines_on_the_same_walks(tmp_path, capsys):
    result = bench.main(tmp_path, games=2, steps=3, envs=4)
    saved = json.loads((tmp_path / "bench_alfworld.json").read_text())
    assert saved["native"] == result["native"]
    assert 0 < result["native"]["step_ms"] < result["native"]["first_reset_ms"] < 50
    assert set(result["turn_ms"]) == {0, 1, 2}
    if importlib.util.find_spec("alfworld") and "textworld" in result:
        for key, times in bench.AIM.items():
            assert result["textworld"][key] > times / 20 * result["native"][key]
    shown = capsys.readouterr().out
    assert shown.startswith("| | native | TextWorld | times | aim |")
    assert "A turn of 4 environments" in shown
