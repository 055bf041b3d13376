"""A run in a store is the run in a folder, whichever machine goes on with it.

Through gcsfs and TensorStore to a bucket of our own: no real one was tried.
"""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import fake_bucket
import pytest
import tiny_runs

from hiper_jax import workdir
from hiper_jax.experiments import config as configs
from hiper_jax.experiments.cli import main
from hiper_jax.experiments.eval import evaluate_checkpoint
from hiper_jax.experiments.train import train

RUN = "gs://bucket/runs/one"
TIMED = ("timing.jsonl", "report.html", "tensorboard/", ".svg", "report/")


@pytest.fixture(scope="module")
def bucket():
    pytest.importorskip("gcsfs")
    found, told = fake_bucket.serving()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        yield found


def hiper(words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert not stop.value.code


def machine(patch, folder):
    """Another machine: nothing of what was copied is on its disk."""
    patch.setenv("HIPER_CACHE", str(folder))


@pytest.fixture(scope="module")
def runs(bucket, tmp_path_factory):
    """The same settings three times: in a folder; in the bucket, killed; then resumed.

    Returns:
      The run's folder, what the bucket held when the process was dead, a folder for
      caches, and the settings.
    """
    folder = tmp_path_factory.mktemp("store")
    world = tiny_runs.levels(folder, max_turns=2)
    made = tiny_runs.settings(
        folder, world, checkpoint_every=1, num_updates=4, eval_episodes=2
    )
    made = configs.with_estimator(made, "rloo", samples=2)
    model = folder / "model"
    for file in model.rglob("*"):
        if file.is_file():
            name = f"bucket/models/tiny/{file.relative_to(model)}"
            bucket.put(name, file.read_bytes())
    (folder / "settings.json").write_text(json.dumps(dataclasses.asdict(made)))
    local = train(dataclasses.replace(made, out=str(folder / "one")), "quickstart")
    with pytest.MonkeyPatch.context() as patch:
        machine(patch, folder / "first")
        words = ["train", "quickstart", "--config", str(folder / "settings.json")]
        words += ["--out", RUN, "--model", "gs://bucket/models/tiny"]
        child = subprocess.Popen([sys.executable, "-m", CLI, *words])
        until = time.monotonic() + 200
        while "bucket/runs/one/checkpoints/00000002/manifest.json" not in (
            bucket.objects
        ):
            assert child.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = bucket.names("bucket/runs/one/")
        machine(patch, folder / "second")
        train(
            dataclasses.replace(
                made, out=RUN, model="gs://bucket/models/tiny", resume=True
            ),
            "quickstart",
        )
    return local, before, folder, made


CLI = "hiper_jax.experiments.cli"


def test_a_run_killed_in_a_store_ends_as_one_in_a_folder(bucket, runs):
    """Byte for byte, but for times and where things lie."""
    local, before, *_ = runs
    assert "bucket/runs/one/checkpoints/00000002/manifest.json" in before
    assert "bucket/runs/one/model/model.safetensors" not in before
    ours = {
        str(file.relative_to(local))
        for file in local.rglob("*")
        if file.is_file() and "checkpoints" not in file.parts
    }
    above = "bucket/runs/one/"
    theirs = {name.removeprefix(above) for name in bucket.names(above)}
    theirs = {name for name in theirs if not name.startswith("checkpoints/")}
    assert ours == theirs
    equal = {name for name in ours if not any(part in name for part in TIMED)}
    assert {"metrics.jsonl", "model/model.safetensors"} <= equal
    assert any(name.startswith("episodes/000004") for name in equal)
    for name in equal - {"config.json"}:
        assert bucket.objects[above + name].data == (local / name).read_bytes(), name
    assert workdir.latest_step(RUN) == workdir.latest_step(local) == 4


@pytest.fixture
def reader(bucket, runs, monkeypatch):
    """A third machine, which has only what the bucket says."""
    del bucket
    machine(monkeypatch, runs[2] / "third")
    return runs[0]


def test_reports_lists_and_episodes_of_a_store_are_those_of_the_folder(
    reader, bucket, capsys
):
    page = bucket.objects.pop("bucket/runs/one/report.html").data
    hiper(["report", RUN])
    assert capsys.readouterr().out.split() == [f"{RUN}/report.html"]
    assert bucket.objects["bucket/runs/one/report.html"].data == page
    begin = len(bucket.asked)
    hiper(["runs", "gs://bucket/runs"])
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("one")]
    assert "finished" in line and "4/4" in line
    assert not [name for _, name in bucket.asked[begin:] if "episodes" in name]
    ours, theirs = ([str(e) for e in workdir.stored(p)] for p in (reader, RUN))
    assert len(theirs) == 16
    # Entries name the run by its folder.
    assert [e.replace("'one'", "") for e in theirs] == [
        e.replace(f"{reader.name!r}", "") for e in ours
    ]


def test_eval_of_a_store_plays_as_eval_of_the_folder(reader, bucket, tmp_path):
    begin = len(bucket.asked)
    played = [
        evaluate_checkpoint(str(run), **tiny_runs.panel(2, tmp_path / f"{i}.json"))
        for i, run in enumerate((reader, RUN))
    ]
    assert played[0] == played[1]
    read = [name for _, name in bucket.asked[begin:]]
    assert not [n for n in read if "episodes" in n or "runs/one/model/" in n]


def test_a_run_of_a_store_is_begun_and_gone_on_with_only_as_it_may(runs, monkeypatch):
    *_, folder, made = runs
    machine(monkeypatch, folder / "fourth")
    again = dataclasses.replace(made, out=RUN, model="gs://bucket/models/tiny")
    with pytest.raises(ValueError, match=f"^{RUN} holds a run already"):
        train(again, "quickstart")
    other = dataclasses.replace(again, resume=True, seed=1)
    with pytest.raises(ValueError, match=f"^{RUN} was begun with other .*seed 0 there"):
        train(other, "quickstart")
    with pytest.raises(FileNotFoundError, match="^gs://bucket/no holds no run to"):
        train(dataclasses.replace(again, out="gs://bucket/no", resume=True), "x")
