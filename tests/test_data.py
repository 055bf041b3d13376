"""Episodes as a TFDS data set: what is read is what was written, all or nothing."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import fake_run
import numpy as np
import pytest

import hiper_jax as hj
from hiper_jax import workdir
from hiper_jax.act.episode import Episode, Strategy, Turn, to_json
from hiper_jax.experiments import cli
from hiper_jax.workdir import data
from hiper_jax.workdir import publish as publish_function
from hiper_jax.workdir.data import layout as layouts

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")
publishing = sys.modules[publish_function.__module__]

TEXTS = (
    "",
    "go to desk 1",
    "naïve ü 猫",
    "a\0b",
    "line\nline",
    "\ud800 alone",
    "x" * 300,
)


def drawn(rng: np.random.Generator) -> Episode:
    """An episode of whatever values its fields can have."""

    def text():
        return TEXTS[rng.integers(len(TEXTS))]

    def flag():
        return bool(rng.random() < 0.5)

    def number():
        return float(rng.choice([0.0, 1.0, -0.5, 1 / 3, 1e300, 5e-324, rng.normal()]))

    def ids() -> np.ndarray:
        return rng.integers(0, 2**31 - 1, rng.integers(0, 9)).astype(np.int32)

    turns = []
    for _ in range(rng.integers(1, 7)):
        response = ids()
        # Log-probs may be missing, as with episodes of others.
        scored = rng.normal(size=len(response) if flag() else 0).astype(np.float32)
        turns.append(
            Turn(
                prompt=ids(),
                response=response,
                log_prob=scored,
                text=text(),
                observation=text(),
                admissible=tuple(text() for _ in range(rng.integers(0, 4))),
                action=text(),
                subgoal=text(),
                switch=flag(),
                said_switch=flag(),
                format_valid=flag(),
                action_valid=flag(),
                reward=number(),
                prompt_truncated=flag(),
            )
        )
    followed = Strategy(text(), ids(), ids(), np.ones(2, np.float32), 3, 1)
    names = [n for n in ("advantage_low", "value_low", "odd name") if flag()]
    credit = {n: [number() for _ in turns] for n in names}
    strategic = {"strategy": followed, "flagged": (0,)} if flag() else {}
    return Episode(
        game=text(),
        task=text(),
        task_type=text(),
        turns=tuple(turns),
        terminated=flag(),
        truncated=flag(),
        won=flag(),
        score=number(),
        next_prompt=ids(),
        credit=credit if flag() else None,
        **strategic,
    )


def plain(episodes):
    """Episodes as values that `==` compares; NaN is no number among them."""
    return [json.dumps(to_json(episode)) for episode in episodes]


def played(folder, iterations=3, episodes=4, seed=0) -> pathlib.Path:
    """A run's folder with nothing but episodes in it."""
    rng = np.random.default_rng(seed)
    for step in range(1, iterations + 1):
        made = [
            dataclasses.replace(
                fake_run._episode(i, i % 2 == 0, rng), game=f"game-{seed}-{i}"
            )
            for i in range(episodes)
        ]
        workdir.write_episodes(folder, step, made)
    return folder


def of_run(run):
    return [
        e for f in workdir.episode_files(run).values() for e in workdir.read_episodes(f)
    ]


def test_any_episode_comes_back_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    episodes = [drawn(rng) for _ in range(120)]
    names = tuple(sorted({n for e in episodes for n in e.credit or {}}))
    assert len(names) == 3
    entries = [data.Entry(e, "rün", i, 7) for i, e in enumerate(episodes)]
    layouts.write_layout(tmp_path, layouts.Layout(names, "train"))
    from hiper_jax.workdir.data.write import append

    layout = append(
        tmp_path,
        layouts.Layout(names, "train"),
        (("train", entry) for entry in entries),
        lambda: (),
        shard_episodes=50,
    )
    assert layout.lengths() == {"train": [50, 50, 20]}
    back = list(data.entries(tmp_path))
    assert plain(b.episode for b in back) == plain(episodes)
    assert [b[1:] for b in back] == [e[1:] for e in entries]
    for old, new in zip(episodes, hj.data.episodes(tmp_path), strict=True):
        assert new.turns[0].prompt.dtype == np.int32
        assert new.turns[0].log_prob.dtype == np.float32
        assert type(new.score) is float and type(new.won) is bool
        assert type(new.turns[0].admissible) is tuple
        assert new.reward == old.reward


def test_a_record_is_rlds(tmp_path):
    run = played(tmp_path / "run", iterations=1)
    workdir.publish(tmp_path / "set", [run])
    (source,) = data.sources(tmp_path / "set")
    example = source[0]
    episode = of_run(run)[0]
    steps = list(example["steps"])
    T = len(episode.turns)
    assert [s["is_first"] for s in steps] == [True] + [False] * (T - 1)
    assert [s["is_last"] for s in steps] == [False] * (T - 1) + [True]
    assert [s["is_terminal"] for s in steps] == [False] * (T - 1) + [True]
    assert [s["discount"] for s in steps] == [1.0] * (T - 1) + [0.0]
    assert [s["reward"] for s in steps] == [t.reward for t in episode.turns]
    assert [s["observation"].decode() for s in steps] == [
        t.observation for t in episode.turns
    ]
    assert [s["segment"] for s in steps] == [0, 0, 1, 2, 2, 3, 3]
    np.testing.assert_allclose(
        [s["credit"]["advantage_low"] for s in steps], episode.credit["advantage_low"]
    )
    ends = np.cumsum([s["response_length"] for s in steps])
    assert len(example["response"]) == ends[-1]
    np.testing.assert_array_equal(
        example["response"][ends[0] : ends[1]], episode.turns[1].response
    )


def test_splits_hold_games_apart_or_iterations(tmp_path):
    run = played(tmp_path / "run", iterations=2, episodes=30)
    held = workdir.Plan("train-eval", eval_share=0.3)
    workdir.publish(tmp_path / "held", [run], held)
    games = {
        split: {e.game for e in data.episodes(tmp_path / "held", split)}
        for split in ("train", "eval")
    }
    assert not games["train"] & games["eval"]
    assert 4 <= len(games["eval"]) <= 14
    workdir.publish(tmp_path / "steps", [run], workdir.Plan("iteration"))
    second = [e for e in data.entries(tmp_path / "steps", "iteration_000002")]
    assert {e.iteration for e in second} == {2} and len(second) == 30
    with pytest.raises(ValueError, match="no split 'test'; it has eval, train"):
        list(data.episodes(tmp_path / "held", "test"))


def test_what_is_there_is_not_written_again(tmp_path):
    run = played(tmp_path / "run", iterations=2)
    told = []
    out = tmp_path / "set"
    assert workdir.publish(out, [run], say=told.append) == 8
    first = {f.name: f.stat().st_mtime_ns for f in out.glob("*record*")}
    workdir.write_episodes(run, 3, of_run(run)[:3])
    assert workdir.publish(out, [run], say=told.append) == 11
    assert told == ["2/2 iterations, 8 episodes", "3/3 iterations, 11 episodes"]
    now = {f.name: f.stat().st_mtime_ns for f in out.glob("*record*")}
    assert first.items() < now.items() and len(now) == 2
    assert plain(data.episodes(out)) == plain(of_run(run))
    workdir.write_episodes(run, 1, of_run(run)[:1])
    with pytest.raises(ValueError, match="other episodes or splits: name another"):
        workdir.publish(out, [run])
    assert workdir.publish(out, [run], restart=True) == 8
    assert plain(data.episodes(out)) == plain(of_run(run))


@pytest.mark.parametrize("when", ["record", "moved", "info"])
def test_a_killed_export_is_whole_and_goes_on(tmp_path, monkeypatch, when):
    """Stopped while it writes a shard, after it moved one, between the two files."""
    runs = [played(tmp_path / name, seed=i) for i, name in enumerate("ab")]
    out = tmp_path / "set"
    workdir.publish(out, runs[:1])
    whole = plain(data.episodes(out))

    class Killed(BaseException):
        pass

    def kill(*args, **options):
        raise Killed

    if when == "record":
        calls = []

        def after_two(entry, credit, real=data.to_example):
            calls.append(None)
            return real(entry, credit) if len(calls) < 3 else kill()

        monkeypatch.setattr("hiper_jax.workdir.data.write.to_example", after_two)
    elif when == "moved":
        monkeypatch.setattr(layouts, "write_layout", kill)
    else:
        monkeypatch.setattr(layouts, "_info", kill)
    with pytest.raises(Killed):
        workdir.publish(out, runs)
    monkeypatch.undo()
    assert plain(data.episodes(out)) == whole
    assert workdir.publish(out, runs) == 24
    assert plain(data.episodes(out)) == plain(of_run(runs[0]) + of_run(runs[1]))
    fresh = tmp_path / "fresh"
    workdir.publish(fresh, runs)
    assert sorted(f.name for f in out.iterdir()) == sorted(
        f.name for f in fresh.iterdir()
    )


def test_processes_write_shares_that_are_read_together(tmp_path):
    run = played(tmp_path / "run", iterations=2, episodes=5)
    for index in range(2):
        out = tmp_path / "set" / f"process-0000{index}-of-00002"
        workdir.publish(out, [run], workdir.Plan(part=(index, 2)))
    back = sorted(data.entries(tmp_path / "set"), key=lambda e: (e.iteration, e.index))
    assert plain(e.episode for e in back) == plain(of_run(run))


def test_nothing_of_tensorflow_is_loaded(tmp_path):
    played(tmp_path / "run", iterations=1)
    code = (
        "import sys; from hiper_jax import workdir; import hiper_jax as hj\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"workdir.publish({str(tmp_path / 'set')!r}, [{str(tmp_path / 'run')!r}])\n"
        f"assert len(list(hj.data.episodes({str(tmp_path / 'set')!r}))) == 4\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_is_no_data_set_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no data set of episodes"):
        list(data.episodes(tmp_path))
    run = played(tmp_path / "run", iterations=1)
    out = tmp_path / "set"
    workdir.publish(out, [run])
    shard = layouts.shard(out, "train", 0)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100] + b"\0" * 200 + whole[300:])
    with pytest.raises(ValueError, match="damaged"):
        list(data.episodes(out))
    shard.write_bytes(whole)
    info = json.loads((out / "dataset_info.json").read_text())
    (out / "dataset_info.json").write_text(json.dumps({**info, "version": "2.0.0"}))
    with pytest.raises(ValueError, match="holds hiper_episodes 2.0.0, not"):
        list(data.episodes(out))
    (out / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        list(data.episodes(out))


def test_the_command_exports(tmp_path, capsys):
    run = played(tmp_path / "run", iterations=2)
    out = tmp_path / "set"
    with pytest.raises(SystemExit) as done:
        cli.main(["data", "export", str(run), "--out", str(out)])
    assert done.value.code == 0
    said = capsys.readouterr().out
    assert "2/2 iterations, 8 episodes" in said
    assert plain(data.episodes(out)) == plain(of_run(run))
    with pytest.raises(SystemExit) as done:
        cli.main(["data", "export", str(tmp_path), "--out", str(out)])
    assert done.value.code == 2
    assert "is no run with episodes" in capsys.readouterr().err
    rows = list(data.turns(out))
    assert len(rows) == sum(len(e.turns) for e in of_run(run))
    assert rows[0]["segment"] == 0 and rows[0]["game"] == "game-0-0"
