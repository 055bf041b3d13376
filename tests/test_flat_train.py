"""From demonstrations without a plan to a trained run and its report."""

import dataclasses
import json
import random

import numpy as np
import pytest
import tiny_runs
from test_warmstart import WORLD

from hiper_jax import workdir
from hiper_jax.accept import SettingError
from hiper_jax.act.envs.world import WORLDS, load_world, settings_for
from hiper_jax.act.format import read_response
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import games, progress, recipes, starts
from hiper_jax.experiments.report.episode_page import episode_page, pick
from hiper_jax.experiments.train import default_folder, train
from hiper_jax.experiments.warmstart import demonstrations
from hiper_jax.experiments.warmstart.settings import WarmStart
from hiper_jax.experiments.warmstart.warmstart import warmstart
from hiper_jax.networks.agent import load_agent

FLAT = configs.Reading(format="flat")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A tiny warm start that answers without a plan."""
    folder = tmp_path_factory.mktemp("flat")
    return WarmStart(
        out=str(folder / "start"),
        world=dataclasses.replace(WORLD, cache=str(folder / "games")),
        reading=configs.Reading(max_prompt=64, format="flat"),
        critic_rounds=1,
        **tiny_runs.WARM_START,
    )


@pytest.fixture(scope="module")
def made(begun):
    return warmstart(begun)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two iterations, in the shapes of `test_any_estimator`: compiled there, too."""
    folder = tmp_path_factory.mktemp("run")
    config = configs.with_estimator(tiny_runs.of_any_estimator(folder), "gigpo")
    reading = dataclasses.replace(config.reading, format="flat")
    out = str(folder / "run")
    return train(dataclasses.replace(config, reading=reading, out=out), "test")


# --- demonstrations ------------------------------------------------------------------


@pytest.mark.parametrize("haste", [0.0, 0.5])
def test_both_formats_teach_the_same_facts(begun, haste):
    games.games_folder(begun.world)
    tasks = games.training_manifest(begun.world).ids
    world = dataclasses.replace(begun.world, max_turns=30)
    taught = 0
    for demo in demonstrations.play(tasks, world, noise=0.3, seed=0, workers=1):
        plan, flat = (
            demonstrations.texts(
                demo,
                load_world("alfworld"),
                style="terse",
                mistakes=0.1,
                haste=haste,
                rng=random.Random(1),
                format=name,
            )
            for name in ("plan", "flat")
        )
        for (seen, planned), (shown, said) in zip(plan, flat, strict=True):
            assert seen == shown  # the template leaves the subgoal out
            wanted = read_response(planned)
            for mode in ("corrected", "paper"):
                reply = read_response(said, mode=mode, format="flat")
                assert reply.valid and reply.action == wanted.action
                assert not reply.subgoal and not reply.switch
            word = {"SWITCH": "now", "KEEP": "still"}[wanted.switch]
            assert said.startswith(f"<think>{word} {wanted.subgoal}</think><action>")
            taught += 1
    assert taught > 20


# --- the warm start ------------------------------------------------------------------


def test_the_flat_warm_start_has_its_own_tags_and_one_value_in_all_heads(made):
    agent, _, critic = load_agent(made)
    for tag in ("<think>", "</think>", "<action>", "</action>"):
        assert len(agent.codec.encode_prompt(tag)) == 1
    assert len(agent.codec.encode_prompt("<subgoal>")) > 1
    assert float(np.abs(critic["value"]).max()) > 0  # the critic was fitted
    for head in (critic["value"], critic["value_bias"]):
        np.testing.assert_array_equal(head, np.broadcast_to(head[..., :1], head.shape))


def test_the_format_chooses_the_warm_start_that_comes_with_us():
    base = configs.with_estimator(recipes.recipe("quickstart"), "gae_turn")
    flat = dataclasses.replace(base, reading=FLAT)
    assert starts.start_of(base) == starts.WARM_START
    assert starts.start_of(flat) == starts.ASSETS / "warmstart-flat"
    for name in WORLDS:
        other = dataclasses.replace(flat, world=settings_for(name))
        assert (starts.start_of(other) / "config.json").is_file()
    agent, _, _ = load_agent(starts.start_of(flat))
    plan, _, _ = load_agent(starts.start_of(base))
    assert len(agent.codec.encode_prompt("<think>")) == 1
    alike = dataclasses.replace(plan.config, vocab_size=agent.config.vocab_size)
    assert agent.config == alike
    mine = dataclasses.replace(flat, model="mine")
    assert starts.start_of(mine).name == "mine"


def test_hiper_without_a_plan_is_refused_before_anything_is_made():
    with pytest.raises(SettingError, match="estimator hae .*--reading.format plan"):
        dataclasses.replace(recipes.recipe("quickstart"), reading=FLAT)


# --- a run ---------------------------------------------------------------------------


def test_a_run_without_a_plan_says_nothing_of_switches(run, capsys):
    lines = workdir.read_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert "not_finite" not in line and "policy/switch_rate" not in line
        progress.print_iteration(1, 2, line, {"seconds": 1.0, "left": 1.0} | PARTS)
    assert "switch" not in capsys.readouterr().out
    assert json.loads((run / "config.json").read_text())["reading"]["format"] == "flat"
    page = (run / "report.html").read_text()
    assert "format of responses" in page and "Iteration 2" in page
    for word in (">KEEP<", ">SWITCH<", "no subgoal", "1 subgoal", "Most switches"):
        assert word not in page.partition("<h2>Settings")[0], word


PARTS = {"environment": 0.2, "generation": 0.2, "update": 0.2}


def test_its_episodes_are_one_segment_each_and_show_one_advantage(run):
    episodes = list(workdir.read_episodes(run / "episodes" / "000002.jsonl.gz"))
    assert len(episodes) == 4
    for episode in episodes:
        starts = [turn.switch for turn in episode.turns]
        assert starts == [True] + [False] * (len(starts) - 1)
        assert not any(turn.subgoal or turn.said_switch for turn in episode.turns)
        source = episode_page(episode, title="Played", plan=False)
        assert source.count('<span class="name">response</span>') == len(starts)
        assert 'class="strip"' not in source
    assert "most switches" not in pick(episodes, plan=False)


def test_runs_with_and_without_a_plan_have_folders_of_their_own():
    base = configs.with_estimator(recipes.recipe("quickstart"), "gigpo")
    flat = dataclasses.replace(base, reading=FLAT)
    assert default_folder(base, "quickstart") == "runs/quickstart-gigpo-0"
    assert default_folder(flat, "quickstart") == "runs/quickstart-gigpo-flat-0"
