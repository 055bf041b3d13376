"""A warm start may be taught to write, follow and judge by strategies."""

import dataclasses

import numpy as np
import pytest
import small
import tiny_runs
from test_warmstart import WORLD

from hiper_jax.act.envs.world import world_of
from hiper_jax.act.strategy_judge import read_flags
from hiper_jax.experiments import games
from hiper_jax.experiments.warmstart import demonstrations
from hiper_jax.experiments.warmstart.warmstart import WarmStart, warmstart


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("games"))
    world = dataclasses.replace(WORLD, cache=cache, max_turns=40)
    games.games_folder(world)
    tasks = games.training_manifest(world).ids
    return list(demonstrations.play(tasks, world, noise=0.3, seed=0, workers=1))


def rows(demos, share, max_prompt=900):
    return demonstrations.rows(
        demos,
        world_of(WORLD),
        small.codec(),
        style="terse",
        max_prompt=max_prompt,
        history_length=2,
        mistakes=0.1,
        haste=0.3,
        seed=3,
        strategies=share,
    )


def test_a_share_of_demonstrations_stands_under_strategies_and_teaches_two_rows(demos):
    decode = small.codec().decode
    plain, taught = rows(demos, 0.0), rows(demos, 1.0)
    assert len(taught) == len(plain) + 2 * len(demos)
    left, right = iter(plain), iter(taught)
    told = world_of(WORLD).lesson.strategy
    for demo in demos:
        strategy = told(demo)
        asked, judged = next(right), next(right)
        assert decode(asked.prompt).endswith("strategy:\n")
        assert decode(asked.response) == strategy and strategy.startswith("find ")
        assert f"strategy: {strategy}\n" in decode(judged.prompt)
        useless = [t for t, s in enumerate(demo.steps) if s.action != s.expert_action]
        assert read_flags(decode(judged.response), len(demo.steps)) == tuple(useless)
        for _ in demo.steps:
            one, other = next(left), next(right)
            np.testing.assert_array_equal(one.response, other.response)
            whole = f"strategy: {strategy}\n" + decode(one.prompt)
            assert decode(other.prompt) == whole
    half = len(rows(demos, 0.5)) - len(plain)
    assert 0 < half < 2 * len(demos) and half % 2 == 0


def test_a_strategy_names_stages_and_nothing_that_was_only_found(demos):
    told = world_of(WORLD).lesson.strategy
    for demo in demos:
        stages = told(demo).split(", ")
        assert len(set(stages)) == len(stages)
        assert not any(":" in s or "(" in s or s.startswith("return") for s in stages)


def test_a_world_that_cannot_say_a_strategy_is_refused(tmp_path):
    config = WarmStart(
        out=str(tmp_path / "start"),
        world=tiny_runs.levels(tmp_path),
        strategies=0.5,
        **tiny_runs.WARM_START,
    )
    with pytest.raises(ValueError, match="leave out --strategies"):
        warmstart(config)
    assert not (tmp_path / "start").exists()
