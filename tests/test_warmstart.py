"""From games to an agent that can be trained: demonstrations, imitation, the files."""

import dataclasses
import random

import jax
import numpy as np
import pytest
import small
import tiny_runs

from hiper_jax import lm
from hiper_jax.act.envs.world import load_world
from hiper_jax.act.envs.worlds.alfworld import AlfWorldSettings, lesson
from hiper_jax.act.envs.worlds.alfworld.world import AlfWorld
from hiper_jax.act.format import read_response
from hiper_jax.experiments import games as worlds
from hiper_jax.experiments.warmstart import demonstrations
from hiper_jax.experiments.warmstart.demonstrations import Row
from hiper_jax.experiments.warmstart.imitate import imitate
from hiper_jax.experiments.warmstart.settings import WarmStart
from hiper_jax.experiments.warmstart.warmstart import warmstart
from hiper_jax.networks.agent import load_agent

WORLD = AlfWorldSettings(
    train=6,
    seen=0,
    unseen=2,
    receptacles=(5, 6),
    objects=(5, 6),
    max_turns=4,
    workers=1,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm")
    world = dataclasses.replace(WORLD, cache=str(folder / "games"))
    config = WarmStart(
        out=str(folder / "start"),
        world=world,
        critic_rounds=1,
        **tiny_runs.WARM_START,
    )
    return config, warmstart(config)


def test_a_warm_start_can_be_loaded_and_fits_in_eight_megabytes(made):
    _, folder = made
    agent, actor, critic = load_agent(folder)
    assert agent.config.vocab_size == agent.codec.vocab_size
    assert agent.critic_config.depth == 1
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 8e6
    assert float(np.abs(critic["value"]).max()) > 0  # the critic was fitted
    del actor


def games_of(world, split):
    return worlds.manifest(world, split).ids


def test_a_critic_deeper_than_its_actor_is_refused(made):
    with pytest.raises(ValueError, match="critic_depth must be 1 to 2"):
        dataclasses.replace(made[0], critic_depth=3)


@pytest.mark.parametrize("name", ["noise", "mistakes", "haste"])
def test_what_is_no_share_is_refused(made, name):
    with pytest.raises(ValueError, match=f"{name} must be a number from 0 to 1, got 2"):
        dataclasses.replace(made[0], **{name: 2.0})


def test_a_folder_in_use_is_refused(made):
    config, folder = made
    with pytest.raises(ValueError, match="another --out"):
        warmstart(config)


def test_a_demonstration_reads_back_as_the_experts_move(made):
    config, _ = made
    games = games_of(config.world, "train")
    world = dataclasses.replace(config.world, max_turns=30)
    (demo,) = demonstrations.play(games[:1], world, noise=0.3, seed=0, workers=1)
    rng = random.Random(0)
    said = list(
        demonstrations.texts(
            demo,
            load_world("alfworld"),
            style="terse",
            mistakes=0.0,
            haste=0.0,
            rng=rng,
        )
    )
    assert len(said) == len(demo.steps)
    subgoal = ""
    for (prompt, response), step in zip(said, demo.steps, strict=True):
        reply = read_response(response)
        assert reply.valid
        assert reply.action == step.expert_action
        assert reply.subgoal == step.subgoal
        assert (reply.switch == "SWITCH") == step.switch == (step.subgoal != subgoal)
        assert prompt[3] == subgoal  # the prompt shows the subgoal of the turn before
        subgoal = step.subgoal


def test_a_demonstration_is_the_same_whichever_share_its_environment(made, monkeypatch):
    config, _ = made
    games = games_of(config.world, "train")
    world = dataclasses.replace(config.world, max_turns=30)

    def played(together):
        monkeypatch.setattr(demonstrations, "TOGETHER", together)
        return list(demonstrations.play(games, world, noise=0.3, seed=0, workers=1))

    by_fours = played(4)
    assert [demo.task for demo in by_fours] == list(games)
    assert by_fours == played(1)


def test_a_player_in_haste_passes_by_what_it_should_take(made):
    config, _ = made
    games = games_of(config.world, "train")
    world = dataclasses.replace(config.world, max_turns=30)
    passed = 0
    for demo in demonstrations.play(games, world, noise=0.0, seed=0, workers=1):
        said = demonstrations.texts(
            demo,
            load_world("alfworld"),
            style="terse",
            mistakes=0.0,
            haste=1.0,
            rng=random.Random(0),
        )
        places = [
            action.removeprefix("go to ")
            for action in demo.info["admissible_actions"]
            if action.startswith("go to ")
        ]
        for (prompt, response), step in zip(said, demo.steps, strict=True):
            reply = read_response(response)
            assert reply.valid
            assert (reply.switch == "SWITCH") == (reply.subgoal != prompt[3])
            if not step.expert_action.startswith("take "):
                assert (reply.subgoal, reply.action) == (
                    step.subgoal,
                    step.expert_action,
                )
                continue
            passed += 1
            assert reply.action in step.admissible_actions
            here = step.expert_action.rsplit(" from ")[1]
            there = reply.action.removeprefix("go to ")
            assert (places.index(there) - places.index(here)) % len(places) == 1
            # It still knows what it looks for, and where a lamp was.
            assert reply.subgoal == step.subgoal.replace(here, there, 1)
            assert reply.subgoal.startswith("find ")
    assert passed >= len(games)


def test_unseen_rooms_are_left_out_of_practice(made):
    config, _ = made
    unseen = games_of(config.world, "valid_unseen")
    train = games_of(config.world, "train")
    env = AlfWorld()
    assert not set(lesson.layouts(env, unseen)) & set(lesson.layouts(env, train))


def test_imitation_learns_a_rule():
    codec = small.codec()
    rows = []
    for place in small.PLACES:
        prompt = codec.encode_prompt(f"now: You see a {place}.\n")
        response = codec.encode_response(
            small.RESPONSE.format("KEEP", "find book", f"go to {place}")
        )
        rows += [Row(np.array(prompt, np.int32), np.array(response, np.int32))] * 8
    shape = lm.tiny(codec.vocab_size, width=32, depth=2, mlp_width=48, head_dim=8)
    seen = []
    imitate(
        lm.init(shape, jax.random.key(0)),
        shape,
        rows,
        steps=150,
        batch=16,
        learning_rate=1e-2,
        prompt_weight=0.1,
        length_buckets=(64,),
        seed=0,
        report=lambda step, metrics: seen.append(metrics),
    )
    assert seen[-1]["accuracy"] > 0.95 > seen[0]["accuracy"]


def test_too_few_rows_for_a_batch_are_said():
    row = Row(np.array([1, 2], np.int32), np.array([3], np.int32))
    shape = lm.tiny(64, width=32, depth=1, mlp_width=32, head_dim=8)
    with pytest.raises(ValueError, match="fewer than a batch"):
        imitate(
            lm.init(shape, jax.random.key(0)),
            shape,
            [row],
            steps=1,
            batch=4,
            learning_rate=1e-3,
            prompt_weight=0.0,
            length_buckets=(16,),
            seed=0,
        )
