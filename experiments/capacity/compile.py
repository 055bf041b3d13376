"""`hiper compile`: the real programs, compiled for TPU slices that are not there.

What XLA says a device will hold stands beside what `hiper plan` said.
"""

import csv
import dataclasses
import functools
import json
import pathlib
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp

from hiper_jax import workdir
from hiper_jax.accept import Count, Name, NotNegative, Whole, check_fields
from hiper_jax.experiments import config as configs
from hiper_jax.experiments.capacity import aot, forecast, reads, traffic
from hiper_jax.experiments.capacity import memory as plan
from hiper_jax.experiments.capacity import plan as planning
from hiper_jax.experiments.capacity.hardware import CHIPS
from hiper_jax.experiments.recipes import recipe
from hiper_jax.experiments.setup import run_shapes
from hiper_jax.lm import num_params, sharding
from hiper_jax.networks import placement
from hiper_jax.networks.agent import Agent

GIB = planning.GIB
HEAD_CHUNK = plan.Job.head_chunk


@dataclasses.dataclass(frozen=True)
class Compile:
    """Compiles the published run's programs ahead of time."""

    model: Name
    """A published model, such as qwen2.5-7b, or a folder with a config.json."""
    topology: Name = "v5e:2x4"
    """A TPU slice, such as v5e:2x4 or v5p:2x2x4; needs libtpu, not a TPU."""
    mesh: configs.Mesh = configs.Mesh()
    """How the devices are laid out; by default as hiper plan would."""
    hbm: NotNegative = 0.0
    """Memory of one device, GiB; 0: that of the topology's generation."""
    programs: Literal["both", "update", "generation"] = "both"
    """Which programs to compile."""
    buckets: Literal["all", "longest"] = "all"
    """Lengths that the update is compiled for: all that training takes, or the longest
    alone, which is compiled sooner and, on a TPU, holds less memory. Bins (--pack) have
    two lengths of their own."""
    depth: Whole = 0
    """Layers, where a model of another depth is meant; 0: the model's."""
    estimator: configs.EstimatorName = "hae"
    """How credit is assigned: some methods have no critic."""
    critic: Literal["separate", "shared"] = "separate"
    """See hiper train --help."""
    lora_rank: Whole = 0
    """Rank of adapters, which are then all that is trained; 0: every weight is."""
    remat: Literal["none", "dots", "full"] = "full"
    """What a gradient computes again rather than keeps."""
    chunk: Count = 64
    """Turns fed at once, over all devices."""
    pack: Count = 1
    """Turns that lie in one bin at most, see hiper train --help."""
    host: Count = 4
    """Devices of a host, for the bytes that come into one."""
    slots: Count = 128
    """Rows sampled at once, over all devices."""
    out: str = ""
    """CSV file to which a line per program is added."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self):
        check_fields(self)


HBM = {"v4": 32.0, "v6e": 32.0} | {k: chip.hbm for k, chip in CHIPS.items()}
FIELDS = (
    "model",
    "topology",
    "mesh",
    "chunk",
    "critic",
    "program",
    "plan_gib",
    "xla_gib",
    "difference_percent",
    "flops",
    "compile_seconds",
    "buckets",
    "sent_gib",
    "into_host_gib",
    "least_gib",
    "step_reads_gib",
    "step_needs_gib",
)


def main(asked: Compile) -> None:
    """Compiles and prints, one program after another.

    Raises:
      ValueError: the model, the slice or the mesh is not one that can be.
      ModuleNotFoundError: libtpu is not installed.
    """
    model = planning.shape_of(asked.model)
    if asked.depth:
        model = dataclasses.replace(model, depth=asked.depth)
    devices = plan.topology(asked.topology)
    generation = asked.topology.split(":")[0]
    question = planning.Plan(
        model=asked.model,
        devices=len(devices),
        hbm=asked.hbm or HBM.get(generation, 16.0),
        mesh=asked.mesh,
        estimator=asked.estimator,
        critic=asked.critic,
        lora_rank=asked.lora_rank,
        remat=asked.remat,
        chunk=asked.chunk,
        slots=asked.slots,
        tpu=generation != "cpu",
    )
    bf16 = dataclasses.replace(model, dtype="bfloat16")
    ways = planning.choose(bf16, question)
    parts = planning.parts_of(bf16, ways, question)
    # Bins have two lengths of their own.
    buckets = f"bins of {asked.pack}" if asked.pack > 1 else asked.buckets
    if buckets == "longest":
        job = dataclasses.replace(planning.job_of(question), lengths=1)
        parts["update"] = plan.update(bf16, ways, job)
    mesh = sharding.make_mesh(**ways, devices=devices)
    placement.check_chunk(asked.chunk, mesh)
    config = published(asked)
    agent = aot.bare_agent(model, config, mesh)
    lower = {
        "update": functools.partial(aot.lower_update, longest=buckets == "longest"),
        "generation": aot.lower_generation,
    }
    wanted = lower if asked.programs == "both" else [asked.programs]
    for name in wanted:
        # Inside the TPU's attention kernel ranks are promoted.
        with jax.numpy_rank_promotion("allow"):
            began = time.monotonic()
            program = lower[name](agent, config).compile()
        line = {
            "model": asked.model + (f" depth {asked.depth}" if asked.depth else ""),
            "topology": asked.topology,
            "mesh": "x".join(map(str, ways.values())),
            "chunk": asked.chunk,
            "critic": asked.critic if config.has_critic else "none",
            "program": name,
            **compare(parts[name], program),
            **crossing(name, program, config, agent, asked.host),
            **decoding(name, program, config, agent),
            "compile_seconds": round(time.monotonic() - began, 1),
            "buckets": buckets if name == "update" else "longest",
        }
        if asked.out:
            add(asked.out, line)
        print(json.dumps(line) if asked.json else text(line, parts[name], program))


def published(asked: Compile) -> configs.Train:
    """The published settings, with what was asked for."""
    base = configs.with_estimator(recipe("alfworld-1.5b"), asked.estimator)
    return dataclasses.replace(
        base,
        learn=dataclasses.replace(base.learn, chunk=asked.chunk, pack=asked.pack),
        dtype="bfloat16",
        mesh=asked.mesh,
        remat=asked.remat,
        critic=asked.critic,
        lora_rank=asked.lora_rank,
        slots=asked.slots,
    )


def compare(parts: dict[str, int], program: Any) -> dict[str, Any]:
    """The plan's total and XLA's, GiB per device, and XLA's count of FLOPs."""
    planned, said = parts["total"], plan.compiled(program)["total"]
    cost = program.cost_analysis() or {}
    return {
        "plan_gib": round(planned / GIB, 3),
        "xla_gib": round(said / GIB, 3),
        "difference_percent": round(100 * (planned / said - 1), 1),
        "flops": float(f"{cost.get('flops', 0.0):.4g}"),
    }


def crossing(
    name: str, program: Any, config: configs.Train, agent: Agent, per_host: int
) -> dict[str, float | str]:
    """GiB that a device sends and that come into a host in an iteration's update.

    The least is each network's weights once an optimizer step, and the gradients of the
    part that a host keeps: (h - 1) / h of both, with h hosts. Of lengths to choose from
    the first is counted; sampling's loops are not counted.
    """
    if name != "update":
        return {"sent_gib": "", "into_host_gib": "", "least_gib": ""}
    learn, rows = config.learn, run_shapes(config).rows[0]
    heads = -(-learn.chunk * config.reading.max_response // HEAD_CHUNK)
    loops = traffic.loops_of(rows, learn.minibatch, learn.chunk, heads)
    found = traffic.sent(program.as_text(), loops)
    hosts = -(-agent.mesh.size // per_host)
    bytes_ = jnp.dtype(config.dtype).itemsize + 4
    networks = 1 + (agent.critic == "separate")
    least = learn.epochs * -(-rows // learn.minibatch) * (hosts - 1) / hosts
    least *= networks * num_params(agent.config) * bytes_
    return {
        "sent_gib": round(sum(x.by_device() for x in found) / GIB, 2),
        "into_host_gib": round(sum(x.into_host(per_host) for x in found) / GIB, 2),
        "least_gib": round(least / GIB, 2),
    }


def decoding(
    name: str, program: Any, config: configs.Train, agent: Agent
) -> dict[str, float | str]:
    """GiB that a step of sampling takes from a device's memory, and that it needs.

    Needed are the weights, and the keys and values of the prompts and of half a
    response of the length that the published runs have.
    """
    if name != "generation":
        return {"step_reads_gib": "", "step_needs_gib": ""}
    model, ways = agent.config, agent.mesh.shape
    rows = config.slots / (ways["data"] * ways["fsdp"])
    context = run_shapes(config).prompts[-1] + forecast.RESPONSE / 2
    tables = num_params(model) - model.vocab_size * model.width * (not model.tied)
    needed = forecast.step_reads(model, tables, rows, context)
    needed *= jnp.dtype(config.dtype).itemsize / ways["tensor"]
    return {
        "step_reads_gib": round(reads.of_loop(program.as_text()) / GIB, 3),
        "step_needs_gib": round(needed / GIB, 3),
    }


def text(line: dict[str, Any], parts: dict[str, int], program: Any) -> str:
    """Both accounts of one program."""
    head = "{model} on {topology}, mesh {mesh}, {program}".format(**line)
    return "\n".join(
        (
            f"\n{head}: compiled in {line['compile_seconds']} s",
            "planned, per device",
            plan.table(parts),
            "XLA, per device",
            plan.table(plan.compiled(program)),
            f"the plan differs by {line['difference_percent']:+.1f} %",
            f"{line['flops']:.3g} FLOPs per device; the body of a loop (layers in the "
            "update, chunks, minibatches, response tokens) is counted once",
            f"an iteration sends {line['sent_gib']} GiB from each device, "
            f"{line['into_host_gib']} GiB come into a host, where "
            f"{line['least_gib']} would do"
            if line["sent_gib"] != ""
            else f"a step of sampling reads {line['step_reads_gib']} GiB of a device's "
            f"memory, where {line['step_needs_gib']} would do",
        )
    )


def add(file: str, line: dict[str, Any]) -> None:
    """Adds a line to a table, in the place of an older one of the same program."""
    path = pathlib.Path(file)
    lines = []
    if path.is_file():
        with open(path, newline="") as known:
            lines = list(csv.DictReader(known))
    key = (*FIELDS[:6], "buckets")
    line = {name: str(line[name]) for name in FIELDS}
    lines = [x for x in lines if [x[k] for k in key] != [line[k] for k in key]]
    rows = [FIELDS, *([x.get(name, "") for name in FIELDS] for x in [*lines, line])]
    workdir.write_text(path, "".join(",".join(row) + "\n" for row in rows))
