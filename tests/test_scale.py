"""What a program sends is counted by hand; what binds an iteration is said."""

import configparser
import dataclasses
import importlib.metadata
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from packaging.requirements import Requirement

from hiper_jax.experiments.capacity import forecast, layout, traffic
from hiper_jax.experiments.capacity import hardware as machines
from hiper_jax.experiments.capacity import memory as plan
from hiper_jax.experiments.capacity import plan as planning
from hiper_jax.experiments.recipes import recipe
from hiper_jax.lm import sharding
from hiper_jax.lm.known import MODELS

ROOT = pathlib.Path(__file__).parent.parent


def program(function, shape, axes, out=None):
    """The text of a function of [64, 16] float32, compiled on a mesh of eight."""
    mesh = sharding.make_mesh(*shape)
    place = NamedSharding(mesh, PartitionSpec(*axes))
    where = NamedSharding(mesh, PartitionSpec(*(out or ())))
    x = jax.ShapeDtypeStruct((64, 16), "float32", sharding=place)
    return jax.jit(function, out_shardings=where).lower(x).compile().as_text() or ""


def test_a_gather_is_counted_by_hand():
    """4,096 bytes in eight parts: seven of them to fetch, half from the other host."""
    (one,) = traffic.sent(program(lambda x: x * 2, (1, 8, 1), ("fsdp",)), int)
    assert (one.kind, one.size, one.times) == ("all-gather", 4096, 1)
    assert one.groups.shape == (1, 8)
    assert one.by_device() == 7 / 8 * 4096
    assert one.into_host(4) == 1 / 2 * 4096 and one.into_host(8) == 0


def test_a_sum_is_counted_by_hand_and_groups_on_one_host_cross_nothing():
    """Over the last axis neighbours add up, over the first the hosts do."""

    def total(x):
        return jnp.broadcast_to(x.sum(0), (64, 16))

    near, far = (
        traffic.sent(program(total, (2, 1, 4), (axis,)), int)[0]
        for axis in ("tensor", "data")
    )
    assert near.kind == far.kind == "all-reduce" and near.size == far.size == 64
    assert near.groups.shape == (2, 4) and far.groups.shape == (4, 2)
    assert near.by_device() == 2 * 3 / 4 * 64 and far.by_device() == 64
    # Each of a host's four devices adds to its twin on the other host.
    assert near.into_host(4) == 0 and far.into_host(4) == 4 * 64


@pytest.mark.parametrize("known", [True, False])
def test_a_loop_counts_as_often_as_it_runs(known):
    mesh = sharding.make_mesh(1, 8, 1)
    place = NamedSharding(mesh, PartitionSpec("fsdp"))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def step(_, x):
        x = jax.lax.with_sharding_constraint(jnp.sin(x), everywhere)
        return jax.lax.with_sharding_constraint(jnp.cos(x), place)

    def run(x, n):
        with jax.named_scope("gradient"):
            return jax.lax.fori_loop(0, 5 if known else n, step, x)

    x = jax.ShapeDtypeStruct((64, 16), "float32", sharding=place)
    n = jax.ShapeDtypeStruct((), "int32", sharding=everywhere)
    text = jax.jit(run, out_shardings=place).lower(x, n).compile().as_text() or ""
    loops = traffic.loops_of(rows=100, minibatch=64, chunk=8, heads=3)
    found = [one for one in traffic.sent(text, loops) if one.kind == "all-gather"]
    assert [one.times for one in found] == [5 if known else 8]


def test_loops_are_known_by_their_scopes():
    loops = traffic.loops_of(rows=100, minibatch=64, chunk=8, heads=3)
    names = {
        "jit(update)/values/while": 13,
        "jit(update)/reference/while": 13,
        "jit(update)/while": 2,
        "jit(update)/while/body/gradient/while": 8,
        "jit(update)/while/body/gradient/while/body/transpose(jvp(score))/while": 3,
    }
    assert {name: loops(name) for name in names} == names


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("{{0,2},{1,3}}", [[0, 2], [1, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [[0, 1], [2, 3]]),
        ("mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
    ],
)
def test_groups_are_read_as_they_are_written(written, groups):
    line = f"%x = f32[4] all-reduce(%y), replica_groups={written}, to_apply=%add"
    assert traffic._groups(line).tolist() == groups


def parts_of(preset, machine, **changes):
    run = layout.laid_out(recipe(preset), machine)
    model = dataclasses.replace(MODELS[layout.published_name(run)], dtype=run.dtype)
    asked = planning.of_run(run, devices=machine.devices)
    asked = dataclasses.replace(asked, **changes)
    return forecast.iteration(model, run.mesh.sizes, machine, asked)


def test_products_are_six_times_the_weights_per_token_and_a_third_more_again():
    """By hand: 2 p forward, 4 p back; with full recomputation 8 p; of both networks."""
    machine = machines.HARDWARE["h100x1"]
    parts = parts_of("alfworld-0.5b", machine)
    p = 494e6 - 151936 * 896
    tokens = 128 * 50 * forecast.FED * (forecast.PROMPT + forecast.RESPONSE)
    known = 2 * 8 * p * tokens / 989e12
    # What is left is attention, and the head at responses.
    assert known < parts["gradients"].compute < 1.35 * known
    bare = parts_of("alfworld-0.5b", machine, remat="none")["gradients"].compute
    assert bare / parts["gradients"].compute == pytest.approx(3 / 4)
    free = parts_of("alfworld-0.5b", machine, estimator="grpo")
    assert free["gradients"].compute * 2 == pytest.approx(parts["gradients"].compute)
    assert parts["gradients"].link == 0  # one device sends nothing


@pytest.mark.parametrize("hosts", [4, 16, 64])
def test_a_part_takes_as_long_as_what_binds_it(hosts):
    machine = machines.grown(machines.HARDWARE["v5e-16"], hosts)
    parts = parts_of("alfworld-1.5b", machine)
    for part in parts.values():
        assert part.seconds == getattr(part, part.binds) == max(part)
        assert np.isfinite(part).all() and min(part) >= 0
    page = "\n".join(forecast.text(parts))
    assert "at least" in page and "bound by" in page


def test_the_tpus_compiler_is_the_one_that_jax_pins():
    """An older or newer one compiles other programs than jax was tested with."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    assert extras["aot"].split() == extras["tpu"].split() == ["jax[tpu]"]
    listed = [Requirement(x) for x in importlib.metadata.requires("jax") or ()]
    (pinned,) = (
        x
        for x in listed
        if x.name == "libtpu" and x.marker and x.marker.evaluate({"extra": "tpu"})
    )
    assert str(pinned.specifier).startswith("==")
    if importlib.util.find_spec("libtpu"):
        assert pinned.specifier.contains(importlib.metadata.version("libtpu"))


def test_fake_devices_stand_for_a_slice():
    assert plan.topology("cpu:4") == jax.devices("cpu")[:4]
    for count in ("9", "0", "x"):
        with pytest.raises(ValueError, match="XLA_FLAGS"):
            plan.topology(f"cpu:{count}")
