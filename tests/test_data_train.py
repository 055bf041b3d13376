"""Episodes that training wrote: as a data set, and what is made of them again."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_runs

from hiper_jax import workdir
from hiper_jax.act.episode import to_json
from hiper_jax.experiments import cli, offline
from hiper_jax.experiments.train import train
from hiper_jax.workdir import data


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return tiny_runs.of_any_estimator(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(setting, tmp_path_factory):
    """A run that wrote a data set as it went; resumed behind what the set had."""
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = dataclasses.replace(setting, out=str(folder), data=True)
    train(dataclasses.replace(config, stop_after=1), "test")
    assert texts(data.episodes(folder / "data")) == texts(of_run(folder))
    # As if it had gone further than its last checkpoint.
    workdir.write_episodes(folder, 2, of_run(folder)[:3])
    workdir.publish(folder / "data", [folder])
    return train(dataclasses.replace(config, resume=True), "test")


def of_run(run):
    files = workdir.episode_files(run)
    return [e for file in files.values() for e in workdir.read_episodes(file)]


def texts(episodes):
    return [json.dumps(to_json(e)) for e in episodes]


def test_training_writes_the_data_set_as_it_goes(run):
    assert texts(data.episodes(run / "data")) == texts(of_run(run))
    assert [e.iteration for e in data.entries(run / "data")] == [1] * 4 + [2] * 4
    assert sorted(data.sources(run / "data")[0][0]["steps"][0]["credit"]) == sorted(
        of_run(run)[0].credit
    )


def test_every_turn_has_the_values_its_credit_came_from(run):
    for episode in of_run(run):
        for head in ("low", "high", "switch"):
            values = episode.credit[f"value_{head}"]
            assert len(values) == len(episode.turns)
            assert np.isfinite(values).all()
        assert len(set(episode.credit["value_low"])) == len(episode.turns)


def close(old, new, names):
    """Two lists of episodes have the same credit under these names."""
    for a, b in zip(old, new, strict=True):
        assert a.game == b.game
        for name in names:
            np.testing.assert_allclose(
                a.credit[name], b.credit[name], rtol=1e-4, atol=1e-5, err_msg=name
            )


def credited(capsys, out, *words):
    """Episodes as `hiper credit` leaves them."""
    with pytest.raises(SystemExit) as done:
        cli.main(["credit", *map(str, words), "--out", str(out)])
    assert done.value.code == 0, capsys.readouterr().err
    return of_run(out)


def test_credit_of_stored_values_is_what_training_wrote(run, tmp_path, capsys):
    old = of_run(run)
    new = credited(capsys, tmp_path / "same", run)
    close(old, new, old[0].credit)
    other = credited(capsys, tmp_path / "other", run, "--learn.lambda-turn", "0.1")
    close(old, other, ["return_high", "value_low", "shaped_reward"])
    with pytest.raises(AssertionError):
        close(old, other, ["return_low"])


def test_credit_of_a_checkpoint_is_what_training_wrote(run, tmp_path, capsys):
    """The values of iteration 2 are those of the state after iteration 1."""
    second = [e for e in of_run(run)][4:]
    bare = [dataclasses.replace(e, credit=None) for e in second]
    workdir.write_episodes(tmp_path / "bare", 2, bare)
    with pytest.raises(SystemExit):
        words = ["credit", str(tmp_path / "bare"), "--out", str(tmp_path / "no")]
        cli.main(words)
    assert "has no values of the head high: give a --checkpoint" in (
        capsys.readouterr().err
    )
    new = credited(
        capsys,
        tmp_path / "out",
        tmp_path / "bare",
        "--checkpoint",
        run,
        "--step",
        "1",
    )
    close(second, new, second[0].credit)


def test_offline_learns_from_stored_episodes_alone(run, setting, tmp_path):
    """Those that the first weights sampled have ratios of 1 under them."""
    first = of_run(run)[:4]
    workdir.write_episodes(tmp_path / "stored", 1, first)
    changes = {"offline": str(tmp_path / "stored"), "redraw": 0, "num_updates": 2}
    config = dataclasses.replace(setting, out=str(tmp_path / "run"), **changes)
    lines = workdir.read_lines(train(config, "test") / "metrics.jsonl")
    turns = sum(len(e.turns) for e in first)
    assert lines[0]["offline/effective_turns"] == pytest.approx(turns, rel=1e-3)
    assert lines[0]["offline/effective_share"] == pytest.approx(1, abs=1e-3)
    assert lines[0]["offline/clip_fraction"] == 0
    assert lines[0]["offline/ratio"] == pytest.approx(1, abs=1e-3)
    assert sorted(e.game for e in of_run(tmp_path / "run")) == sorted(
        2 * [e.game for e in first]
    )
    lacking = dataclasses.replace(
        first[0],
        turns=(dataclasses.replace(first[0].turns[0], log_prob=np.zeros(0)),),
    )
    workdir.write_episodes(tmp_path / "stored", 2, [lacking])
    again = dataclasses.replace(config, out=str(tmp_path / "again"))
    with pytest.raises(ValueError, match="has no log-probs of what was sampled"):
        train(again, "test")


def test_distance_is_the_effective_sample_size_by_hand():
    """Responses of ratios 1, 2 and 4: (1 + 2 + 4)² / (1 + 4 + 16)."""
    old = np.full((4, 2), -1.0, np.float32)
    new = old.copy()
    new[1, 0] += np.log(2)
    new[2] += np.log(2)
    mask = np.array([[1, 1], [1, 1], [1, 1], [0, 0]], bool)
    told = offline.distance(new, old, mask, clip_low=0.2, clip_high=0.2)
    assert float(told["offline/effective_turns"]) == pytest.approx(49 / 21)
    assert float(told["offline/effective_share"]) == pytest.approx(49 / 63)
    assert float(told["offline/clip_fraction"]) == pytest.approx(0.5)
    assert float(told["offline/ratio"]) == pytest.approx((3 * 1 + 3 * 2) / 6)
