"""Worlds as records: found by name or reference, checked, and known nowhere else."""

import ast
import dataclasses
import pathlib
import re
import subprocess
import sys

import pytest
import tiny_runs

from hiper_jax.act.envs.env import accepts
from hiper_jax.act.envs.world import (
    DEFAULT,
    WORLDS,
    Splits,
    WorldSettings,
    load_world,
    named_tasks,
    settings_for,
    world_of,
)
from hiper_jax.act.format import read_response
from hiper_jax.act.prompt import build_prompt
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import games, play, starts
from hiper_jax.experiments.recipes import RECIPES
from hiper_jax.experiments.warmstart import warmstart
from hiper_jax.experiments.warmstart.settings import start

ROOT = pathlib.Path(__file__).parent.parent
NAMES = re.compile(rf"\b({'|'.join(WORLDS)}|shops?)\b|\b({'|'.join(WORLDS)})_", re.I)


# --- who knows a world by name -------------------------------------------------------


def strangers():
    """Files that should know no world.

    All but the worlds' own folders, the recipes, which are data, and a bench that bears
    its world's name.
    """
    for room in ("hiper_jax", "experiments"):
        for file in sorted((ROOT / room).rglob("*.py")):
            inside = file.relative_to(ROOT).as_posix()
            if any(part.is_symlink() for part in file.parents):
                continue
            own = "envs/worlds/", "experiments/recipes/", "experiments/results/"
            if any(folder in inside for folder in own):
                continue
            if file.parent.name == "bench" and file.stem in WORLDS:
                continue
            yield inside, file.read_text()


def code_of(text):
    """A file without its comments and the texts that only people read."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            lines = getattr(node, name, None)
            if isinstance(lines, list):
                kept = [line for line in lines if not _is_text(line)]
                setattr(node, name, kept or [ast.Pass()])
    return ast.unparse(tree)


def _is_text(line):
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def found(text):
    """Names of worlds in a text, those of recipes left out."""
    for recipe in RECIPES:
        text = text.replace(f'"{recipe}"', "").replace(f"'{recipe}'", "")
    return [match[0] for match in NAMES.finditer(text)]


def test_no_file_but_the_one_mapping_knows_a_world_by_name():
    knowing, number = {}, 0
    for inside, text in strangers():
        number += 1
        # What was published, for which world, may be told where credit is explained.
        told = code_of(text) if inside.startswith("hiper_jax/credit/") else text
        if names := found(told):
            knowing[inside] = names
    assert number > 80
    mapping = knowing.pop("hiper_jax/act/envs/world.py")
    assert knowing == {}
    assert len(mapping) == 2 * len(WORLDS) + 1  # name and folder of each; the default


def test_the_search_for_names_sees_them():
    assert found("from hiper_jax.act.envs.worlds import webshop")
    assert found("x = alfworld_games") and found('"""Of a shop."""')
    assert not found('recipe("alfworld-1.5b")') and not found("# workshop")
    assert found(code_of('x = "webshop"')) and not found(code_of('"""webshop"""'))


def test_records_are_light():
    """Nothing heavy is loaded to list worlds, their settings and their commands."""
    heavy = (
        "numpy jax textworld alfworld bm25s gymnasium textarena transformers".split()
    )
    code = (
        "import sys\nfrom hiper_jax.act.envs.world import WORLDS, load_world\n"
        "for name in WORLDS: load_world(name).settings()\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# --- records -------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_is_whole(name):
    world = load_world(name)
    assert world.name == name and world.settings().environment == name
    assert world_of(settings_for(name)) is world is load_world(WORLDS[name])
    assert set(world.templates) >= {"full", "terse"}
    with pytest.raises(ValueError, match="Unknown split 'nope': give one of"):
        games.manifest(world.settings(), "nope")
    shown = ("task", [("seen", "done")], "now seen", "a plan", ["left", "right"])
    for style in world.templates:
        text = build_prompt(*shown, environment=name, style=style)
        assert "task" in text and "now seen" in text and "a plan" in text
        assert "done" in text
        bare = build_prompt(*shown, environment=name, style=style, history_length=0)
        assert "done" not in bare
    assert len(read_response("x" * 99, environment=name).action) == world.tail
    for command in world.commands.values():
        assert dataclasses.is_dataclass(command.settings) and command.settings.__doc__


def test_a_default_start_is_there_and_others_fall_back_to_it():
    train = configs.Train()
    assert starts.start_of(train) == starts.WARM_START
    assert (starts.WARM_START / "config.json").is_file()
    for name in WORLDS:
        folder = starts.start_of(dataclasses.replace(train, world=settings_for(name)))
        assert (folder / "config.json").is_file()


def test_settings_of_one_world_are_taken_over_where_they_were_set():
    old = settings_for(DEFAULT, max_turns=7, cache="elsewhere", seed=5, train=9)
    new = settings_for("webshop", old, seed=6)
    assert (new.max_turns, new.cache, new.seed) == (7, "elsewhere", 6)
    assert new.environment == "webshop" and new.reward == 1.0
    wrong = dataclasses.replace(old, environment="webshop")
    with pytest.raises(ValueError, match=r"settings_for\('webshop'\)"):
        world_of(wrong)


def test_any_text_is_accepted_where_an_environment_says_so():
    assert accepts(["<your action>"], "whatever it is")
    assert not accepts(["<your action>"], "")
    assert not accepts(["<your action> or another"], "whatever it is")


# --- one's own -----------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder that holds modules of somebody's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - names:
        if getattr(sys.modules[name], "__file__", "").startswith(str(tmp_path)):
            del sys.modules[name]


OWN = """
from hiper_jax.act.envs.world import *
import dataclasses
def tasks(settings, split): return named_tasks([split])
def make_env(settings): return object
"""


@pytest.mark.parametrize(
    ("reference", "code", "words"),
    [
        ("chess", "", "there is no world 'chess'; choose one of alfworld"),
        ("", "", "there is no world ''"),
        ("mine:", "", "name your own as my_module:WORLD"),
        ("nowhere:WORLD", "", "there is no module nowhere: go to the folder"),
        ("no.where:WORLD", "", "there is no module no.where: go to the folder that"),
        ("mine1:WORLD", "x = 1", r"mine1\.py has no WORLD: assign"),
        ("mine2:WORLD", "import nosuch", "mine2 cannot be imported: ModuleNotFound"),
        ("mine3:WORLD", "def f(:", "mine3 cannot be imported: SyntaxError"),
        ("mine4:WORLD", "1 / 0", "mine4 cannot be imported: ZeroDivisionError"),
        ("mine5:WORLD", "WORLD = {}", r"WORLD is {} \(a dict\), not a World: make"),
        ("mine6:WORLD", "WORLD = World", "not a World: make it with"),
        ("mine7:WORLD", "WORLD = World(3, tasks, make_env)", "name must be a text"),
        ("mine8:WORLD", "WORLD = World('a', None, make_env)", "tasks must be a func"),
        (
            "mine9:WORLD",
            "WORLD = World('a', tasks, make_env, settings=dict)",
            "settings must be a subclass of WorldSettings",
        ),
        (
            "mine10:WORLD",
            "WORLD = World('a', tasks, make_env, splits=['train'])",
            "splits must be a Splits, not",
        ),
        (
            "mine11:WORLD",
            "WORLD = World('a', tasks, make_env, templates={'full': 'text'})",
            "templates must be functions by their style",
        ),
        (
            "mine11b:WORLD",
            "WORLD = World('a', tasks, make_env, flat={})",
            "flat must be functions by their style",
        ),
        (
            "mine12:WORLD",
            "WORLD = World('a', tasks, make_env, expert='me')",
            "expert must be a function or None",
        ),
        (
            "mine13:WORLD",
            "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
            "class S(WorldSettings):\n    size: int\n"
            "WORLD = World('a', tasks, make_env, settings=S)",
            "the setting size of S has no default",
        ),
        ("mine14:WORLD", "WORLD = World('a', tasks, make_env, tail=-1)", "tail must"),
        ("mine15:WORLD", "WORLD = World('a', tasks, make_env, tail='9')", "tail must"),
    ],
)
def test_a_wrong_reference_is_one_line_that_says_what_to_do(
    here, reference, code, words
):
    module = reference.partition(":")[0]
    if code:
        (here / f"{module}.py").write_text(OWN + code)
    with pytest.raises((ValueError, ImportError), match=words) as error:
        load_world(reference)
    assert "\n" not in str(error.value).strip()


def test_a_module_of_the_current_folder_is_found_and_workers_are_told(here):
    (here / "mine.py").write_text(OWN + "WORLD = World('a', tasks, make_env)")
    world = load_world("mine:WORLD")
    assert world.name == "a" and str(here) in sys.path
    assert world is load_world("mine:WORLD")
    settings = settings_for("mine:WORLD", max_turns=3)
    assert type(settings) is WorldSettings and world_of(settings) is world
    assert games.manifest(settings, "train").ids == ("train",)
    assert games.panels(settings, 5, 3) == {"valid_unseen": 5}
    assert world.expert is None
    with pytest.raises(ValueError, match="give its World an expert"):
        start("mine:WORLD")


@pytest.mark.parametrize("here", [False, True])
def test_a_notebooks_world_is_played_in_this_process_or_refused(here):
    """From standard input, for which there is no module to import either."""
    example = (ROOT / "examples" / "own_world.py").read_text()
    code = (
        "from hiper_jax.act.envs.world import settings_for\n"
        "from hiper_jax.experiments import games\n"
        f"settings = settings_for('__main__:WORLD', in_process={here})\n"
        "task = games.manifest(settings, 'train').ids[0]\n"
        "with games.open_pool(settings, 2) as pool:\n"
        "    print(pool.reset([0], [task])[0][0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-"],
        input=example + code,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if here:
        assert done.stdout == "I think of a number from 1 to 9.\n", done.stderr
    else:
        said = done.stderr.splitlines()[-1]
        assert said.startswith("ValueError: make_env is defined in a notebook")
        assert "world.in_process" in said


def test_equal_tasks_have_equal_hashes():
    assert named_tasks("ab") == named_tasks(["a", "b"])
    assert named_tasks("ab").hash != named_tasks("ba").hash
    assert Splits().train == "train"


def test_a_world_can_be_played_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env, task = play.find(["sokoban"])
    assert env.reset(task)[1]["task"].startswith("Push")
    env, task = play.find(["####|#@ #|#$ #|#. #|####"])
    assert env.reset(task)[1]["admissible_actions"] == ["push down", "go right"]
    with pytest.raises(FileNotFoundError, match="hiper games make or hiper shop make"):
        play.find(["nowhere"])


# --- trained in ----------------------------------------------------------------------


def test_a_third_world_is_trained_in(tmp_path):
    world = settings_for(
        "sokoban",
        levels=8,
        unseen=4,
        max_turns=3,
        workers=1,
        cache=str(tmp_path / "games"),
    )
    episodes = tiny_runs.check_run(tiny_runs.trained_twice(tmp_path, world))
    assert len(episodes) == 4 and all(e.truncated for e in episodes)
    assert "Nothing happens." in episodes[0].turns[-1].observation
    record = (tmp_path / "run" / "config.json").read_text()
    assert '"sokoban"' in record and '"levels": 8' in record


def test_a_third_world_has_a_warm_start(tmp_path):
    config = start("sokoban")
    assert config.world.environment == "sokoban"
    world = dataclasses.replace(
        config.world, levels=8, unseen=2, workers=1, cache=str(tmp_path / "games")
    )
    small = {"width": 32, "mlp_width": 48, "depth": 2, "critic_depth": 1}
    config = dataclasses.replace(
        config,
        **small,
        out=str(tmp_path / "start"),
        world=world,
        practice_worlds=2,
        vocab_size=400,
        steps=3,
        batch=8,
        critic_rounds=0,
    )
    assert (warmstart.warmstart(config) / "critic" / "config.json").is_file()


def test_somebody_elses_world_is_trained_in_from_its_own_folder(tmp_path):
    """The example as it stands, by the command, with worker processes."""
    model = tiny_runs.saved(tmp_path)
    flags = (
        f"--model {model} --out {tmp_path / 'run'} --world.max-turns 3 --slots 4 "
        "--reading.max-prompt 220 --reading.max-response 12 --learn.minibatch 8 "
        "--learn.chunk 4 --num-updates 2 --episodes 4 --eval-episodes 4 "
        "--world.workers 2 --world.environment own_world:WORLD"
    )
    code = "from hiper_jax.experiments.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "quickstart", *flags.split()],
        cwd=ROOT / "examples",
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    episodes = tiny_runs.check_run(tmp_path / "run")
    assert {e.task for e in episodes} == {"find the number"}
    assert episodes[0].turns[1].observation in ("more", "less")
    assert "own_world:WORLD" in (tmp_path / "run" / "config.json").read_text()


def test_what_a_run_is_given_for_a_world_is_said_in_one_line(tmp_path, capsys):
    from test_cli import fails

    said = fails(capsys, "train", "quickstart", "--world.environment", "nowhere:WORLD")
    assert "there is no module nowhere" in said
