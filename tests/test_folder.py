"""One run, one folder, one set of settings; what a signal or a death leaves behind."""

import dataclasses
import errno
import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import tiny_runs

from hiper_jax import workdir
from hiper_jax.act.envs.world import settings_for
from hiper_jax.experiments import cli, draws, folder, progress, starts
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import train as training
from hiper_jax.experiments.eval import evaluate_checkpoint
from hiper_jax.experiments.place import Place
from hiper_jax.experiments.report import report
from hiper_jax.experiments.train import train
from hiper_jax.hosts import Hosts
from hiper_jax.workdir import checked


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    where = tmp_path_factory.mktemp("folder")
    world = tiny_runs.levels(where, max_turns=2)
    return tiny_runs.settings(where, world, checkpoint_every=100, actor_lr=1e-3)


def run(setting, where, **changes):
    return train(dataclasses.replace(setting, out=str(where), **changes), "test")


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory):
    where = tmp_path_factory.mktemp("whole") / "run"
    return run(setting, where, checkpoint_every=1)


def same(one, other) -> bool:
    return filecmp.cmp(one / "metrics.jsonl", other / "metrics.jsonl", shallow=False)


HOLD = (
    "import sys, time; from hiper_jax import workdir\n"
    "with workdir.locked(sys.argv[1]):\n"
    "    print('held', flush=True); time.sleep(600)\n"
)


def test_a_folder_is_one_processs_until_it_ends_however_it_ends(tmp_path):
    where = tmp_path / "run"
    words = [sys.executable, "-c", HOLD, str(where)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"in use by process {other.pid} on"):
            with workdir.locked(where):
                pass
        other.kill()
    with workdir.locked(where), pytest.raises(ValueError, match="name another --out"):
        with workdir.locked(where):
            pass
    assert not where.exists()  # nothing was written


def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(setting, tmp_path):
    where = tmp_path / "run"
    with workdir.locked(where):
        (where / "metrics.jsonl").write_text("{}\n")
        with pytest.raises(ValueError, match="is in use by process"):
            run(setting, where)
    assert [path.name for path in where.iterdir()] == ["metrics.jsonl"]


def record_of(setting):
    return json.loads(json.dumps(dataclasses.asdict(setting)))


def test_every_setting_that_changes_a_result_is_named(setting):
    record = record_of(setting) | {"provenance": {"seed": 0}, "changes": []}
    assert folder.changes(record, setting) == []
    other = dataclasses.replace(
        setting,
        seed=1,
        num_updates=3,
        learn=dataclasses.replace(setting.learn, gamma=0.9),
        world=dataclasses.replace(setting.world, max_turns=3, workers=7),
        out="elsewhere",
        keep=9,
        resume=True,
    )
    found = {name: (before, now) for name, before, now in folder.changes(record, other)}
    assert found == {
        "seed": (0, 1),
        "num_updates": (2, 3),
        "learn.gamma": (1.0, 0.9),
        "world.max_turns": (2, 3),
    }


def test_every_field_is_either_free_or_compared(setting):
    """A setting that is added later is compared, unless it is said to be free."""
    flat = dict(folder.flat(record_of(setting)))
    assert flat.keys() >= folder.FREE
    record = {"world": {"environment": "sokoban"}}
    assert folder.changes(record, configs.Train(world=settings_for("sokoban"))) == []
    gigpo = configs.with_estimator(setting, "gigpo", samples=2)
    names = [change.name for change in folder.changes(record_of(setting), gigpo)]
    assert "estimator" in names


def test_other_settings_are_refused_or_accepted_and_written_down(
    setting, whole, tmp_path
):
    where = tmp_path / "run"
    run(setting, where, stop_after=1)
    with pytest.raises(ValueError, match=r"\(seed 0 there, 1 here\)") as error:
        run(setting, where, resume=True, seed=1)
    assert "--accept-changes" in str(error.value) and "\n" not in str(error.value)
    run(setting, where, resume=True, seed=1, accept_changes=True)
    record = json.loads((where / "config.json").read_text())
    assert record["seed"] == 1
    assert record["changes"] == [{"after_step": 1, "settings": {"seed": [0, 1]}}]
    assert not same(where, whole)
    assert "after_step" in (where / "report.html").read_text()
    out = str(tmp_path / "e.json")
    assert evaluate_checkpoint(str(where), **tiny_runs.panel(2, out))["episodes"]


def test_who_only_reads_takes_the_checkpoint_before_a_damaged_one(
    whole, tmp_path, capsys
):
    where = shutil.copytree(whole, tmp_path / "run")
    asked = tiny_runs.panel(2, tmp_path / "e.json")
    (where / "checkpoints" / "00000002" / "state" / "_METADATA").write_text("{}")
    before = sorted(where.rglob("*"))
    record = evaluate_checkpoint(str(where), **asked)
    told = capsys.readouterr().out
    assert "00000002 is damaged" in told and "looking at the one before it" in told
    assert record["step"] == 1 and "after 1 updates" in told
    assert sorted(where.rglob("*")) == before  # whoever trains there sets it aside
    (where / "checkpoints" / "00000001" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="none of its checkpoints is whole") as caught:
        evaluate_checkpoint(str(where), **asked)
    assert "\n" not in str(caught.value)
    report.write_report(where)  # needs none


@pytest.mark.parametrize("content", ['{"world": 3}', "{}", '{"world": {"a": 1}}', "["])
def test_a_damaged_record_of_settings_is_named(content, whole, tmp_path):
    where = shutil.copytree(whole, tmp_path / "run")
    (where / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json"):
        evaluate_checkpoint(str(where), **tiny_runs.panel(2, tmp_path / "e.json"))


def test_a_finished_run_is_a_model_and_another_one_is_none_yet(whole, tmp_path):
    begun = configs.Train(model=str(whole))
    starts.check_model(begun)
    assert starts.start_of(begun) == whole / "model"
    where = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(where / "model")
    with pytest.raises(FileNotFoundError, match="a run that has not ended"):
        starts.check_model(configs.Train(model=str(where)))


@pytest.mark.parametrize("asks", [True, False])
def test_a_template_is_told_the_day_on_which_the_run_began(
    setting, tmp_path, monkeypatch, asks
):
    """Also where the run is resumed, or begins again; others have no day at all."""
    model = shutil.copytree(setting.model, tmp_path / "model")
    said = "{{ strftime_now('%d %b %Y') }} " if asks else ""
    template = said + "{{ messages[0]['content'] }}<|im_end|>"
    names = json.loads((model / "tokenizer_config.json").read_text())
    names = json.dumps(names | {"chat_template": template})
    (model / "tokenizer_config.json").write_text(names)
    config = dataclasses.replace(setting, model=str(model), out=str(tmp_path / "run"))

    def day(today: str, config=config):
        monkeypatch.setattr(folder, "today", lambda: today)
        made, _ = training.prepare(config, "test", Place(tmp_path / "run"), Hosts())
        prompt = made.reader.codec.encode_prompt("x")
        record = json.loads((tmp_path / "run" / "config.json").read_text())
        assert record["reading"]["clock"] == made.config.reading.clock
        return made.config.reading.clock, made.reader.codec.decode(prompt)

    first = day("2026-02-03")
    assert first == (("2026-02-03", "03 Feb 2026 x") if asks else ("", "x"))
    assert day("2027-01-01") == first
    told = dataclasses.replace(config.reading, clock="2020-05-06")
    with pytest.raises(ValueError, match="reading.clock"):
        day("2027-01-01", dataclasses.replace(config, reading=told))


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_died_before_its_first_checkpoint_begins_again(
    setting, whole, tmp_path, monkeypatch, resume, capsys
):
    where, act = tmp_path / "run", draws.act

    def die(run, state, pool, step, guard):
        if step == 1:
            raise MemoryError("as good as kill -9: nothing is saved")
        return act(run, state, pool, step, guard)

    monkeypatch.setattr(draws, "act", die)
    monkeypatch.setattr(training, "keep", lambda *_: None)
    with pytest.raises(MemoryError):
        run(setting, where)
    assert len(workdir.read_lines(where / "metrics.jsonl")) == 1
    assert workdir.latest_step(where) is None
    monkeypatch.undo()
    with pytest.raises(ValueError, match="begun with other settings"):
        run(setting, where, resume=resume, seed=5)
    run(setting, where, resume=resume)
    assert "beginning again" in capsys.readouterr().out
    assert same(where, whole)


def test_a_checkpoint_comes_with_time_too(setting, tmp_path):
    where = tmp_path / "run"
    run(setting, where, checkpoint_minutes=1e-9, stop_after=1)
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "keep", lambda run, state: kept.append(int(state.step)))
        run(setting, tmp_path / "other", checkpoint_minutes=1e-9)
        assert kept == [1, 2]
        run(setting, tmp_path / "third")
        assert kept == [1, 2, 2]


def test_a_checkpoint_that_fails_behind_a_run_ends_it_and_the_one_before_stays(
    setting, tmp_path, monkeypatch
):
    where, seal, sealed = tmp_path / "run", checked.seal, []

    def full(folder):
        sealed.append(folder)
        if len(sealed) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        seal(folder)

    monkeypatch.setattr(checked, "seal", full)
    with pytest.raises(OSError, match="checkpoints is full.*--resume"):
        run(setting, where, checkpoint_every=1)
    assert [p.name for p in (where / "checkpoints").iterdir()] == ["00000001"]
    assert len(workdir.read_lines(where / "metrics.jsonl")) == 2


def test_sigterm_saves_and_further_signals_disturb_nothing(
    setting, whole, tmp_path, monkeypatch
):
    where, act, keep = tmp_path / "run", draws.act, training.keep

    def asked(run, state, pool, step, guard):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return act(run, state, pool, step, guard)

    def pressed(run, state):
        os.kill(os.getpid(), signal.SIGINT)
        keep(run, state)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(draws, "act", asked)
    monkeypatch.setattr(training, "keep", pressed)
    with pytest.raises(progress.Terminated):
        run(setting, where)
    monkeypatch.undo()
    assert workdir.latest_step(where) == 1
    run(setting, where, resume=True)
    assert same(where, whole)


@pytest.mark.parametrize(
    "stop, code", [(KeyboardInterrupt, 130), (progress.Terminated, 143)]
)
def test_each_signal_has_an_exit_code(stop, code, monkeypatch, capsys):
    def stopped(argv):
        raise stop

    monkeypatch.setattr(cli, "_run", stopped)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as end:
            cli.main(["train"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert end.value.code == code
    assert "stopped" in capsys.readouterr().err


def test_ten_skipped_iterations_in_a_row_stop_a_run(setting, tmp_path):
    """One that learned among them is none in a row."""

    class Run:
        folder = tmp_path

    skipped, learned = {training.SKIPPED: 1.0}, {training.SKIPPED: 0.0}
    for step in range(1, 10):
        workdir.append_metrics(tmp_path, step, learned if step == 1 else skipped, {})
        training.check_skipped(Run, skipped)
    workdir.append_metrics(tmp_path, 10, skipped, {})
    training.check_skipped(Run, skipped)  # the first of the ten learned
    training.check_skipped(Run, learned)
    workdir.append_metrics(tmp_path, 11, skipped, {})
    with pytest.raises(ValueError, match="not finite in 10 iterations in a row"):
        training.check_skipped(Run, skipped)
