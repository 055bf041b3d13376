"""Episodes that training wrote: as a data set, and what is made of them again."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_runs

from hiper_jax import workdir
from hiper_jax.act.episode import to_json
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
