"""Every estimator in the whole loop, by one word; one without a critic holds none."""

import dataclasses
import filecmp
import json
import typing

import numpy as np
import pytest
import tiny_runs

from hiper_jax import workdir
from hiper_jax.accept import SettingError
from hiper_jax.estimators import COMPARES_SIBLINGS, ESTIMATORS
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import games, recipes
from hiper_jax.experiments.capacity import plan
from hiper_jax.experiments.cli import main
from hiper_jax.experiments.eval import evaluate_checkpoint, newest
from hiper_jax.experiments.settings import explained, replaced
from hiper_jax.experiments.train import train
from hiper_jax.networks.agent import load_agent

NAMES = typing.get_args(configs.EstimatorName)
CRITIC_FREE = COMPARES_SIBLINGS | {"reinforce_pp"}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return tiny_runs.of_any_estimator(tmp_path_factory.mktemp("estimators"))


def test_every_estimator_is_a_choice():
    assert set(NAMES) == set(ESTIMATORS)
    assert set(ESTIMATORS) > COMPARES_SIBLINGS


@pytest.mark.parametrize("name", NAMES)
def test_one_word_takes_the_estimators_own_settings(name):
    """What both know is taken over where it was changed; each has its text."""
    base = recipes.recipe("quickstart")
    config = configs.with_estimator(base, name)
    fields = {field.name for field in dataclasses.fields(config.learn)}
    assert fields <= set(explained(type(config.learn)))
    assert config.learn.minibatch == 256 and config.learn.kl_coef == 0.05
    if "gamma" in fields:
        assert config.learn.gamma == 0.98
    assert config.has_critic == (name not in CRITIC_FREE)
    siblings = {"strata": 32}.get(name, 8)  # 8 under each of 4 strategies
    assert config.siblings == (siblings if name in COMPARES_SIBLINGS else 1)
    assert plan.has_critic(name) == config.has_critic
    record = json.loads(json.dumps(dataclasses.asdict(config)))
    del record["world"]
    assert replaced(configs.Train(world=base.world), record) == config
    assert dataclasses.replace(config, seed=3).learn == config.learn


def test_dr_grpo_brings_its_loss_along_unless_another_is_asked_for():
    base = recipes.recipe("quickstart")
    assert configs.with_estimator(base, "drgrpo").learn.aggregation == (
        "seq-mean-token-sum-norm"
    )
    asked = {"estimator": "drgrpo", "learn": {"aggregation": "seq-mean-token-mean"}}
    assert replaced(base, asked).learn.aggregation == "seq-mean-token-mean"


def test_what_does_not_fit_is_refused_in_one_line(capsys, tmp_path):
    with pytest.raises(SettingError, match="learn must be settings of gigpo"):
        configs.Train(estimator="gigpo")
    for words, said in [
        (["--estimator", "ppo"], "must be one of hae"),
        (["--estimator", "strata", "--samples", "8"], "samples must be left out"),
        (["--estimator", "strata", "--episodes", "40"], "multiple of the 32 samples"),
        (["--estimator", "strata", "--learn.candidates", "3"], "at most the 3 cand"),
        (["--estimator", "gigpo", "--samples", "7"], "multiple of the 7 samples"),
        (["--estimator", "gigpo", "--episodes", "12"], "multiple of the 8 samples"),
        (["--estimator", "gigpo", "--learn.lambda-turn", "1"], "no --learn.lambda-"),
        (["--estimator"], "--estimator that of an estimator"),
    ]:
        with pytest.raises(SystemExit):
            main(["train", "quickstart", "--out", str(tmp_path / "run"), *words])
        line = capsys.readouterr().err
        assert said in line and line.count("\n") == 1
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="estimator must be one of"):
        configs.with_estimator(configs.Train(), "ppo")


def test_siblings_play_one_game_side_by_side():
    known = [f"game-{i}" for i in range(6)]
    chosen = [games.training_games(known, step, 4, 5, 2) for step in range(3)]
    assert all(four[0] == four[1] != four[2] == four[3] for four in chosen)
    assert sorted(sum(chosen, [])) == sorted(known * 2)
    assert [four[::2] for four in chosen] == [
        games.training_games(known, step, 2, 5) for step in range(3)
    ]


@pytest.fixture(scope="module")
def gigpo(setting, tmp_path_factory):
    config = configs.with_estimator(setting, "gigpo")
    out = str(tmp_path_factory.mktemp("gigpo") / "run")
    return train(dataclasses.replace(config, out=out), "test")


def test_without_a_critic_none_is_anywhere(setting, gigpo):
    """Not in the state, the checkpoint, the model, the metrics or the plan."""
    config = configs.with_estimator(setting, "gigpo")
    agent, state = newest(gigpo, config)
    assert agent.critic == "none"
    assert state.critic is None and state.critic_opt is None
    assert not (gigpo / "model" / "critic").exists()
    names = {
        name for line in workdir.read_lines(gigpo / "metrics.jsonl") for name in line
    }
    assert not any("value" in name for name in names)
    assert {"group/deviation", "redraw/flat"} <= names
    files = [p.read_bytes() for p in (gigpo / "checkpoints").rglob("*") if p.is_file()]
    assert not any(b"critic.trunk" in data for data in files)
    asked = plan.Plan(model="qwen2.5-1.5b", estimator="gigpo")
    parts = plan.parts_of(plan.shape_of(asked.model), {}, asked)["resident"]
    assert parts["critic"] == 0 and parts["optimizer"] == 2 * parts["actor"]


def test_siblings_differ_by_their_noise(gigpo):
    episodes = list(workdir.read_episodes(gigpo / "episodes" / "000001.jsonl.gz"))
    one, other, third, _ = episodes
    assert one.game == other.game != third.game
    assert [t.text for t in one.turns] != [t.text for t in other.turns]
    assert {"advantage", "score"} <= set(one.credit)


def test_a_run_without_a_critic_resumes_and_is_evaluated(setting, gigpo, tmp_path):
    """Its actor learns at once: waiting for a critic is for those who have one."""
    config = dataclasses.replace(
        configs.with_estimator(setting, "gigpo"), out=str(tmp_path / "run")
    )
    train(dataclasses.replace(config, stop_after=1), "test")
    _, begun, _ = load_agent(setting.model)
    after = newest(tmp_path / "run", config)[1].actor
    assert not np.array_equal(after["norm"], begun["norm"])
    run = train(dataclasses.replace(config, resume=True), "test")
    assert filecmp.cmp(gigpo / "metrics.jsonl", run / "metrics.jsonl", shallow=False)
    record = evaluate_checkpoint(str(run), **tiny_runs.panel(4, tmp_path / "e.json"))
    assert len(record["episodes"]) == 4


@pytest.mark.parametrize("name", ["gae_turn", "vetta", "hae_group", "drgrpo", "gear"])
def test_others_train_end_to_end(setting, tmp_path, name):
    config = configs.with_estimator(setting, name)
    run = train(dataclasses.replace(config, out=str(tmp_path / "run")), "test")
    episodes = tiny_runs.check_run(run)
    told = {"advantage", "advantage_low", "advantage_token"} & set(episodes[0].credit)
    assert told
    assert (run / "model" / "critic").exists() == config.has_critic
