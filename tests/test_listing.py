"""`hiper runs` and `hiper report A B`: what is there, how far it is, side by side."""

import csv
import io
import json
import pathlib
import platform
import subprocess
import sys

import fake_run
import numpy as np
import pytest
from test_report import Page

from hiper_jax import workdir
from hiper_jax.experiments import listing
from hiper_jax.experiments.cli import main as hiper
from hiper_jax.experiments.compare import several

NASTY = "<img src=x onerror=alert(1)>\u202e\x1b[31m"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of HAE, a run of another rate, one that stopped, one damaged."""
    above = tmp_path_factory.mktemp("all")
    for name, seed, changes in (
        ("a", 0, {}),
        ("deep/b", 1, {"keep": 9}),  # which changes no result
        ("c", 0, {"actor_lr": 3e-4}),
    ):
        run = fake_run.make_run(above / name, iterations=8, planned=8, seed=seed)
        adapt(run, **changes)
    run = fake_run.make_run(
        above / "d", iterations=3, planned=8, finished=False, seed=2
    )
    adapt(run)
    broken = fake_run.make_run(above / "e", iterations=3, planned=3)
    with open(broken / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "rollout')
    (above / "e" / "eval" / "after-valid_seen.json").write_text("{")
    (above / "model").mkdir()
    (above / "model" / "config.json").write_text('{"vocab_size": 3}')
    return above


def adapt(run, **changes):
    """Gives a made-up run the settings of a real one."""
    record = json.loads((run / "config.json").read_text())
    record = {k: v for k, v in record.items() if k not in ("world", "reading", "learn")}
    world = {"environment": "alfworld", "max_turns": 30}
    record |= {"estimator": "hae", "world": world, "learn": {"gamma": 0.98}} | changes
    workdir.write_json(run / "config.json", record)


def lines(text):
    return [line.split() for line in text.splitlines()]


def said(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        hiper(words)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_all_runs_are_listed_with_status_success_and_hours(runs, capsys):
    head, *rows = lines(said(capsys, "runs", str(runs)))
    assert head == list(listing.HEAD)
    assert [row[0] for row in rows] == ["a", "c", "d", "deep/b", "e"]
    assert [row[4].rstrip(":") for row in rows] == [
        *("finished", "finished", "stopped", "finished", "damaged")
    ]
    assert rows[0][:4] == ["a", "quickstart", "hae", "0"]
    assert rows[0][5] == "8/8" and rows[2][5] == "3/8"
    table = said(capsys, "runs", str(runs))
    assert "damaged: metrics.jsonl, eval" in table
    assert "% in rollouts" in table and "valid_unseen" in table


def test_the_csv_has_the_numbers_of_the_files(runs, capsys):
    found = csv.DictReader(io.StringIO(said(capsys, "runs", str(runs), "--csv", "-")))
    rows = {pathlib.Path(row["run"]).name: row for row in found}
    first = rows["a"]
    record = json.loads((runs / "a" / "eval" / "after-valid_unseen.json").read_text())
    won = sum(e["won"] for e in record["episodes"])
    assert (first["won"], first["games"]) == (str(won), "120")
    assert float(first["success"]) == pytest.approx(won / 120)
    assert float(first["low"]) < won / 120 < float(first["high"])
    timing = workdir.read_lines(runs / "a" / "timing.jsonl")
    hours = sum(line["seconds"] for line in timing) / 3600
    assert float(first["hours"]) == pytest.approx(hours, 1e-5)
    assert rows["d"]["success"] == "" and float(rows["d"]["rollout_success"]) > 0
    assert (rows["e"]["status"], rows["e"]["fault"]) == (
        "damaged",
        "metrics.jsonl, eval",
    )


def test_the_csv_goes_to_a_file_beside_the_table(runs, tmp_path, capsys):
    file = tmp_path / "deep" / "runs.csv"
    shown = said(capsys, "runs", str(runs), "--csv", str(file))
    assert len(shown.splitlines()) == 6 == len(file.read_text().splitlines())


def test_a_run_is_running_while_its_lock_is_held(tmp_path):
    run = fake_run.make_run(tmp_path / "r", iterations=2, planned=8, finished=False)
    assert listing.read(run).status == "stopped"
    with workdir.locked(run):
        assert listing.read(run).status == "running"
        with open(run / "metrics.jsonl", "a") as file:
            file.write('{"step": 3,')  # it is being written
        assert listing.read(run).status == "running"
        held = (run / ".lock").read_text()
        (run / ".lock").write_text("process 1 on elsewhere\n")
        assert listing.is_running(run)  # the lock itself tells
        (run / ".lock").write_text(held)
    assert not (run / ".lock").exists()
    assert listing.read(run).status == "damaged"
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    (run / ".lock").write_text(f"process {done.pid} on {platform.node()}\n")
    assert not listing.is_running(run)  # what a killed process leaves
    (run / ".lock").write_text("process 1 on elsewhere\n")
    assert not listing.is_running(run)


def test_what_is_no_run_is_none(tmp_path, capsys):
    assert said(capsys, "runs", str(tmp_path)) == f"no run in {tmp_path}\n"
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        listing.find(tmp_path / "gone")
    (tmp_path / "config.json").write_text("[1")
    assert listing.find(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text("")
    (one,) = [listing.read(run) for run in listing.find(tmp_path)]
    assert (one.status, one.fault, one.done) == ("damaged", "config.json", 0)


def test_words_of_others_are_shown_and_not_obeyed(tmp_path, capsys):
    run = fake_run.make_run(tmp_path / "runs" / "r", iterations=2, planned=2)
    adapt(run)
    record = json.loads((run / "config.json").read_text())
    record["provenance"]["preset"] = record["seed"] = NASTY
    workdir.write_json(run / "config.json", record)
    for words in (["runs", str(run.parent)], ["runs", str(run.parent), "--csv", "-"]):
        shown = said(capsys, *words)
        assert not set("\u202e\x1b") & set(shown) and r"\u202e\x1b[31m" in shown


def test_runs_side_by_side_are_bands_over_the_seeds_of_a_variant(
    runs, tmp_path, capsys
):
    folders = [str(runs / name) for name in ("a", "deep/b", "c", "d")]
    out = tmp_path / "out"
    assert said(capsys, "report", *folders, "--out", str(out)) == (
        f"{out / 'report.html'}\n"
    )
    page = Page((out / "report.html").read_text())
    assert "4 runs side by side" in page.text
    assert "d: 3 of 8 iterations, stopped" in page.text
    charts = [a["aria-label"] for t, a in page.elements if "role" in a]
    assert len(charts) == 4 == len(list(out.glob("*.svg")))
    assert "hae:actor_lr=0.0001: " in charts[0] and "hae:actor_lr=0.0003: " in charts[0]
    assert (out / "turns.svg").read_text().count('fill-opacity=".16"') == 1  # one band
    rows = list(csv.DictReader(io.StringIO((out / "curves.csv").read_text())))
    assert len(rows) == 8 + 8 + 8 + 3
    turns = [
        workdir.read_lines(runs / name / "metrics.jsonl")[0]["rollout/turns"]
        for name in ("a", "deep/b", "d")
    ]
    assert f"hae:actor_lr=0.0001: {np.mean(turns):.4g} at iteration 1" in charts[3]
    listed = list(csv.DictReader(io.StringIO((out / "runs.csv").read_text())))
    assert [row["status"] for row in listed] == ["finished"] * 3 + ["stopped"]


def test_variants_are_called_by_what_sets_them_apart():
    base = {"estimator": "hae", "actor_lr": 1e-4, "learn": {"gamma": 1.0}, "seed": 0}
    other = base | {"seed": 1, "out": "elsewhere", "provenance": {"commit": "x"}}
    rate = base | {"actor_lr": 3e-4}
    deep = base | {"learn": {"gamma": 0.9}}
    grpo = base | {"estimator": "grpo", "learn": {}}
    assert several.variants([base, other]) == ["hae", "hae"]
    assert several.variants([base, rate, grpo]) == [
        "hae:actor_lr=0.0001",
        "hae:actor_lr=0.0003",
        "grpo",
    ]
    assert several.variants([base, deep])[1] == "hae:learn.gamma=0.9"
    long = several.variants([base | {"model": "x" * 99}, base | {"model": "x" * 98}])
    assert len(set(long)) == 2 and max(map(len, long)) <= several.LONGEST


def test_what_cannot_be_set_side_by_side_is_named(runs, tmp_path):
    a = runs / "a"
    with pytest.raises(ValueError, match="is named twice"):
        several.write([a, runs / "deep" / ".." / "a"], tmp_path)
    fresh = fake_run.make_run(tmp_path / "f", iterations=0, finished=False)
    adapt(fresh)
    with pytest.raises(ValueError, match="has no iteration yet"):
        several.write([a, fresh], tmp_path / "out")
    odd = fake_run.make_run(tmp_path / "odd", iterations=1, planned=1)
    adapt(odd, unheard_of=1)
    with pytest.raises(ValueError, match=r"odd/config\.json: .*unheard_of"):
        several.write([a, odd], tmp_path / "out")
    assert not (tmp_path / "out").exists()
