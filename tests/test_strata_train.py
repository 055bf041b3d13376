"""StraTA whole: drawn, followed, judged and trained; in the loop, on disk, resumed."""

import dataclasses
import filecmp
import json

import numpy as np
import pytest
import tiny_runs

from hiper_jax import workdir
from hiper_jax.accept import SettingError
from hiper_jax.act.envs.world import load_world
from hiper_jax.act.stack import written
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import recipes, setup
from hiper_jax.experiments.capacity import aot
from hiper_jax.experiments.compare.plan import Compare, planned
from hiper_jax.experiments.train import train


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """One task of two strategies, chosen among five, with two episodes each."""
    config = tiny_runs.of_any_estimator(tmp_path_factory.mktemp("strata"))
    config = dataclasses.replace(config, samples=0, redraw=0)
    sizes = {"candidates": 5, "strategies": 2, "trajectories": 2}
    learn = configs.learning("strata")(minibatch=8, chunk=4, **sizes)
    return dataclasses.replace(config, estimator="strata", learn=learn)


@pytest.fixture(scope="module")
def run(setting, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("run") / "run")
    return train(dataclasses.replace(setting, out=out), "test")


def test_it_trains_end_to_end_and_the_disk_holds_strategies(run):
    episodes = tiny_runs.check_run(run)
    assert len(episodes) == 4 and len(written(episodes)) == 2
    for b, episode in enumerate(episodes):
        assert episode.strategy.number == b // 2
        assert 0 <= episode.strategy.candidate < 5
        assert len(episode.strategy.response) == len(episode.strategy.log_prob) > 0
        assert {"advantage"} <= set(episode.credit)
    record = json.loads((run / "eval" / "after-valid_unseen.json").read_text())
    assert all(isinstance(one["strategy"], str) for one in record["episodes"])
    page = (run / "report.html").read_text()
    assert "<b>strategy</b>" in page
    line = workdir.read_lines(run / "metrics.jsonl")[-1]
    for name in ("reward", "flagged", "tokens", "distance", "unread_lists"):
        assert f"strategy/{name}" in line


def test_it_adds_one_program_to_those_of_a_run(run):
    """Sampling is compiled for prompts of three lengths at most, the rest once."""
    lines = (run / "timing.jsonl").read_text().splitlines()
    first, last = (json.loads(line)["programs"] for line in (lines[0], lines[-1]))
    assert first == last <= 3 + 1 + 1


def test_a_resumed_run_is_the_whole_run_bit_for_bit(setting, run, tmp_path):
    """And it is evaluated under strategies, one for each episode."""
    config = dataclasses.replace(setting, out=str(tmp_path / "run"))
    train(dataclasses.replace(config, stop_after=1), "test")
    train(dataclasses.replace(config, resume=True), "test")
    for name in ("metrics.jsonl", "eval/after-valid_unseen.json"):
        assert filecmp.cmp(run / name, tmp_path / "run" / name, shallow=False), name
    mine, theirs = (
        list(workdir.read_episodes(folder / "episodes" / "000002.jsonl.gz"))
        for folder in (run, tmp_path / "run")
    )
    for one, other in zip(mine, theirs, strict=True):
        assert one.strategy.text == other.strategy.text
        np.testing.assert_array_equal(one.strategy.log_prob, other.strategy.log_prob)
        assert one.flagged == other.flagged


def test_what_does_not_fit_is_refused_before_anything_is_made(setting, tmp_path):
    for changes, said in [
        ({"episodes": 6}, "multiple of the 4 samples .* learn.strategies"),
        ({"samples": 2}, "samples must be left out with strata"),
    ]:
        with pytest.raises(SettingError, match=said):
            dataclasses.replace(setting, **changes)
    with pytest.raises(SettingError, match="strategies must be at most the 3 candid"):
        dataclasses.replace(setting.learn, candidates=3, strategies=4)
    world = load_world("sokoban")._replace(strategies={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "load_world", lambda name: world)
        with pytest.raises(ValueError, match="'terse' of sokoban has no wording"):
            setup.check_strategies(setting)


def test_the_plan_and_the_compiled_programs_know_its_rows():
    base = recipes.recipe("quickstart")
    config = configs.with_estimator(base, "strata")
    assert config.strategies == 8 and not config.has_critic
    shapes = setup.run_shapes(config)
    assert shapes.rows[0] >= 64 * 31 + 8
    batch = aot.abstract_batch(shapes, config)
    assert batch.strategy.shape == batch.strategy_row.shape == (64,)
    assert batch.flagged.shape == (64, 30)
    plain = aot.abstract_batch(shapes, configs.with_estimator(base, "gigpo"))
    assert plain.strategy is None and plain.flagged is None


def test_a_comparison_takes_it_with_its_own_numbers(tmp_path):
    asked = Compare(estimators=("strata", "gigpo"), seeds=1, out=str(tmp_path))
    own, other = (one.config for one in planned(asked))
    assert (own.siblings, own.samples) == (32, 0) and other.samples == 8
    asked = Compare(estimators=("strata:trajectories=4",), seeds=1, out=str(tmp_path))
    assert planned(asked)[0].config.siblings == 16
