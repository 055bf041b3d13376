"""Where metrics go: the same numbers in each place, and on in the same run there."""

import dataclasses
import json
import math
import struct

import numpy as np
import pytest

from hiper_jax import workdir
from hiper_jax.experiments import trackers
from hiper_jax.experiments.config import Train

STEPS = {1: 0.25, 2: 0.5, 3: 0.75}


def log_in_two_calls(config, run):
    """Steps 1 and 2, a checkpoint, and after a resume steps 2 and 3."""
    for call in ((1, 2), (2, 3)):
        with trackers.start(config, "quickstart", run) as log:
            for step in call:
                log(step, {"rollout/success": STEPS[step], "loss/kl": math.nan})
        workdir.save(run, 2, {"x": np.zeros(1)}, {"name": "test"})


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_tensorboard_has_the_numbers_of_every_step(run):
    """Read by the wire format, and by TensorBoard where it is installed."""
    for step, value in STEPS.items():
        workdir.append_metrics(run, step, {"rollout/success": value}, {"seconds": 2.0})
    files = sorted((run / "tensorboard").iterdir())
    assert len(files) == 3
    for file, value in zip(files, STEPS.values(), strict=True):
        data = file.read_bytes()
        place = data.index(b"rollout/success") + len(b"rollout/success")
        assert data[place : place + 1] == b"\x15"
        assert np.frombuffer(data[place + 1 : place + 5], "<f4") == np.float32(value)
        assert b"timing/seconds" in data


def records_of(data):
    """The records of an offline file of W&B: blocks of 32 KiB, as LevelDB's log."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:  # no room for a head
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


def test_wandb_goes_on_in_the_run_that_was_begun(run, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = dataclasses.replace(Train(), wandb=True, project="of-mine", seed=3)
    log_in_two_calls(config, run)
    known = json.loads((run / "trackers.json").read_text())["id"]
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    assert [f.name for f in files] == [f"run-{known}.wandb"] * 2
    seen, begun = [], []
    for file in files:
        for data in records_of(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                begun.append((record.run.project, record.run.run_id))
                assert record.run.display_name == "quickstart-3"
            if record.HasField("history"):
                items = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in record.history.item
                }
                assert "loss/kl" not in items
                seen.append((items["_step"], items["rollout/success"]))
    assert set(begun) == {("of-mine", known)} and len(begun) >= 2
    assert seen == [(1, 0.25), (2, 0.5), (2, 0.5), (3, 0.75)]


def test_trackio_goes_on_in_the_run_that_was_begun(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    import sqlite3

    config = dataclasses.replace(Train(), trackio=True, project="of-mine")
    log_in_two_calls(config, run)
    known = json.loads((run / "trackers.json").read_text())["id"]
    (file,) = (tmp_path / "trackio").glob("*.db")
    assert file.stem == "of-mine"
    with sqlite3.connect(file) as base:
        rows = base.execute("select run_name, step, metrics from metrics").fetchall()
    assert {name for name, _, _ in rows} == {f"quickstart-0-{known}"}
    told = {step: json.loads(metrics) for _, step, metrics in rows}
    assert {k: v["rollout/success"] for k, v in told.items()} == STEPS
    assert all("loss/kl" not in v for v in told.values())


def test_a_run_that_begins_again_is_another_one(run, monkeypatch):
    """Before its first checkpoint a run has no past."""

    class Tracker:
        errors = None
        began: list[str] = []

        def init(self, **options):
            self.began.append(options["name"].rpartition("-")[2])

        def log(self, metrics, step):
            raise AssertionError

        def finish(self):
            self.began.append("finished")

    monkeypatch.setattr(trackers, "_module", lambda package: Tracker())
    config = dataclasses.replace(Train(), trackio=True)
    for _ in range(2):
        with trackers.start(config, "quickstart", run):
            pass
    first, done, second, again = Tracker.began
    assert first != second and done == again == "finished"
    workdir.save(run, 1, {"x": np.zeros(1)}, {"name": "test"})
    with pytest.raises(ZeroDivisionError), trackers.start(config, "quickstart", run):
        raise ZeroDivisionError
    assert Tracker.began[-2:] == [second, "finished"]  # an error ends it, too
    (run / "trackers.json").write_text('{"id": "../x"}')
    with trackers.start(config, "quickstart", run):
        pass
    assert Tracker.began[-2] not in (first, second, "../x")


def test_without_trackers_nothing_is_written(run):
    with trackers.start(Train(), "quickstart", run) as log:
        log(1, {"rollout/success": 0.5})
    assert not list(run.iterdir())


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_package_that_is_missing_is_named(run, monkeypatch, package):
    monkeypatch.setattr(trackers.importlib, "import_module", _missing)
    config = dataclasses.replace(Train(), **{package: True})
    with pytest.raises(ValueError, match=rf"--{package} .*hiper-jax\[{package}\]"):
        trackers.start(config, "quickstart", run)


def _missing(name):
    raise ImportError(name)
