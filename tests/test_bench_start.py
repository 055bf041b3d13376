"""A start is timed to its first iteration, and keeps what it compiled."""

import pytest

from hiper_jax import workdir
from hiper_jax.experiments import commands, flags
from hiper_jax.experiments.bench import start

SMALL = (
    "train quickstart --estimator rloo --samples 2 --learn.kl-coef 0 "
    "--num-updates 1 --episodes 2 --slots 2 --world.max-turns 2 --world.train 8 "
    "--world.seen 6 --world.unseen 6 --eval-episodes 1 --eval-seen-episodes 0 "
    "--learn.minibatch 4 --learn.chunk 4 --world.cache {games} --out {out}"
)


def test_the_run_that_is_timed_is_a_command_that_can_be_given():
    words = start.RUN.format(preset="quickstart", games="games", out="run").split()
    chosen = flags.parse(commands.tree(commands.Early(), words), words, "hiper")
    settings = chosen.settings.settings
    assert settings.precompile and settings.num_updates == 1


def test_a_start_is_timed_and_leaves_its_programs(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "RUN", SMALL)
    kept = tmp_path / "programs"
    first = start.start("quickstart", tmp_path, kept)
    assert 0 < first["to iteration 1"] < first["through iteration 1"]
    assert first["through iteration 1"] < first["whole run"]
    assert first["of all cores"] > 1
    programs = {file.name for file in kept.iterdir() if file.name.endswith("-cache")}
    assert programs and len(workdir.read_lines(tmp_path / "run" / "timing.jsonl")) == 1


def test_a_start_that_fails_is_named_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "RUN", "train nothing --out {out}")
    with pytest.raises(RuntimeError, match=r"run\.log"):
        start.start("quickstart", tmp_path, tmp_path / "programs")
