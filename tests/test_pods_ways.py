"""What is drawn, judged or stored is over two processes what it is in one."""

import dataclasses
import json
import os

import numpy as np
import pytest
import tiny_runs

from hiper_jax import workdir
from hiper_jax.experiments import config as configs
from hiper_jax.experiments.bench.kills import Family
from hiper_jax.experiments.train import train


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """One iteration of two tasks: two strategies of five, two episodes under each."""
    folder = tmp_path_factory.mktemp("ways")
    made = tiny_runs.settings(
        folder,
        tiny_runs.levels(folder, max_turns=2),
        mesh=configs.Mesh(data=8),
        num_updates=1,
        episodes=8,
        slots=8,
        eval_episodes=2,
    )
    sizes = {"candidates": 5, "strategies": 2, "trajectories": 2, "kl_coef": 0.0}
    learn = configs.learning("strata")(minibatch=8, chunk=8, **sizes)
    return folder, dataclasses.replace(made, estimator="strata", learn=learn, redraw=1)


def both(settings, name, **changes):
    """The run of one process and that of two."""
    folder, made = settings
    one = train(
        dataclasses.replace(made, out=str(folder / f"{name}-1"), **changes), "test"
    )
    file, two = folder / f"{name}.json", folder / f"{name}-2"
    made = dataclasses.replace(made, out=str(two), **changes)
    file.write_text(json.dumps(dataclasses.asdict(made)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["HIPER_TEST_PROGRAMS"])
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
        family = Family(["train", "quickstart", "--config", str(file)], 2, 4)
        assert family.wait(400) == [0, 0], family.lines
    return one, two


@pytest.fixture(scope="module")
def drawn(settings):
    return both(settings, "drawn")


def test_strategies_and_what_is_drawn_again_are_those_of_one_process(drawn):
    check(*drawn)
    one, two = (workdir.read_lines(run / "metrics.jsonl")[0] for run in drawn)
    assert one["redraw/tasks"] > 0 and one["strategy/distance"] > 0
    assert one.keys() == two.keys()
    for name, value in one.items():
        if name.partition("/")[0] in ("rollout", "redraw", "strategy"):
            assert two[name] == pytest.approx(value, rel=1e-5), name


def test_stored_episodes_teach_two_processes_what_they_teach_one(settings, drawn):
    one, two = both(settings, "stored", offline=str(drawn[0]), redraw=0)
    check(one, two)
    lines = [workdir.read_lines(run / "metrics.jsonl")[0] for run in (one, two)]
    for name in ("offline/effective_share", "offline/ratio", "policy/entropy"):
        assert lines[1][name] == pytest.approx(lines[0][name], rel=1e-4), name


def check(one, two):
    """Episodes, whichever process wrote them, strategies and flags are the same."""

    def told(run):
        files = workdir.episode_files(run)
        return sorted(map(said, workdir.read_episodes(files[1])))

    def said(episode):
        plan = episode.strategy
        tokens = [
            np.concatenate([t.prompt, t.response]).tolist() for t in episode.turns
        ]
        own = plan.number, plan.candidate, plan.response.tolist()
        return episode.game, own, tokens, episode.flagged or ()

    assert told(one) == told(two) and len(told(one)) == 8
