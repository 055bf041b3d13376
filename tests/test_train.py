"""The whole road on real games: train, resume bit for bit, evaluate, report."""

import dataclasses
import filecmp
import gc
import json
import os
import pathlib
import signal

import jax
import numpy as np
import pytest
import small
import tiny_runs

from hiper_jax import workdir
from hiper_jax.act.envs.worlds import alfworld
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import draws, setup, trackers
from hiper_jax.experiments import games as worlds
from hiper_jax.experiments import panel as evaluation
from hiper_jax.experiments import train as training
from hiper_jax.experiments.config import Learn
from hiper_jax.experiments.eval import evaluate_checkpoint, newest
from hiper_jax.experiments.train import train
from hiper_jax.networks import assemble
from hiper_jax.networks.agent import load_agent, save_agent


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Real games, and a tiny random agent on disk."""
    folder = tmp_path_factory.mktemp("world")
    alfworld.make(
        folder / "games",
        train=12,
        seen=2,
        unseen=4,
        seed=3,
        receptacles=(5, 6),
        objects=(5, 6),
        workers=1,
        say=lambda line: None,
    )
    return configs.Train(
        model=str(tiny_runs.saved(folder)),
        world=alfworld.AlfWorldSettings(
            data=str(folder / "games"), max_turns=3, workers=1
        ),
        reading=configs.Reading(max_prompt=220, max_response=12),
        learn=Learn(minibatch=8, chunk=4),
        num_updates=4,
        episodes=4,
        slots=4,
        eval_episodes=4,
        eval_seen_episodes=2,
        checkpoint_every=2,
        actor_lr=1e-3,
    )


def run(setting, folder, **changes) -> pathlib.Path:
    return train(dataclasses.replace(setting, out=str(folder), **changes), "test")


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory):
    return run(setting, tmp_path_factory.mktemp("whole") / "run")


def lines(run_folder, name="metrics"):
    return workdir.read_lines(run_folder / f"{name}.jsonl")


def test_a_run_leaves_everything_behind(whole):
    metrics, timing = lines(whole), lines(whole, "timing")
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    for line in metrics:
        assert "not_finite" not in line, line
        assert line["sampler/log_prob_diff_max"] < 1e-3
    for line in timing:
        parts = [line[k] for k in ("environment", "generation", "update", "other")]
        assert sum(parts) == pytest.approx(line["seconds"], rel=1e-3)
    for step in range(1, 5):
        episodes = list(
            workdir.read_episodes(whole / "episodes" / f"{step:06d}.jsonl.gz")
        )
        assert len(episodes) == 4
        for episode in episodes:
            assert len(episode.credit["advantage_low"]) == len(episode.turns) <= 3
    assert list((whole / "tensorboard").glob("events*"))
    for tag in ("before", "after"):
        record = json.loads((whole / "eval" / f"{tag}-valid_unseen.json").read_text())
        assert len(record["episodes"]) == 4
    page = (whole / "report.html").read_text()
    assert "<html" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_the_model_learned_something_and_can_be_loaded(setting, whole):
    _, before, _ = load_agent(setting.model)
    _, after, _ = load_agent(whole / "model")
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, after)
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_a_resumed_run_equals_an_uninterrupted_one(setting, whole, tmp_path):
    """Wherever its games are played: in this process, or then in a worker."""
    folder = tmp_path / "run"
    run(setting, folder, stop_after=2)
    assert workdir.latest_step(folder) == 2
    workers = dataclasses.replace(setting.world, in_process=False)
    run(setting, folder, resume=True, world=workers)
    assert filecmp.cmp(whole / "metrics.jsonl", folder / "metrics.jsonl", shallow=False)
    for step in range(1, 5):
        name = f"episodes/{step:06d}.jsonl.gz"
        assert filecmp.cmp(whole / name, folder / name, shallow=False)
    a, b = (load_agent(f / "model")[1] for f in (whole, folder))
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("place", ["rollout", "log"])
def test_ctrl_c_keeps_what_is_finished(setting, whole, tmp_path, monkeypatch, place):
    """Between updates it stops at once; while files are written, right after."""
    folder, calls = tmp_path / "run", []
    rollout = draws.rollout

    def press(*args, **options):
        calls.append(None)
        if len(calls) == 4:  # two evaluations, one iteration, then
            os.kill(os.getpid(), signal.SIGINT)
        return rollout(*args, **options) if place == "rollout" else None

    if place == "rollout":
        monkeypatch.setattr(draws, "rollout", press)
        monkeypatch.setattr(evaluation, "rollout", press)
        finished = 1
    else:
        pressing = trackers.Trackers([trackers.Place(press, lambda: None)])
        monkeypatch.setattr(trackers, "start", lambda *_: pressing)
        calls += [None, None]
        finished = 2
    with pytest.raises(KeyboardInterrupt):
        run(setting, folder)
    assert workdir.latest_step(folder) == finished
    assert [line["step"] for line in lines(folder)] == list(range(1, finished + 1))
    monkeypatch.undo()
    run(setting, folder, resume=True)
    assert filecmp.cmp(whole / "metrics.jsonl", folder / "metrics.jsonl", shallow=False)


def test_ctrl_c_before_the_first_update_can_be_resumed(
    setting, whole, tmp_path, monkeypatch
):
    def press(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.panel, "play", press)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(setting, folder)
    monkeypatch.undo()
    run(setting, folder, resume=True)
    assert filecmp.cmp(whole / "metrics.jsonl", folder / "metrics.jsonl", shallow=False)


def test_a_start_that_fails_leaves_the_folder_free(setting, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(setting, folder, model=str(tmp_path / "nowhere"))
    assert not folder.exists()


def test_the_critic_can_learn_first(setting):
    """The actor's steps are nought until then, and rise afterwards."""
    config = dataclasses.replace(
        setting, critic_first=2, lr_warmup=2, lr_end=0.5, num_updates=10
    )
    steps = [float(setup.schedule_of(config)(step)) for step in range(10)]
    assert steps[:2] == [0.0, 0.0] and steps[2] > 0
    np.testing.assert_allclose(steps[2:4], [0.5 * 0.9, 0.85])
    plain = setup.schedule_of(dataclasses.replace(config, critic_first=0))
    np.testing.assert_allclose(float(plain(0)), 0.5)
    plain = setup.schedule_of(setting)  # neither: constant
    np.testing.assert_allclose([float(plain(s)) for s in (0, 3)], 1.0)


def test_eval_reads_the_newest_checkpoint(whole, tmp_path):
    record = evaluate_checkpoint(
        str(whole),
        split="valid_unseen",
        episodes=0,
        temperature=0.4,
        seed=0,
        slots=4,
        data="",
        out=str(tmp_path / "eval.json"),
    )
    after = json.loads((whole / "eval" / "after-valid_unseen.json").read_text())
    assert record["episodes"] == after["episodes"]
    assert record["step"] == 4


def test_eval_allocates_the_actor_and_no_optimizer(setting, whole):
    gc.collect()
    before = {id(x) for x in jax.live_arrays()}
    _, state = newest(whole, setting)
    gc.collect()
    fresh = [x for x in jax.live_arrays() if id(x) not in before]
    assert {id(x) for x in fresh} == {
        id(x) for x in (state.step, *jax.tree.leaves(state.actor))
    }
    assert int(state.step) == 4
    for part in (state.critic, state.reference, state.actor_opt, state.critic_opt):
        leaves = jax.tree.leaves(part)
        assert leaves and all(type(x) is jax.ShapeDtypeStruct for x in leaves)


def test_eval_of_adapters_reads_what_they_stand_on(setting, tmp_path):
    config = dataclasses.replace(setting, lora_rank=2)
    agent, actor, critic = setup.load_for(config.model, config)
    functions = setup.build(config, agent)
    key = jax.random.key_data(jax.random.key(1))
    state = functions.init_state(actor, critic, key)
    state = state.replace(actor=jax.tree.map(lambda leaf: leaf + 0.01, state.actor))
    workdir.save(tmp_path, 1, state)
    _, found = newest(tmp_path, config)
    jax.tree.map(
        np.testing.assert_array_equal,
        assemble.policy(agent, found),
        assemble.policy(agent, state),
    )
    assert type(jax.tree.leaves(found.actor_opt)[0]) is jax.ShapeDtypeStruct


def test_a_run_is_not_overwritten(setting, whole):
    with pytest.raises(ValueError, match="--resume"):
        run(setting, whole)


def test_nothing_to_resume_is_said(setting, tmp_path):
    with pytest.raises(FileNotFoundError, match="without --resume"):
        run(setting, tmp_path / "none", resume=True)


def test_a_checkpoint_of_another_shape_is_said(setting, whole, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    agent, actor, critic = small.agent(num_heads=2, num_kv_heads=1)
    model = tmp_path / "other"
    save_agent(model, agent, actor, critic, tokenizer=setting.model)
    with pytest.raises(ValueError, match="model .* there"):
        run(setting, folder, resume=True, model=str(model))
    with pytest.raises(ValueError, match="does not fit these settings"):
        run(setting, folder, resume=True, model=str(model), accept_changes=True)


def test_training_games_are_each_played_once_an_epoch():
    games = [f"g{i}" for i in range(10)]
    epoch = [
        g for step in range(5) for g in worlds.training_games(games, step, 4, seed=1)
    ]
    assert sorted(epoch[:10]) == sorted(epoch[10:]) == games
    assert epoch[:10] != epoch[10:]
