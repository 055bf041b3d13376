"""A second start compiles nothing, and what a run calls can be compiled beforehand."""

import dataclasses
import filecmp
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import small
import tiny_runs
from compilations import compilations

from hiper_jax.experiments import config as configs
from hiper_jax.experiments import programs, settings, setup
from hiper_jax.experiments import train as training
from hiper_jax.experiments.capacity.precompile import precompile
from hiper_jax.lm import sharding
from hiper_jax.networks.agent import read_agent, read_weights

# A start of `hiper` that says, as it ends, what it asked JAX's cache for.
START = """
import collections, sys
import jax
from hiper_jax.experiments import cli
heard = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: heard.update([name]))
try:
    cli.main(sys.argv[1:])
finally:
    names = "compile_requests_use_cache", "cache_hits", "cache_misses"
    print(*(heard["/jax/compilation_cache/" + name] for name in names))
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    where = tmp_path_factory.mktemp("programs")
    world = tiny_runs.levels(where, max_turns=2)
    # As in test_folder.py, whose programs are then these, too.
    return tiny_runs.settings(where, world, checkpoint_every=100, actor_lr=1e-3)


def run(setting, where, **changes):
    config = dataclasses.replace(setting, out=str(where), **changes)
    return training.train(config, "test")


@pytest.fixture(scope="module")
def plain(setting, tmp_path_factory):
    return run(setting, tmp_path_factory.mktemp("plain") / "run")


def test_a_second_start_compiles_nothing(setting, tmp_path):
    """Everything is read from the folder, and the numbers are the same bits."""
    words = f"train quickstart --model {setting.model} --world.environment sokoban"
    words += f" --world.levels 8 --world.unseen 4 --world.cache {setting.world.cache}"
    words += " --world.max-turns 2 --reading.max-prompt 220 --reading.max-response 12"
    words += " --learn.minibatch 8 --learn.chunk 4 --episodes 4 --slots 4"
    words += " --num-updates 1 --eval-episodes 1 --eval-seen-episodes 0 --out"
    env = {k: v for k, v in os.environ.items() if k != programs.FOLDER}
    env["HIPER_CACHE"] = str(tmp_path)
    counts, runs = [], [tmp_path / "one", tmp_path / "two"]
    for out in runs:
        done = subprocess.run(
            [sys.executable, "-c", START, *words.split(), str(out)],
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "machine features" not in done.stderr and "warn" not in done.stderr
        counts.append([int(n) for n in done.stdout.splitlines()[-1].split()])
    (_, _, missed), (asked, found, not_found) = counts
    assert missed > 10
    assert asked == found > 10 and not_found == 0
    assert [x.parent.name for x in (tmp_path / "programs").glob("*/*-cache")]
    one, two = (out / "metrics.jsonl" for out in runs)
    assert filecmp.cmp(one, two, shallow=False)


@pytest.fixture
def undecided(monkeypatch):
    """Nobody has said yet where JAX keeps programs; nor is it told."""
    for name in (programs.FOLDER, *programs.OTHERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setenv(programs.FROM, "0")
    yield monkeypatch
    os.environ.pop(programs.FOLDER, None)


def test_a_folder_that_cannot_be_written_is_said_once(undecided, tmp_path):
    (tmp_path / "file").touch()
    undecided.setenv("HIPER_CACHE", str(tmp_path / "file"))
    said = []
    programs.keep_programs(said.append)
    assert len(said) == 1 and "HIPER_CACHE" in said[0] and "\n" not in said[0]
    assert programs.FOLDER not in os.environ


def test_programs_lie_apart_by_kind_of_processor(undecided, tmp_path):
    undecided.setenv("HIPER_CACHE", str(tmp_path))
    folders = []
    for can in ("flags: avx", "flags: avx512"):
        undecided.setattr(programs, "_processor", lambda can=can: can)
        os.environ.pop(programs.FOLDER, None)
        programs.keep_programs(pytest.fail)
        folders.append(pathlib.Path(os.environ[programs.FOLDER]))
    assert folders[0] != folders[1] and all(x.is_dir() for x in folders)


@pytest.mark.parametrize("name", [programs.FOLDER, *programs.OTHERS])
def test_what_jax_was_told_is_left_as_it_is(undecided, tmp_path, name):
    undecided.setenv("HIPER_CACHE", str(tmp_path / "new"))
    undecided.setenv(name, "0")
    programs.keep_programs(pytest.fail)
    assert os.environ[name] == "0" and not (tmp_path / "new").exists()


def recorded(monkeypatch, compiled):
    """Grows by how much had been compiled whenever weights are read."""
    found, read = [], training.read_weights
    monkeypatch.setattr(
        training,
        "read_weights",
        lambda *args: (found.append(list(compiled)), read(*args))[1],
    )
    return found


def ours(compiled):
    """Of the names of compiled programs, those of a run's own."""
    known = re.compile(r"(jit[_(])?(update|sample|unstack_layers)\)?")
    return [name for name in compiled if known.fullmatch(name)]


def test_what_is_compiled_beforehand_is_all_that_is_called(
    setting, plain, tmp_path, monkeypatch, capsys
):
    """Also traced: the profile of the second iteration is there, the bits the same."""
    with compilations() as compiled:
        before = recorded(monkeypatch, compiled)
        out = run(setting, tmp_path / "run", precompile=True, profile_steps="2")
    (first,) = before
    assert ours(first) == ours(compiled) and len(ours(first)) == 9, compiled
    assert "compiled 9 programs in" in capsys.readouterr().out
    assert filecmp.cmp(plain / "metrics.jsonl", out / "metrics.jsonl", shallow=False)
    (trace,) = (out / "profile").glob("plugins/profile/*/*.xplane.pb")
    assert b"iteration" in trace.read_bytes()
    assert not (plain / "profile").exists()


def test_so_it_is_on_a_mesh(setting):
    """In bfloat16 the serving weights have a program of their own."""
    learn = configs.Learn(minibatch=8, chunk=8)
    reading = configs.Reading(max_prompt=220, max_response=20)
    config = dataclasses.replace(
        setting, dtype="bfloat16", learn=learn, reading=reading
    )
    mesh = sharding.make_mesh(2, 4, 1)
    agent = read_agent(config.model, mesh=mesh, **setup.agent_settings(config))
    shapes = setup.run_shapes(config)
    shapes = shapes._replace(lengths=(96,), slots=(8,), prompts=(64,))
    functions = setup.build(config, agent, shapes)
    said = []
    precompile(config, agent, functions, said.append)
    assert "compiled 3 programs" in said[0] and "serve, sample 8 x 64" in said[0]
    key = jax.random.key_data(jax.random.key(1))
    state = functions.init_state(*read_weights(config.model, agent), key)
    with compilations() as compiled:
        noise = jax.random.fold_in(jax.random.key(1), 2)
        play = functions.make_policy(state.actor, noise, config.temperature)
        play([np.arange(5, 9)] * 3, np.arange(3), np.zeros(3, int))
        batch = setup.stacked(
            agent,
            small.episodes(sizes=(2, 1), wins=(True, False)),
            config.reading,
            shapes,
            max_turns=config.world.max_turns,
            num_episodes=config.episodes,
        )
        functions.update(state, batch)
        jax.jit(lambda x: x + 1)(1.0)  # that one is heard
    assert not ours(compiled) and compiled


@pytest.mark.parametrize("steps", ["0:2", "3:2", "2:", "a", "1:2:3", "-1", "2:9"])
def test_steps_that_cannot_be_profiled_are_refused(steps):
    with pytest.raises(ValueError, match="^profile_steps ") as refused:
        configs.Train(num_updates=8, profile_steps=steps)
    assert "\n" not in str(refused.value)


def test_steps_are_counted_from_one_and_both_ends_are_meant():
    assert list(settings.profiled_steps("3:5")) == [3, 4, 5]
    assert list(settings.profiled_steps("4")) == [4] and not settings.profiled_steps("")
