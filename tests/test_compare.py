"""`hiper compare`: which runs there are, which are used again, and what is shown."""

import csv
import dataclasses
import gzip
import io
import json

import fake_run
import pytest
import tiny_runs
from test_compare_statistics import outcome
from test_report import Page

from hiper_jax import workdir
from hiper_jax.experiments import recipes
from hiper_jax.experiments.cli import main as hiper
from hiper_jax.experiments.compare import (
    compare,
    figures,
    page,
    plan,
    runs,
    standings,
)
from hiper_jax.experiments.compare.plan import Compare
from hiper_jax.experiments.config import Train

NAMES = ("hae", "hae:lambda_boundary=0.95", "grpo")


def asked(folder, *estimators, seeds=2, config="", split=""):
    return Compare(
        estimators=estimators or NAMES,
        seeds=seeds,
        split=split,
        config=config,
        out=str(folder),
    )


def test_only_the_estimator_its_settings_and_the_seed_differ(tmp_path):
    planned = plan.planned(asked(tmp_path))
    assert [(p.variant.label, p.seed) for p in planned] == [
        (name, seed) for seed in (0, 1) for name in NAMES
    ]
    hae, crossing, grpo = (p.config for p in planned[:3])
    base = recipes.recipe("quickstart")
    out = str(tmp_path / "hae-0")
    assert hae == dataclasses.replace(base, samples=0, seed=0, out=out)
    learn = dataclasses.replace(base.learn, lambda_boundary=0.95)
    out = str(tmp_path / "hae-lambda_boundary-0.95-0")
    assert crossing == dataclasses.replace(hae, learn=learn, out=out)
    assert (grpo.estimator, grpo.samples, grpo.episodes) == ("grpo", 8, 64)
    same = {f.name for f in dataclasses.fields(Train)}
    same -= {"estimator", "learn", "samples", "seed", "out"}
    for name in same:
        assert {getattr(p.config, name) for p in planned} == {getattr(base, name)}


def test_a_file_changes_all_runs_alike(tmp_path):
    file = tmp_path / "shared.yaml"
    file.write_text("actor_lr: 1e-4\nlearn:\n  kl_coef: 0.01\n")
    for run in plan.planned(asked(tmp_path, config=str(file))):
        assert run.config.actor_lr == 1e-4 and run.config.learn.kl_coef == 0.01
    file.write_text("samples: 4\n")
    with pytest.raises(ValueError, match="must not set samples"):
        plan.planned(asked(tmp_path, config=str(file)))


def test_a_variant_may_have_a_rate_or_a_prompt_of_its_own(tmp_path):
    names = ("hae", "grpo:actor_lr=1e-4,reading.format=flat,clip_low=0.1")
    hae, grpo = (p.config for p in plan.planned(asked(tmp_path, *names, seeds=1)))
    assert (grpo.actor_lr, grpo.reading.format) == (1e-4, "flat")
    assert grpo.learn.clip_low == 0.1 != hae.learn.clip_low
    assert dataclasses.replace(grpo.reading, format="plan") == hae.reading
    assert hae.actor_lr == 2e-4


def test_a_split_that_the_world_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one of valid_unseen, .*test_unseen, got 'no"):
        plan.planned(asked(tmp_path, split="nope"))
    assert plan.planned(asked(tmp_path, split="test_unseen"))


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["hea"], "estimators: hea: estimator must be one of hae"),
        (["hae:lambda_bondary=1"], "did you mean lambda_boundary"),
        (["hae:lambda_boundary=2"], "from 0 to 1, got 2"),
        (["hae:lambda_boundary"], "no setting with a value"),
        (["hae:gamma=1,gamma=0.9"], "gives gamma twice"),
        (["hae:samples=2"], "samples is what a comparison sets itself"),
        (["hae:reading.stile=full"], "unknown setting reading.stile"),
        (["hae:reading=full"], "reading must be"),
        (["hae:actor_lr=1,actor_lr.x=2"], "actor_lr has no x"),
        (["hae:actor_lr.x=2"], "actor_lr must be"),
        (["hae", "grpo", "hae"], "would have one folder"),
        (["hae:bootstrap=<script>"], "bootstrap must be"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(tmp_path, names, hint):
    with pytest.raises(ValueError, match=hint):
        plan.planned(asked(tmp_path, *names))
    assert not list(tmp_path.iterdir())


def test_a_label_makes_a_name_that_every_shell_and_disk_takes():
    assert plan.variant("hae:gamma=0.9,common_scale=true")[1:] == (
        "hae",
        {"gamma": 0.9, "common_scale": True},
        "hae-gamma-0.9-common_scale-true",
    )
    assert plan.variant("hae:../../x=$(rm -r)").slug == "hae-..-..-x-rm--r"
    long = [plan.variant(f"hae:x={'9' * 200}{n}").slug for n in (1, 2)]
    assert long[0] != long[1] and max(map(len, long)) <= plan.LONGEST


def made(run, finished=True, **changes):
    """A fake folder of a planned run, as training would have left it."""
    done = run.config.num_updates if finished else 3
    fake_run.make_run(
        run.folder, iterations=done, planned=done, finished=finished, seed=run.seed
    )
    record = json.loads(json.dumps(dataclasses.asdict(run.config)))
    record["provenance"] = {"commit": "0123", "versions": {"jax": "0.10.2"}}
    workdir.write_json(run.folder / "config.json", record | changes)


def trainer(plan, started, stop=()):
    """Stands in for `train`: notes what is asked and leaves a finished folder."""

    def train(config, name):
        started.append((name, config.seed, config.resume))
        if len(started) in stop:
            raise KeyboardInterrupt
        made(next(p for p in plan if str(p.folder) == config.out))

    return train


@pytest.fixture
def short(monkeypatch):
    """The quickstart, with few iterations."""
    config = dataclasses.replace(recipes.recipe("quickstart"), num_updates=5)
    monkeypatch.setattr(plan, "recipe", lambda name: config)


def test_finished_runs_are_used_again_and_begun_ones_resumed(
    short, tmp_path, monkeypatch
):
    """The real thing is the test at the end of this file."""
    monkeypatch.setattr(figures, "draw", lambda done: [])  # takes the most time
    ask = asked(tmp_path)
    planned, started, said = plan.planned(ask), [], []
    made(planned[0])
    made(planned[1], finished=False)
    made(planned[2], finished=False)
    monkeypatch.setattr(runs, "train", trainer(planned, started, stop=[4]))
    with pytest.raises(KeyboardInterrupt):
        compare.main(ask, said.append)
    assert started == [
        ("quickstart hae:lambda_boundary=0.95", 0, True),
        ("quickstart grpo", 0, True),
        ("quickstart hae", 1, False),
        ("quickstart hae:lambda_boundary=0.95", 1, False),
    ]
    # What was finished by then is on disk: an interruption costs one run.
    lines = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert len(lines) == 4 * 2  # on two splits each
    assert "2 of 6 runs are not finished" in (tmp_path / "compare.html").read_text()
    assert "run 2 of 6: hae:lambda_boundary=0.95, seed 0 (resumed); 5 to go" in said[1]
    before = (planned[0].folder / "metrics.jsonl").stat().st_mtime_ns
    del started[:]
    compare.main(ask, said.append)
    assert [name for name, *_ in started] == [
        "quickstart hae:lambda_boundary=0.95",
        "quickstart grpo",
    ]
    assert (planned[0].folder / "metrics.jsonl").stat().st_mtime_ns == before
    shown = Page((tmp_path / "compare.html").read_text())
    assert "not finished" not in shown.text and said[-1].count("valid_unseen") == 3
    del started[:]
    compare.main(ask, said.append)
    assert started == []


def test_kept_records_stand_for_their_runs_in_another_folder(
    short, tmp_path, monkeypatch
):
    monkeypatch.setattr(figures, "draw", lambda done: [])
    kept_in, started = tmp_path / "kept", []
    pages = {}
    for place in ("here", "there"):
        ask = dataclasses.replace(asked(tmp_path / place, seeds=1), kept=str(kept_in))
        planned = plan.planned(ask)
        monkeypatch.setattr(runs, "train", trainer(planned, started))
        compare.main(ask, lambda line: None)
        assert len(started) == 3  # none again from the second folder
        pages[place] = (tmp_path / place / "table.csv").read_text()
    assert pages["here"] == pages["there"]
    files = sorted(kept_in.iterdir())
    assert [f.name for f in files] == sorted(
        f"{p.folder.name}.json.gz" for p in planned
    )
    assert all(f.stat().st_size < 30_000 for f in files)
    ask = dataclasses.replace(ask, out=str(tmp_path / "third"))
    whole = files[0].read_bytes()
    for damaged in (whole[:-9], b"", b"\x00" * 40, gzip.compress(b"[1]"), whole[:99]):
        files[0].write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged .* made again"):
            compare.main(ask, lambda line: None)
    record = json.loads(gzip.decompress(whole))
    assert record["config"]["out"] == files[0].name.removesuffix(".json.gz")  # no path
    record["eval"]["../out.json"] = {}
    files[0].write_bytes(gzip.compress(json.dumps(record).encode()))
    with pytest.raises(ValueError, match="no evaluation's name"):
        compare.main(ask, lambda line: None)
    name = files[0].name.partition(".")[0]
    assert not (tmp_path / "third" / name).exists()


def test_a_run_with_other_settings_is_refused_by_name_and_nothing_is_started(
    short, tmp_path, monkeypatch
):
    ask = asked(tmp_path)
    planned, started = plan.planned(ask), []
    monkeypatch.setattr(runs, "train", trainer(planned, started))
    made(planned[4], actor_lr=1.0)
    with pytest.raises(
        ValueError, match=r"0.95-1 holds a run with other .*actor_lr 1.0 there"
    ):
        compare.main(ask, lambda line: None)
    assert started == []
    (planned[4].folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        compare.main(ask, lambda line: None)
    (planned[4].folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"without its config\.json"):
        compare.main(ask, lambda line: None)


def test_where_it_runs_is_no_other_setting(short, tmp_path):
    """Nor is a setting that an older record lacks."""
    run = plan.planned(asked(tmp_path))[0]
    made(run, resume=True, out="elsewhere", checkpoint_every=2)
    record = json.loads((run.folder / "config.json").read_text())
    del record["samples"], record["learn"]["lambda_boundary"]  # at their defaults
    record["world"]["workers"] = 1
    workdir.write_json(run.folder / "config.json", record)
    assert runs.state_of(run) == "finished"


ATTACK = "<img src=x onerror=alert(1)>\"'</td><script>$x^$"


def test_a_further_split_is_played_once_by_runs_that_are_trained(
    short, tmp_path, monkeypatch
):
    ask, played = asked(tmp_path, "hae", split="test_unseen"), []

    def evaluate(checkpoint, **options):
        played.append((checkpoint, options["split"], options["seed"]))
        record = json.loads((run.folder / "eval/after-valid_seen.json").read_text())
        return record | {"split": options["split"], "tag": "eval"}

    monkeypatch.setattr(runs, "evaluate_checkpoint", evaluate)
    monkeypatch.setattr(runs, "train", None)  # is not called
    planned = plan.planned(ask)
    for run in planned:
        made(run)
        assert runs.state_of(run) == "trained"
    compare.main(ask, lambda line: None)
    assert played == [(str(p.folder), "test_unseen", p.seed) for p in planned]
    for run in planned:
        assert runs.state_of(run) == "finished"
    assert "60 games of test unseen" in (tmp_path / "compare.html").read_text()


def test_the_page_shows_hostile_names_and_runs_none(tmp_path):
    planned = plan.planned(asked(tmp_path, seeds=1))[:2]
    hostile = planned[1].variant._replace(label=ATTACK)
    planned[1] = planned[1]._replace(variant=hostile)
    games = {ATTACK: {"a": True, "b": False}}
    done = [outcome("hae", after=games, before=games)]
    done += [outcome(ATTACK, after=games, before=games)]
    rows, speeds = standings.standings(done), standings.speeds(done)
    ask = dataclasses.replace(asked(tmp_path, ATTACK), preset=ATTACK)
    origins = {"a": {"provenance": {"commit": ATTACK}}, "b": {}}
    source, pictures = page.page(ask, planned, done, rows, speeds, origins)
    shown = Page(source)
    assert {tag for tag, _ in shown.elements} & {"script", "link", "iframe"} == set()
    for _, attributes in shown.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert " ".join(ATTACK.split()) in shown.text
    assert "different states of the code" in shown.text
    assert len(pictures) == sum("role" in a for _, a in shown.elements) == 4
    for definition in ("moving mean", "bootstrap", "s.d.", "Collapsed"):
        assert definition in shown.text


def test_two_estimators_are_trained_and_set_side_by_side(tmp_path, monkeypatch, capsys):
    """The real thing, by its command: a tiny agent, two iterations each."""
    base = tiny_runs.of_any_estimator(tmp_path)
    monkeypatch.setattr(plan, "recipe", lambda name: base)
    out, names = tmp_path / "both", ("hae_group", "drgrpo:clip_low=0.2")
    words = ["compare", "--estimators", *names]
    words += ["--seeds", "1", "--samples", "2", "--out", str(out)]
    with pytest.raises(SystemExit) as stop:
        hiper(words)
    assert stop.value.code == 0
    folders = [out / "hae_group-0", out / "drgrpo-clip_low-0.2-0"]
    for folder in folders:
        tiny_runs.check_run(folder)
    said = capsys.readouterr().out
    assert "run 2 of 2: drgrpo:clip_low=0.2, seed 0; 1 to go, about" in said
    table = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert [row["estimator"] for row in table] == list(names)
    for row, folder in zip(table, folders, strict=True):
        record = json.loads((folder / "eval" / "after-valid_unseen.json").read_text())
        assert float(row["success"]) == record["success"]
        assert row["games"] == "4"
    curve = list(csv.DictReader(io.StringIO((out / "curves.csv").read_text())))
    for row in curve:  # tasks were drawn again: those episodes count
        assert int(row["episodes"]) >= 4 * int(row["iteration"])
    assert [row["iteration"] for row in curve] == ["1", "2"] * 2
    shown = Page((out / "compare.html").read_text()).text
    assert names[1] in shown and "4 games of valid unseen" in shown
    # A further split is played as a run plays its own: the same record comes out.
    ask = Compare(estimators=names, seeds=1, samples=2, out=str(out))
    run, file = plan.planned(ask)[1], folders[1] / "eval" / "after-valid_unseen.json"
    was = json.loads(file.read_text())
    file.unlink()
    runs.play_further(run._replace(split="valid_unseen"))
    assert json.loads(file.read_text()) == was
    capsys.readouterr()
    stamps = [(f / "metrics.jsonl").stat().st_mtime_ns for f in folders]
    with pytest.raises(SystemExit) as stop:
        hiper(words)
    assert stop.value.code == 0
    assert "2 runs in" in (again := capsys.readouterr().out) and "run 1" not in again
    assert stamps == [(f / "metrics.jsonl").stat().st_mtime_ns for f in folders]
