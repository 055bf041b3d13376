"""Training over two processes is training in one; what ends one of them ends both."""

import dataclasses
import json
import os
import pathlib
import signal
import time

import fake_bucket
import numpy as np
import pytest
import tiny_runs
from families import until

from hiper_jax import workdir
from hiper_jax.experiments import config as configs
from hiper_jax.experiments.bench.kills import Family
from hiper_jax.experiments.cli import main
from hiper_jax.experiments.launch import split
from hiper_jax.experiments.train import train
from hiper_jax.lm import safetensors

LOST = 8  # seconds
RUN, OBJECTS = "gs://bucket/pods/two", "bucket/pods/two/"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Three iterations without a critic, on eight devices, and a file that says so."""
    folder = tmp_path_factory.mktemp("pods")
    made = configs.with_estimator(
        tiny_runs.settings(
            folder,
            tiny_runs.levels(folder, max_turns=2),
            mesh=configs.Mesh(data=8),
            num_updates=3,
            samples=2,
            checkpoint_every=1,
            checkpoint_minutes=1e6,
        ),
        "rloo",
    )
    learn = dataclasses.replace(made.learn, minibatch=8, chunk=8, kl_coef=0.0)
    made = dataclasses.replace(made, learn=learn, eval_episodes=3)
    (folder / "settings.json").write_text(json.dumps(dataclasses.asdict(made)))
    return folder, made


@pytest.fixture(scope="module")
def alone(settings):
    """The run of one process."""
    folder, made = settings
    return train(dataclasses.replace(made, out=str(folder / "one")), "quickstart")


@pytest.fixture(scope="module")
def interrupted(settings, tmp_path_factory):
    """The run of two, ended once by SIGTERM and once by SIGKILL, then ended by one.

    It lies in a bucket, and each goes on with it as if on another machine. SIGKILL
    comes while a checkpoint is written, of which the training does not know.
    """
    pytest.importorskip("gcsfs")
    folder, made = settings
    machines, patch = tmp_path_factory.mktemp("machines"), pytest.MonkeyPatch()
    patch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ["HIPER_TEST_PROGRAMS"])
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    bucket, known = fake_bucket.serving()
    for name, value in known.items():
        patch.setenv(name, value)
    words = ["train", "quickstart", "--config", str(folder / "settings.json")]
    words += ["--out", RUN, "--lost-after", str(LOST)]
    patch.setenv("HIPER_CACHE", str(machines / "1"))
    told = Family(words, 2, 4)
    until_iteration(told, bucket, 1)
    told.signal(1, signal.SIGTERM)
    codes = told.wait(120)
    saved = workdir.latest_step(RUN) or 0
    words += ["--resume", "--mesh.serving", "all"]
    script = str(pathlib.Path(__file__).with_name("held_run.py"))
    held = machines / "held"
    programs = [[script, str(held)], ["-m", "hiper_jax.experiments.cli"]]
    patch.setenv("HIPER_CACHE", str(machines / "2"))
    killed = Family(words, 2, 4, program=programs.__getitem__)
    until_iteration(killed, bucket, saved + 1)
    until(killed, held.exists)
    until_iteration(killed, bucket, min(saved + 2, 3))
    killed.signal(1, signal.SIGKILL)
    began = time.monotonic()
    left = killed.wait(120)
    seconds = time.monotonic() - began
    counts = workdir.latest_step(RUN)
    files = [name.rpartition("/")[2] for name in bucket.names(f"{OBJECTS}episodes/")]
    patch.setenv("HIPER_CACHE", str(machines / "3"))
    train(dataclasses.replace(made, out=RUN, resume=True), "quickstart")
    run = workdir.here(RUN)
    patch.undo()
    dead = killed, left, seconds, counts, held.read_text()
    return run, (told, codes, saved), dead, files


def until_iteration(family, bucket, step):
    def done():
        found = bucket.objects.get(f"{OBJECTS}metrics.jsonl")
        return found is not None and len(found.data.splitlines()) >= step

    until(family, done)


def weights(run):
    found = safetensors.read_file(run / "model" / "model.safetensors")
    return {name: np.asarray(value) for name, value in found.items()}


def test_a_signal_to_one_process_ends_both_at_one_step(interrupted):
    _, (family, codes, saved), _, _ = interrupted
    assert codes == [143, 143], family.lines
    assert 1 <= saved <= 3
    assert any("nothing is lost" in line for line in family.lines[0])
    assert not any("nothing is lost" in line for line in family.lines[1])


def test_a_process_that_is_killed_is_named_by_the_other(interrupted):
    _, _, (family, codes, seconds, *_), _ = interrupted
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, None)
    assert seconds < LOST + 30
    assert "process 1" in family.named(1) and "is lost" in family.named(1)


def test_a_checkpoint_that_is_being_written_does_not_count(interrupted):
    """Though both processes had written their parts, and training had gone on."""
    _, (_, _, saved), (*_, counts, written), _ = interrupted
    assert counts == saved
    assert written == f"{RUN}/checkpoints/{saved + 1:08d}"


def test_two_processes_interrupted_twice_train_as_one(alone, interrupted):
    """Same episodes, token for token; weights to 1e-5 of themselves."""
    run = interrupted[0]
    for step in (1, 2, 3):
        pairs = zip(
            *(
                workdir.read_episodes(workdir.episode_files(r)[step])
                for r in (alone, run)
            ),
            strict=True,
        )
        for one, other in pairs:
            assert one.game == other.game and len(one.turns) == len(other.turns)
            for a, b in zip(one.turns, other.turns, strict=True):
                np.testing.assert_array_equal(a.prompt, b.prompt)
                np.testing.assert_array_equal(a.response, b.response)
    for name, value in weights(alone).items():
        np.testing.assert_allclose(
            weights(run)[name], value, rtol=1e-4, atol=1e-5, err_msg=name
        )
    for file in ("before-valid_unseen.json", "after-valid_unseen.json"):
        records = [json.loads((r / "eval" / file).read_text()) for r in (alone, run)]
        assert records[0] == records[1]
    lines = [workdir.read_lines(r / "metrics.jsonl") for r in (alone, run)]
    for one, other in zip(*lines, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_each_process_writes_its_own_episodes_and_one_the_numbers(interrupted):
    run, _, _, files = interrupted
    assert files[:2] == [f"000001-0000{i}-of-00002.jsonl.gz" for i in (1, 2)]
    steps = [line["step"] for line in workdir.read_lines(run / "metrics.jsonl")]
    assert steps == [1, 2, 3]
    first = next(iter(workdir.episode_files(run).values()))
    assert len(list(workdir.read_episodes(first))) == 4
    (first.parent / files[1]).unlink()
    with pytest.raises(ValueError, match="00002-of-00002.* is gone"):
        list(workdir.read_episodes(first))


@pytest.mark.parametrize(
    "words, said",
    [
        (["--processes", "2"], "coordinator must be HOST:PORT"),
        (["--process", "1"], "process must be below processes"),
        (["--coordinator", "here"], "coordinator must be HOST:PORT, got here"),
        (["--out", "az://bucket/run"], "--out az://bucket/run is no folder"),
    ],
)
def test_what_cannot_start_is_refused_in_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "quickstart", *words])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not pathlib.Path("az:").exists()


def test_launch_takes_its_own_flags_and_leaves_the_others():
    words = ["launch", "--processes", "3", "--grace=5", "train", "x", "--out", "a b"]
    assert split(words) == [*words[:4], "train x --out 'a b'"]
    assert split(["launch"]) == ["launch"]


def test_launch_ends_with_the_code_of_the_first_that_failed(capfd):
    with pytest.raises(SystemExit) as stop:
        main(["launch", "--processes", "2", "report", "/nowhere"])
    assert stop.value.code == 2
    said = capfd.readouterr()
    assert all(f"[{i}] hiper: " in said.out for i in (0, 1))
    assert "ended first, by code 2" in said.err
