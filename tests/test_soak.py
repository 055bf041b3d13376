"""The soak counts what is lost, and watches the run that it says."""

import pool_envs
import pytest

from hiper_jax.experiments import commands, flags
from hiper_jax.experiments.bench import soak

SMALL = {"envs": 12, "turns": 30, "workers": 3, "kill_every": 0.05, "seed": 1}


def test_no_turn_is_lost_under_killed_workers():
    played = soak.play(**SMALL)
    assert played["turns"] == 360 and played["wrong"] == 0
    assert played["kills"] >= 1 and played["restarts"] >= 1


def test_an_action_that_an_environment_skips_is_counted(monkeypatch):
    monkeypatch.setattr(soak, "Ledger", pool_envs.Skipping)
    played = soak.play(**{**SMALL, "kill_every": 1e9})
    assert played["kills"] == 0
    assert played["wrong"] == 12 * 28  # from the third turn on


def test_growth_is_the_second_quarter_against_the_last():
    rows = [
        {"iteration": i, "who": who, "pid": 1, "rss_mb": 2.0 * i, "open_files": 7}
        for i in range(1, 9)
        for who in ("run", "worker 1")
    ]
    found = soak.growth(rows)
    assert set(found) == {"run", "worker 1"}
    assert found["run"]["rss_mb_early"] == 7 and found["run"]["rss_mb_late"] == 15
    assert found["run"]["open_files_early"] == found["run"]["open_files_late"] == 7
    assert soak.picture(rows)[:4] == b"\x89PNG"


def test_the_watched_run_is_a_command_that_can_be_given():
    words = soak.RUN.format(iterations=5).split()
    chosen = flags.parse(commands.tree(commands.Early(), words), words, "hiper")
    settings = chosen.settings.settings
    assert settings.num_updates == 5 and not settings.world.in_process


def test_a_run_that_cannot_start_is_named_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "RUN", "train nothing --num-updates {iterations}")
    with pytest.raises(RuntimeError, match="run.log"):
        soak.watch(tmp_path, 1)
