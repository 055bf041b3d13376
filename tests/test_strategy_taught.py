"""A warm start may be taught to write, follow and judge by strategies."""

import dataclasses

import numpy as np
import pytest
import small
from test_warmstart import WORLD

from hiper_jax.act.envs.world import world_of
from hiper_jax.act.strategy_judge import read_flags
from hiper_jax.experiments import games
from hiper_jax.experiments.warmstart import demonstrations


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("games"))
    world = dataclasses.replace(WORLD, cache=cache, max_turns=40)
    games.games_folder(world)
    tasks = games.training_manifest(world).ids
    return list(demonstrations.play(tasks, world, noise=0.3, seed=0, workers=1))


def rows(demos, share, style="terse", strategy_style=""):
    return demonstrations.rows(
        demos,
        world_of(WORLD),
        small.codec(),
        style=style,
        max_prompt=4000,
        history_length=2,
        mistakes=0.1,
        haste=0.3,
        seed=3,
        strategies=share,
        strategy_style=strategy_style,
    )


def test_a_share_of_demonstrations_stands_under_strategies_and_is_judged(demos):
    decode = small.codec().decode
    plain, taught = rows(demos, 0.0), rows(demos, 1.0)
    assert len(taught) == len(plain) + len(demos)
    left, right = iter(plain), iter(taught)
    for demo in demos:
        strategy, judged = demo.steps[0].subgoal, next(right)
        assert f"strategy: {strategy}\n" in decode(judged.prompt)
        useless = [t for t, s in enumerate(demo.steps) if s.action != s.expert_action]
        assert read_flags(decode(judged.response), len(demo.steps)) == tuple(useless)
        for _ in demo.steps:
            one, other = next(left), next(right)
            np.testing.assert_array_equal(one.response, other.response)
            text = decode(other.prompt)
            assert text.replace(f" strategy: {strategy}", "", 1) == decode(one.prompt)
    half = len(rows(demos, 0.5)) - len(plain)
    assert 0 < half < len(demos)


def test_where_the_wording_asks_it_is_taught_to_answer_with_the_stages(demos):
    decode, told = small.codec().decode, world_of(WORLD).lesson.strategy
    for style, question, head in [
        (("full", ""), "choose a strategy for the whole", "Your strategy for the "),
        (("terse", "taught"), "\nstrategy:\n", "strategy: "),
    ]:
        taught = iter(rows(demos[:2], 1.0, *style))
        for demo in demos[:2]:
            _, asked, *turns = [next(taught) for _ in range(2 + len(demo.steps))]
            assert question in decode(asked.prompt)
            stages = told(demo).split(", ")
            assert decode(asked.response) == ", ".join(dict.fromkeys(stages))
            assert not any(":" in s or "(" in s for s in stages)
            for turn in turns:
                assert decode(turn.prompt).startswith(head)
                assert f": {told(demo)}\n" in decode(turn.prompt)
