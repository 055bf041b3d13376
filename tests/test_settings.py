"""Every setting of every command is explained, and refuses what it cannot work with.

The fields are found in the tree of commands and the bad values in their type hints, so
that a new setting is tried without a word here.
"""

import dataclasses
import inspect
import json
import math
import multiprocessing.process
import subprocess
import types
import typing
from typing import Annotated, Any, Literal

import jax
import pytest
from every_setting import (
    COMMANDS,
    FIELDS,
    VALUES,
    bad_values,
    fields_of,
    flag_of,
    flags_of,
    is_value,
    named,
    names,
    needed_words,
    plain,
    positional,
    refusal,
)

from hiper_jax.accept import Range, SettingError
from hiper_jax.experiments import commands, recipes
from hiper_jax.experiments.cli import main
from hiper_jax.experiments.flags import Group
from hiper_jax.experiments.join import Hosts
from hiper_jax.experiments.settings import (
    explained,
    parts,
    read_file,
    replaced,
)


@pytest.fixture
def nothing_is_made(monkeypatch, tmp_path):
    """Runs in an empty folder, which has to stay empty; no process may start and no
    program be compiled."""

    def refuse(*args, **kwargs):
        raise AssertionError("something was begun")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(jax, "jit", refuse)
    monkeypatch.setattr(jax.stages.Traced, "lower", refuse)
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def test_the_commands_of_the_readme_are_all_there():
    assert {command.split()[0] for command in COMMANDS} >= {
        *("train", "eval", "play", "report", "games", "shop", "models"),
        *("warmstart", "bench", "plan", "compile", "variance"),
    }
    assert len(FIELDS) > 150


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_is_explained(command):
    for field in fields_of(command):
        owner = field.owner if isinstance(field.owner, type) else type(field.owner)
        name = field.path.rpartition(".")[2]
        if name == "settings" and command.startswith("train "):
            continue  # stands for all of a run's settings, which have their own texts
        text = explained(owner).get(name, "")
        assert len(text.split()) >= 2 and text.rstrip().endswith("."), named(field)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_flag_and_starts_nothing(capsys, nothing_is_made, command):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    said = capsys.readouterr()
    assert stop.value.code == 0 and said.err == ""
    for field in fields_of(command):
        if is_value(field) and not positional(field):
            assert flag_of(field) in said.out, named(field)


def groups(node: Group, words: tuple[str, ...] = ()):
    yield words, node
    for name, member in node.members().items():
        if isinstance(member, Group):
            yield from groups(member, (*words, name))


@pytest.mark.parametrize(
    "words", [words for words, _ in groups(commands.tree(commands.Early()))]
)
def test_help_of_a_group_names_its_members(capsys, nothing_is_made, words):
    group = dict(groups(commands.tree(commands.Early())))[words]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    said = capsys.readouterr()
    assert stop.value.code == 0 and said.err == ""
    assert all(name in said.out for name in group.members())


@pytest.mark.parametrize("field", VALUES, ids=named)
def test_every_number_has_a_range_and_every_class_checks_itself(field):
    base, extras = plain(field.hint)
    if typing.get_origin(base) is tuple:
        base, extras = plain(typing.get_args(base)[0])
    if base in (int, float):
        assert any(isinstance(extra, Range) for extra in extras), named(field)
    owner = field.owner if isinstance(field.owner, type) else type(field.owner)
    assert typing.get_origin(base) is Literal or base in (int, float, bool, str)
    checks = hasattr(owner, "__post_init__")
    assert checks or field.path == "config", named(field)


OURS = [field for field in VALUES if field.path != "config"]  # not tyro's own


@pytest.mark.parametrize("field", OURS, ids=named)
def test_a_bad_value_from_python_is_refused_in_one_line(field):
    name = field.path.rpartition(".")[2]
    owner = field.owner
    for value in bad_values(field.hint):
        with pytest.raises(SettingError) as caught:
            if isinstance(owner, type):
                hints = typing.get_type_hints(owner)
                needed = {
                    f.name: ("somewhere",)
                    if typing.get_origin(hints[f.name]) is tuple
                    else (*typing.get_args(hints[f.name]), "somewhere")[0]
                    for f in dataclasses.fields(owner)
                    if f.default is dataclasses.MISSING
                }
                owner(**needed | {name: value})
            else:
                dataclasses.replace(owner, **{name: value})
        said = str(caught.value)
        assert said.startswith(name) and "\n" not in said and "got" in said


# A machine is a flag alone: it gives defaults, which a file's settings override. So is
# the place of this process among others, which is no setting of the run.
FROM_A_FILE = [f for f in OURS if f.command.startswith("train ")]
FROM_A_FILE = [
    f for f in FROM_A_FILE if f.path != "hardware" and not isinstance(f.owner, Hosts)
]


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize("field", FROM_A_FILE, ids=named)
def test_a_bad_value_from_a_file_is_refused_with_its_path(tmp_path, field, suffix):
    import yaml

    recipe = recipes.recipe(field.command.split()[1])
    file = tmp_path / f"settings.{suffix}"
    for value in bad_values(field.hint):
        values = list(value) if isinstance(value, tuple) else value
        for name in reversed(field.path.split(".")):
            values = {name: values}
        file.write_text(json.dumps(values) if suffix == "json" else yaml.dump(values))
        with pytest.raises(ValueError) as caught:
            replaced(recipe, read_file(file))
        said = str(caught.value)
        assert said.startswith(field.path) and "\n" not in said


@pytest.mark.parametrize(
    "field", [f for f in VALUES if not positional(f) and flags_of(f)], ids=named
)
def test_a_bad_value_from_a_flag_is_refused_before_anything_is_made(
    capsys, nothing_is_made, field
):
    needed = needed_words(field.command, besides=field)
    for words in flags_of(field):
        rest = [*needed, *words]
        if field.command == "launch":  # what follows its command is the command's
            rest = [*words, *needed]
        said = refusal(capsys, [*field.command.split(), *rest])
        assert names(said, field.path), said


# Each of these passed once, and did nothing, something else, or ran to a traceback.
PASSED_ONCE = [
    ("learn.gamma", math.nan),
    ("learn.gamma", 1.5),
    ("learn.lambda_turn", -0.1),
    ("learn.lambda_segment", 2.0),
    ("learn.bootstrap", "nosuch"),
    ("learn.keep_penalty", -0.3),
    ("learn.keep_penalty_mode", "nosuch"),
    ("learn.keep_consistency_penalty", -0.3),
    ("learn.invalid_action_penalty", -0.1),
    ("learn.refused_penalty", math.inf),
    ("learn.switch_rate_floor", 3.0),
    ("learn.switch_rate_floor_coef", -5.0),
    ("learn.clip_low", -0.2),
    ("learn.clip_low", 1.2),
    ("learn.clip_high", math.nan),
    ("learn.dual_clip", 0.5),
    ("learn.value_clip", -1.0),
    ("learn.kl_coef", -0.01),
    ("learn.kl_estimator", "x"),
    ("learn.entropy_coef", math.nan),
    ("learn.epochs", 0),
    ("learn.minibatch", 0),
    ("learn.chunk", 0),
    ("learn.pack", 0),
    ("world.max_turns", 0),
    ("world.workers", 0),
    ("world.reward", math.nan),
    ("world.train", 0),
    ("world.objects", (9, 6)),
    ("world.objects", (0, 0)),
    ("world.seed", -1),
    ("reading.max_prompt", 0),
    ("reading.max_response", 0),
    ("reading.history_length", -1),
    ("lr_end", 5.0),
    ("lr_warmup", -3),
    ("critic_first", -1),
    ("checkpoint_every", 0),
    ("keep", 0),
    ("seed", -1),
    ("eval_every", -1),
    ("eval_temperature", -1.0),
    ("eval_seen_episodes", -1),
    ("stop_after", -1),
    ("num_updates", 0),
    ("episodes", math.inf),
    ("episodes", 12.5),
    ("slots", 0),
    ("actor_lr", math.nan),
    ("critic_lr", math.inf),
    ("temperature", math.nan),
    ("max_grad_norm", math.nan),
    ("lora_rank", -1),
    ("lora_alpha", math.nan),
    ("trunk_gradient", math.nan),
    ("mesh.fsdp", 0),
]


@pytest.mark.parametrize(("path", "value"), PASSED_ONCE)
def test_what_passed_once_is_refused_from_flag_file_and_python(
    capsys, monkeypatch, tmp_path, path, value
):
    import yaml

    monkeypatch.chdir(tmp_path)
    words = [str(v) for v in (value if isinstance(value, tuple) else (value,))]
    flag = "--" + path.replace("_", "-")
    if len(words) == 1:
        words[0] = f"{flag}={words[0]}"
    else:
        words = [flag, *words]
    assert names(refusal(capsys, ["train", "quickstart", *words]), path)

    values: Any = list(value) if isinstance(value, tuple) else value
    for name in reversed(path.split(".")):
        values = {name: values}
    (tmp_path / "bad.yaml").write_text(yaml.dump(values))
    said = refusal(capsys, ["train", "quickstart", "--config=bad.yaml"])
    assert said.startswith(f"hiper: {path} ")

    part: Any = recipes.recipe("quickstart")
    *inner, name = path.split(".")
    for step in inner:
        part = getattr(part, step)
    with pytest.raises(SettingError, match=f"^{name} "):
        dataclasses.replace(part, **{name: value})
    assert [file.name for file in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_negative_penalty_is_told_of_the_one_convention(capsys, nothing_is_made):
    said = refusal(capsys, ["train", "quickstart", "--learn.keep-penalty", "-0.3"])
    assert said == (
        "hiper: learn.keep_penalty must be a number, 0 or more (a penalty is "
        "subtracted, so that 0.1 takes 0.1 off), got -0.3"
    )


def test_what_has_no_effect_is_no_flag(capsys, nothing_is_made):
    said = refusal(capsys, ["train", "quickstart", "--learn.temperature", "0.7"])
    assert "--learn.temperature" in said and "--temperature" in said


def test_rates_may_be_written_with_an_exponent_and_whole_numbers_too(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "actor_lr: 1e-4\ncritic_lr: 5E-4\nepisodes: 1e2\nlearn:\n  kl_coef: 1e-2\n"
        "  gamma: 1\nlora_alpha: +2.e+1\nmax_grad_norm: .5e1\n"
    )
    made = replaced(recipes.recipe("quickstart"), read_file(tmp_path / "a.yaml"))
    assert (made.actor_lr, made.critic_lr, made.episodes) == (1e-4, 5e-4, 100)
    assert (made.learn.kl_coef, made.learn.gamma) == (0.01, 1.0)
    assert (made.lora_alpha, made.max_grad_norm) == (20.0, 5.0)
    assert isinstance(made.episodes, int) and isinstance(made.learn.gamma, float)


def test_text_that_only_looks_like_a_number_stays_text(tmp_path):
    (tmp_path / "a.yaml").write_text('out: "1e5"\nmodel: 2e5x\n')
    assert read_file(tmp_path / "a.yaml") == {"out": "1e5", "model": "2e5x"}


def test_every_recipe_is_a_page_and_its_settings_are_read_back():
    for name in recipes.RECIPES:
        recipe = recipes.recipe(name)
        record = json.loads(json.dumps(dataclasses.asdict(recipe)))
        assert replaced(recipe, record) == recipe
        page = inspect.getmodule(recipes._page(name)).__doc__
        for word in ("Paper ", "Command ", "Time ", "Expect "):
            assert word in page, (name, word)
        assert f"hiper train {name}" in page
        assert recipes.about(name) == page.splitlines()[0]


def test_a_recipe_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="'nonsense'.*quickstart"):
        recipes.recipe("nonsense")


def test_the_walk_finds_parts_by_class_and_by_instance():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        x: int = 1

    @dataclasses.dataclass(frozen=True)
    class Outer:
        needed: str
        inner: Annotated[Inner, types.SimpleNamespace(name="")] = Inner()
        second: Inner = Inner(2)

    assert [path for path, _ in parts(Outer)] == ["", "", "second"]
    assert [path for path, _ in parts(Outer("a"))] == ["", "", "second"]
