"""`hiper compile`: the real programs, compiled for TPU slices that are not there.

What XLA says a device will hold stands beside what `hiper plan` said.
"""

import csv
import dataclasses
import json
import pathlib
import time
from typing import Any, Literal

import jax

from hiper_jax import workdir
from hiper_jax.accept import Count, Name, NotNegative, Whole, check_fields
from hiper_jax.experiments import config as configs
from hiper_jax.experiments.capacity import aot
from hiper_jax.experiments.capacity import memory as plan
from hiper_jax.experiments.capacity import plan as planning
from hiper_jax.experiments.recipes import recipe
from hiper_jax.lm import sharding
from hiper_jax.networks import placement

GIB = planning.GIB


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
    slots: Count = 128
    """Rows sampled at once, over all devices."""
    out: str = ""
    """CSV file to which a line per program is added."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self):
        check_fields(self)


HBM = {"v4": 32.0, "v5e": 16.0, "v5p": 95.0, "v6e": 32.0}
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
)


def main(asked: Compile) -> None:
    """Compiles and prints, one program after another.

    Raises:
      ValueError: the model, the slice or the mesh is not one that can be.
      ModuleNotFoundError: libtpu is not installed.
    """
    model = planning.shape_of(asked.model)
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
    )
    bf16 = dataclasses.replace(model, dtype="bfloat16")
    ways = planning.choose(bf16, question)
    parts = planning.parts_of(bf16, ways, question)
    mesh = sharding.make_mesh(**ways, devices=devices)
    placement.check_chunk(asked.chunk, mesh)
    config = published(asked)
    agent = aot.bare_agent(model, config, mesh)
    lower = {"update": aot.lower_update, "generation": aot.lower_generation}
    wanted = lower if asked.programs == "both" else [asked.programs]
    for name in wanted:
        # Inside the TPU's attention kernel ranks are promoted.
        with jax.numpy_rank_promotion("allow"):
            began = time.monotonic()
            program = lower[name](agent, config).compile()
        line = {
            "model": asked.model,
            "topology": asked.topology,
            "mesh": "x".join(map(str, ways.values())),
            "chunk": asked.chunk,
            "critic": asked.critic if config.has_critic else "none",
            "program": name,
            **compare(parts[name], program),
            "compile_seconds": round(time.monotonic() - began, 1),
        }
        if asked.out:
            add(asked.out, line)
        print(json.dumps(line) if asked.json else text(line, parts[name], program))


def published(asked: Compile) -> configs.Train:
    """The published settings, with what was asked for."""
    base = configs.with_estimator(recipe("alfworld-1.5b"), asked.estimator)
    return dataclasses.replace(
        base,
        learn=dataclasses.replace(base.learn, chunk=asked.chunk),
        dtype="bfloat16",
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
        )
    )


def add(file: str, line: dict[str, Any]) -> None:
    """Adds a line to a table, in the place of an older one of the same program."""
    path = pathlib.Path(file)
    lines = []
    if path.is_file():
        with open(path, newline="") as known:
            lines = list(csv.DictReader(known))
    key = FIELDS[:6]
    line = {name: str(line[name]) for name in FIELDS}
    lines = [x for x in lines if [x[k] for k in key] != [line[k] for k in key]]
    rows = [FIELDS, *([x[name] for name in FIELDS] for x in [*lines, line])]
    workdir.write_text(path, "".join(",".join(row) + "\n" for row in rows))
