"""A named machine changes how a published run lies, and nothing that it computes."""

import dataclasses
import json
import shlex
import types

import jax
import pytest
import tiny_runs

from hiper_jax.experiments import cli, commands, flags
from hiper_jax.experiments.capacity import hardware as machines
from hiper_jax.experiments.capacity import layout
from hiper_jax.experiments.capacity import plan as planning
from hiper_jax.experiments.config import Mesh
from hiper_jax.experiments.recipes import RECIPES, recipe
from hiper_jax.lm.known import MODELS

PUBLISHED = [name for name in RECIPES if name.startswith(("alfworld-", "webshop-"))]
PUBLISHED.remove("webshop-quickstart")
# What no layout makes fit: 20.5 of 16 GiB, and 299 of 80.
TOO_LARGE = {
    (f"{world}-7b", machine)
    for world in ("alfworld", "webshop")
    for machine in ("v5e-16", "h100x1")
}


def settings_of(words: str):
    """The settings of a run that a command line asks for."""
    argv = shlex.split(words)
    early = flags.some(commands.Early, argv, "no value")
    chosen = flags.parse(commands.tree(early), argv, "hiper")
    assert chosen is not None
    return chosen.settings.settings


def peak_of(run, machine) -> float:
    """GiB of a device."""
    shape = MODELS[layout.published_name(run)]
    model = dataclasses.replace(shape, dtype=run.dtype)
    devices, tpu = machine.devices, machine.slices
    asked = planning.of_run(run, devices=devices, tpu=tpu)
    parts = planning.parts_of(model, run.mesh.sizes, asked)
    return planning.peak(parts) / planning.GIB


@pytest.mark.parametrize("machine", machines.HARDWARE)
@pytest.mark.parametrize("preset", PUBLISHED)
def test_only_the_layout_changes_and_it_fits(preset, machine):
    before, known = recipe(preset), machines.HARDWARE[machine]
    after = layout.laid_out(before, known)
    assert after.learn.pack == (layout.PACK if known.slices else 1)
    learn = dataclasses.replace(after.learn, chunk=before.learn.chunk, pack=1)
    back = {x: getattr(before, x) for x in ("mesh", "dtype", "remat", "slots")}
    assert dataclasses.replace(after, learn=learn, **back) == before
    ways = after.mesh.data * after.mesh.fsdp
    assert after.mesh.size == known.devices
    assert after.learn.chunk % ways == 0 and after.learn.chunk >= before.learn.chunk
    room = machines.CHIPS[known.chip].hbm
    fits = peak_of(after, known) <= layout.SHARE * room
    assert fits == ((preset, machine) not in TOO_LARGE)


def test_every_machine_says_where_its_figures_are_from():
    for chip in machines.CHIPS.values():
        assert any(word in chip.sources for word in (".com", "data sheet"))
    hosts = {name: machines.hosts_of(one) for name, one in machines.HARDWARE.items()}
    assert hosts == {"v5e-16": 4, "v5p-32": 4, "h100x1": 1, "h100x8": 1}


def answer(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", *words])
    said = capsys.readouterr()
    assert stop.value.code == 0, said.err
    return said.out


@pytest.mark.parametrize("more", [[], ["--chunk", "32", "--critic", "shared"]])
def test_the_command_that_a_plan_prints_starts_the_run_that_it_planned(capsys, more):
    asked = ["alfworld-1.5b", "--hardware", "v5e-16", *more]
    page = answer(capsys, *asked)
    (line,) = (x for x in page.splitlines() if x.strip().startswith("hiper train"))
    run = settings_of(line.replace("hiper", "", 1))
    said = json.loads(answer(capsys, *asked, "--json"))
    known = dataclasses.replace(run, model=recipe("alfworld-1.5b").model)
    peak = peak_of(known, machines.HARDWARE["v5e-16"])
    assert planning.peak(said) / planning.GIB == pytest.approx(peak)
    assert said["mesh"] == run.mesh.sizes and said["fits"]
    assert run.model == "FOLDER" and (run.critic == "shared") == bool(more)


def test_other_flags_override_a_machines():
    words = "train alfworld-1.5b --hardware h100x8 --learn.chunk 32 --dtype float32"
    run = settings_of(words)
    assert (run.learn.chunk, run.dtype, run.mesh.size) == (32, "float32", 8)


def test_more_hosts_are_more_devices(capsys):
    words = ("alfworld-1.5b", "--hardware", "v5e-16", "--hosts", "16", "--json")
    said = json.loads(answer(capsys, *words))
    sizes = said["mesh"].values()
    assert 64 == list(sizes)[0] * list(sizes)[1] * list(sizes)[2]
    assert "--mesh" in said["command"] and "--hardware" not in said["command"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("plan", "model"),
        ("plan alfworld-1.5b --hardware tpu", "hardware"),
        ("plan --model qwen2.5-7b --hosts 4", "--hardware"),
        ("plan quickstart --hardware h100x8", "a small one of ours"),
        ("train quickstart --hardware h100x8", "a small one of ours"),
        ("train alfworld-1.5b --hardware v9", "hardware"),
    ],
)
def test_a_wrong_question_is_one_line(capsys, words, hint):
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and hint in said


def test_a_run_that_cannot_fit_is_refused_with_a_knob_that_helps():
    run = layout.laid_out(recipe("alfworld-7b"), machines.HARDWARE["v5e-16"])
    model = dataclasses.replace(MODELS["qwen2.5-7b"], dtype="bfloat16")
    with pytest.raises(ValueError, match="20.5 GiB on each device") as refused:
        layout.refuse(run, model, 16 * planning.GIB)
    assert "--critic shared" in str(refused.value) and "\n" not in str(refused.value)
    other = dataclasses.replace(run, critic="shared")
    layout.refuse(other, model, 16 * planning.GIB)  # the knob, turned
    with pytest.raises(ValueError, match="what helps most"):
        layout.refuse(run, model, planning.GIB)


def test_a_check_names_idle_devices_and_compares_memory_where_it_is_known(
    tmp_path, monkeypatch
):
    """A CPU says nothing of its memory; the eight fake ones are counted."""
    world = tiny_runs.levels(tmp_path)
    config = tiny_runs.settings(tmp_path, world)
    said = []
    layout.check(config, config.model, said.append)
    assert len(said) == 1 and "1 of 8 devices" in said[0]
    assert "--mesh.data 8 --learn.chunk 8" in said[0]
    laid = dataclasses.replace(config, mesh=Mesh(fsdp=8))
    layout.check(laid, config.model, pytest.fail)
    small = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1000})
    monkeypatch.setattr(jax, "local_devices", lambda: [small])
    with pytest.raises(ValueError, match="the run needs .* which has 0.0 GiB"):
        layout.check(laid, config.model, pytest.fail)
