"""The planner: what it counts is what the compiler allocates."""

import dataclasses
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from test_cli import fails

from hiper_jax.act.envs.world import DEFAULT, settings_for
from hiper_jax.act.stack import stack
from hiper_jax.experiments import cli as main
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import setup
from hiper_jax.experiments.capacity import aot
from hiper_jax.experiments.capacity import memory as plan
from hiper_jax.experiments.capacity import plan as planning
from hiper_jax.lm import qwen, sharding
from hiper_jax.lm.config import num_params, tiny
from hiper_jax.lm.known import MODELS
from hiper_jax.networks import placement

CONFIG = tiny(512, width=64, depth=5, num_heads=4, num_kv_heads=4, mlp_width=128)
JOB = plan.Job(chunk=32, rows=64, prompt=192, response=64, slots=32)


def test_one_device_holds_every_weight():
    leaves = qwen.abstract(CONFIG)
    assert plan.tree_bytes(leaves, {}, jnp.float32) == 4 * num_params(CONFIG)
    parts = plan.update(CONFIG, {}, JOB)
    assert parts["actor"] == 4 * num_params(CONFIG)
    assert parts["critic"] == parts["actor"] + 4 * 3 * (64 + 1)
    assert parts["optimizer"] == 2 * (parts["actor"] + parts["critic"])
    assert parts["total"] == sum(parts.values()) - parts["total"]
    assert "actor" in plan.table(parts) and "GiB" in plan.table(parts)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen2.5-0.5b", 0.494), ("qwen2.5-1.5b", 1.544), ("qwen2.5-3b", 3.086)]
    + [("qwen2.5-7b", 7.616), ("qwen3-0.6b", 0.596), ("qwen3-8b", 8.191)]
    + [("smollm2-135m", 0.1345)],
)
def test_published_shapes_have_their_published_sizes(name, billions):
    assert num_params(MODELS[name]) / 1e9 == pytest.approx(billions, abs=6e-4)


def run_of(**changes):
    base = configs.Train(
        world=settings_for(DEFAULT, max_turns=7),
        reading=configs.Reading(max_prompt=896, max_response=128),
        episodes=8,
        slots=16,
        remat="full",
        **changes,
    )
    learn = dataclasses.replace(base.learn, chunk=16, minibatch=32)
    return dataclasses.replace(base, learn=learn)


def job_of(config: configs.Train) -> plan.Job:
    shapes = setup.run_shapes(config)
    return plan.Job(
        chunk=config.learn.chunk,
        rows=shapes.rows[0],
        prompt=config.reading.max_prompt,
        response=config.reading.max_response,
        slots=config.slots,
        remat=config.remat,
    )


def test_state_and_batch_are_the_compilers_arguments():
    """What the real update takes in on eight devices, by the compiler: to 1 %."""
    mesh = sharding.make_mesh(2, 2, 2)
    config = run_of()
    agent = aot.bare_agent(CONFIG, config, mesh)
    memory = plan.compiled(aot.lower_update(agent, config, longest=True).compile())
    parts = plan.update(CONFIG, dict(mesh.shape), job_of(config))
    held = sum(plan.state(CONFIG, dict(mesh.shape), job_of(config)).values())
    np.testing.assert_allclose(memory["arguments"], held + parts["batch"], rtol=0.01)
    assert memory["aliased"] < -0.95 * held  # donated: no second copy


def test_a_checkpoint_is_the_state_of_which_each_host_holds_its_devices_part():
    config = run_of()
    agent = aot.bare_agent(CONFIG, config, sharding.make_mesh(1, 8, 1))
    state = placement.abstract_state(agent, setup.build(config, agent).init)
    whole = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    asked = planning.Plan(model="named above", dtype="float32")
    saved = planning.parts_of(CONFIG, dict(agent.mesh.shape), asked)["checkpoint"]
    np.testing.assert_allclose(saved["written"], whole, rtol=0.001)
    # What is not cut, norms and biases, is counted on each device.
    assert 1.0 <= 8 * saved["in_host_memory"] / whole < 1.05


def test_the_batch_that_is_compiled_for_is_the_one_that_is_stacked():
    config = run_of()
    world = dataclasses.replace(config.world, max_turns=7)
    shapes = setup.run_shapes(dataclasses.replace(config, episodes=4, world=world))
    real = stack(
        small.episodes(),
        small.agent()[0].pieces,
        max_turns=7,
        max_response=128,
        row_buckets=shapes.rows,
        length_buckets=shapes.lengths[-1:],
    )
    made = aot.abstract_batch(shapes, dataclasses.replace(config, episodes=4))

    def same(a, b):
        a = np.asarray(a)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)

    jax.tree.map(same, real, made)


def test_cutting_and_remembering_less_cost_less():
    def total(mesh=None, config=CONFIG, **changes):
        job = dataclasses.replace(JOB, **changes)
        return plan.update(config, mesh or {}, job)["total"]

    assert total({"fsdp": 8}) < total({"data": 8}) < total()
    assert total(remat="full") < total(remat="dots") < total(remat="none")
    assert total(shared=True) < total() and total(chunk=16) < total()
    assert total(rank=1) < total()
    assert total(config=dataclasses.replace(CONFIG, dtype="bfloat16")) < total()


def test_a_choice_of_lengths_is_counted_where_a_tpus_compiler_holds_it():
    """libtpu 0.0.42.1 for 0.5B on a v5e:2x4, chunk 8: 7.02 GiB of two, 5.69 of one."""
    model = dataclasses.replace(MODELS["qwen2.5-0.5b"], dtype="bfloat16")

    def total(lengths, tpu=True):
        job = plan.Job(chunk=8, tpu=tpu, lengths=lengths)
        return plan.update(model, {"fsdp": 8}, job)["total"] / 2**30

    assert total(1) == pytest.approx(5.69, rel=0.1)
    assert total(2) == pytest.approx(7.02, rel=0.1)
    assert total(1, tpu=False) == total(2, tpu=False)


def test_cache_is_counted_per_token():
    cache = [
        plan.generation(CONFIG, {}, dataclasses.replace(JOB, response=n))["cache"]
        for n in (1, 2)
    ]
    per_token = 2 * 5 * 4 * 32 * 4  # k and v, layers, heads, width, bytes
    assert cache[1] - cache[0] == 32 * per_token and cache[0] == 32 * 193 * per_token


def test_update_compiles_for_a_slice_that_is_not_there():
    """The real update, with the TPU's attention kernel, for eight chips of a v5e."""
    if importlib.util.find_spec("libtpu") is None:
        with pytest.raises(ModuleNotFoundError, match="libtpu"):
            plan.topology("v5e:2x4")
        pytest.skip("install libtpu to compile for a TPU")
    model = tiny(8192, width=512, depth=6, num_heads=4, head_dim=128, mlp_width=2048)
    config = run_of(dtype="bfloat16")
    mesh = sharding.make_mesh(1, 8, 1, devices=plan.topology("v5e:2x4"))
    agent = aot.bare_agent(model, config, mesh)
    with jax.numpy_rank_promotion("allow"):  # inside the kernel
        memory = plan.compiled(aot.lower_update(agent, config, longest=True).compile())
    parts = plan.update(agent.config, dict(mesh.shape), job_of(config))
    np.testing.assert_allclose(parts["total"], memory["total"], rtol=0.15)


def answer(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main.main(["plan", *words])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_the_command_finds_a_mesh_and_knobs_that_make_it_fit(capsys):
    said = json.loads(
        answer(capsys, "--model", "qwen2.5-1.5b", "--devices", "8", "--json")
    )
    assert said["fits"] and np.prod(list(said["mesh"].values())) == 8
    tight = ("--model", "qwen2.5-1.5b", "--devices", "8", "--mesh.fsdp", "8")
    tight += ("--hbm", "11")
    said = json.loads(answer(capsys, *tight, "--json"))
    assert not said["fits"]
    made = [k["change"] for k in said["knobs"] if k["fits"]]
    assert "--critic shared" in made
    # The knob, turned, gives the peak that it promised.
    again = json.loads(answer(capsys, *tight, "--critic", "shared", "--json"))
    promised = {k["change"]: k["peak"] for k in said["knobs"]}["--critic shared"]
    assert planning.peak(again) == promised
    assert again["fits"]
    page = answer(capsys, *tight)
    assert "does NOT fit" in page and "what would make it fit" in page


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--model", "gpt-5"], "qwen2.5-0.5b"),
        (
            ["--model", "qwen2.5-7b", "--devices", "-4"],
            "devices must be a whole number, 1 or more",
        ),
        (["--model", "qwen2.5-7b", "--hbm", "-4"], "hbm must be a number above 0"),
        (["--model", "qwen2.5-7b", "--devices", "3"], "no mesh of 3 devices"),
        (["--model", "qwen2.5-7b", "--devices", "8", "--mesh.fsdp", "4"], "agree"),
        (
            ["--model", "qwen2.5-0.5b", "--devices", "4", "--mesh.tensor", "4"],
            "kv_heads",
        ),
        (["--model", "qwen2.5-0.5b", "--mesh.data", "0"], "mesh.data"),
    ],
)
def test_a_wrong_question_is_one_line(capsys, words, hint):
    assert hint in fails(capsys, "plan", *words)


def test_a_wrong_slice_is_one_line(capsys):
    if importlib.util.find_spec("libtpu") is None:
        assert "libtpu" in fails(capsys, "compile", "--model", "qwen2.5-0.5b")
        return
    words = ("compile", "--model", "qwen2.5-0.5b", "--topology")
    assert "gives no slice" in fails(capsys, *words, "v5e:3x5x7")


def test_compiling_keeps_one_line_per_program(capsys, monkeypatch, tmp_path):
    """The table's arithmetic, on a program whose bytes are known: 64 in, 64 out."""
    toy = jax.jit(jnp.negative).lower(jnp.zeros((16,), jnp.float32))
    loop = jax.jit(lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, jnp.exp, x))
    toys = {"lower_update": toy, "lower_generation": loop.lower(jnp.zeros((16,)))}
    monkeypatch.setattr(plan, "topology", lambda name: jax.devices())
    for name, made in toys.items():
        monkeypatch.setattr(aot, name, lambda *given, made=made, **options: made)
    table = tmp_path / "compile.csv"
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            main.main(
                ["compile", "--model", "qwen2.5-0.5b", "--json", "--out", str(table)]
            )
        assert stop.value.code == 0
    lines = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
    assert [x["program"] for x in lines] == ["update", "generation"] * 2
    assert [x["step_reads_gib"] for x in lines] == ["", 0.0] * 2  # some 200 bytes
    assert lines[1]["step_needs_gib"] > 0.9  # the weights alone
    rows = table.read_text().splitlines()
    assert len(rows) == 3 and rows[0].startswith("model,topology,mesh")
    assert float(rows[1].split(",")[7]) == round(128 / 2**30, 3)


def test_a_chunk_that_the_mesh_does_not_divide_is_named():
    with pytest.raises(ValueError, match="--learn.chunk to 16"):
        placement.check_chunk(12, sharding.make_mesh(1, 8, 1))
