"""What a run will hold on each device, and what would make it fit."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import tyro

from hiper_jax.accept import (
    Count,
    Positive,
    SettingError,
    Whole,
    check_fields,
)
from hiper_jax.experiments.capacity import memory as plan
from hiper_jax.experiments.capacity.hardware import HardwareName
from hiper_jax.experiments.config import (
    SIBLINGS,
    EstimatorName,
    Mesh,
    Train,
    with_estimator,
)
from hiper_jax.lm import LMConfig, qwen, sharding, weights
from hiper_jax.lm.known import MODELS
from hiper_jax.networks.acquire import find_model

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Plan:
    """Counts the memory of training before anything is allocated."""

    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")] = ""
    """A published run (those of `hiper train`) whose settings are planned with; a flag
    that is not at its default changes them."""
    model: str = ""
    """A published model, such as qwen2.5-7b, or a folder with a config.json; a preset
    has its own."""
    hardware: HardwareName = ""
    """A machine by name: its devices and their memory; a preset is laid out on it."""
    hosts: Whole = 0
    """That many hosts of the machine's kind; 0: as many as its name says."""
    devices: Count = 1
    """Devices in all."""
    hbm: Positive = 80.0
    """Memory of one device, GiB."""
    mesh: Mesh = Mesh()
    """How the devices are laid out; by default the best that fits is chosen."""
    estimator: EstimatorName = "hae"
    """How credit is assigned: some methods have no critic."""
    critic: Literal["separate", "shared"] = "separate"
    """See hiper train --help."""
    lora_rank: Whole = 0
    """Rank of adapters, which are then all that is trained; 0: every weight is."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type that the networks compute in; trained weights are float32."""
    remat: Literal["none", "dots", "full"] = "full"
    """What a gradient computes again rather than keeps."""
    chunk: Count = 64
    """Turns fed at once, over all devices."""
    slots: Count = 128
    """Rows sampled at once, over all devices."""
    prompt: Count = 2048
    """Prompt tokens at most."""
    response: Count = 512
    """Response tokens at most."""
    episodes: Count = 128
    """Trajectories per iteration."""
    turns: Count = 50
    """Turns per trajectory at most."""
    tpu: bool = False
    """Plan for a TPU, whose compiler holds more; a machine by name says so itself."""
    json: bool = False
    """Print JSON, in bytes."""

    def __post_init__(self):
        check_fields(self)
        if not (self.model.strip() or self.preset):
            raise SettingError(
                type(self),
                "model",
                "must be a published model or a folder (--model), or name a preset",
            )
        if self.hosts and not self.hardware:
            raise SettingError(
                type(self), "hosts", "are of a kind: name one with --hardware"
            )
        if self.mesh.size not in (1, self.devices):
            raise SettingError(
                type(self),
                "mesh",
                f"has {self.mesh.size} devices and --devices is {self.devices}: make "
                "them agree, or leave the mesh out",
            )


def of_run(
    config: Train, *, devices: int, hbm: float = 80.0, tpu: bool = False
) -> Plan:
    """The question that a run's settings ask; its model stays to be named."""
    return Plan(
        model=config.model or "the preset's",
        devices=devices,
        hbm=hbm,
        mesh=config.mesh,
        estimator=config.estimator,
        critic=config.critic,
        lora_rank=config.lora_rank,
        dtype=config.dtype,
        remat=config.remat,
        chunk=config.learn.chunk,
        slots=config.slots,
        prompt=config.reading.max_prompt,
        response=config.reading.max_response,
        episodes=config.episodes,
        turns=config.world.turns,
        tpu=tpu,
    )


def shape_of(model: str) -> LMConfig:
    """Finds a published model's shape, or reads that of a folder.

    Raises:
      ValueError: there is neither.
    """
    if model.lower() in MODELS:
        return MODELS[model.lower()]
    folder = find_model(model)
    if (folder / "config.json").is_file():
        return weights.read_config(folder)
    raise ValueError(
        f"there is no model {model!r}; name a folder with a config.json, or one of "
        + ", ".join(MODELS)
    )


def job_of(asked: Plan) -> plan.Job:
    """The question as the planner takes it."""
    whole = -(-asked.episodes // SIBLINGS) * SIBLINGS  # groups of any estimator
    config = with_estimator(Train(), asked.estimator, episodes=whole)
    rows = asked.episodes * (asked.turns + 1) + config.strategies
    rows = -(-rows // 64) * 64
    return plan.Job(
        chunk=min(asked.chunk, rows),
        rows=rows,
        prompt=asked.prompt,
        response=asked.response,
        slots=asked.slots,
        remat=asked.remat,
        shared=asked.critic == "shared",
        critic=has_critic(asked.estimator),
        rank=asked.lora_rank,
        once=asked.mesh.fetch == "step",
        tpu=asked.tpu,
    )


def has_critic(estimator: EstimatorName) -> bool:
    """Whether that estimator reads value heads."""
    return with_estimator(Train(), estimator).has_critic


def parts_of(config: LMConfig, mesh: Mapping[str, int], asked: Plan) -> dict[str, Any]:
    """Bytes per device by part: "resident", "update" and "generation".

    And of a checkpoint, which is the training state: all of it, "written"; and what of
    a device waits in its host's memory meanwhile, "in_host_memory".
    """
    job = job_of(asked)
    resident = plan.state(config, mesh, job)
    return {
        "resident": resident,
        "update": plan.update(config, mesh, job),
        "generation": plan.generation(config, mesh, job),
        "checkpoint": {
            "written": sum(plan.state(config, {}, job).values()),
            "in_host_memory": sum(resident.values()),
        },
    }


def peak(parts: Mapping[str, Any]) -> int:
    """The most that a device holds: in the update, or sampling beside the state."""
    sampling = sum(parts["resident"].values()) + parts["generation"]["total"]
    return max(parts["update"]["total"], sampling)


def meshes(config: LMConfig, devices: int, chunk: int) -> Iterator[dict[str, int]]:
    """Every layout that divides the model and the chunk, least traffic first."""
    for tensor, fsdp in divided(devices):
        mesh = {"data": devices // tensor // fsdp, "fsdp": fsdp, "tensor": tensor}
        fault = sharding.undivided(qwen.abstract(config), mesh)
        if fault is None and chunk % (mesh["data"] * fsdp) == 0:
            yield mesh


def divided(devices: int) -> Iterator[tuple[int, int]]:
    """(tensor, fsdp) of every mesh of so many devices; the least tensor first."""
    sizes = [n for n in range(1, devices + 1) if devices % n == 0]
    for tensor, fsdp in itertools.product(sizes, sizes):
        if devices % (tensor * fsdp) == 0:
            yield tensor, fsdp


def choose(config: LMConfig, asked: Plan) -> dict[str, int]:
    """The mesh that was asked for, or the first that fits, or the one that holds least.

    Raises:
      ValueError: no mesh divides the model, or not the one asked for.
    """
    if asked.mesh.size > 1 or asked.devices == 1:
        mesh = asked.mesh.sizes
        fault = sharding.undivided(qwen.abstract(config), mesh)
        ways = mesh["data"] * mesh["fsdp"]
        if fault is None and asked.chunk % ways:
            fault = f"a chunk of {asked.chunk} turns is not a multiple of {ways}"
        if fault:
            raise ValueError(fault)
        return mesh
    known = list(meshes(config, asked.devices, asked.chunk))
    if not known:
        raise ValueError(
            f"no mesh of {asked.devices} devices divides {asked.model}, with "
            f"{config.num_kv_heads} key/value heads, and a chunk of {asked.chunk} "
            "turns; change --devices or --chunk"
        )
    sizes = [peak(parts_of(config, mesh, asked)) for mesh in known]
    fitting = [
        m for m, size in zip(known, sizes, strict=True) if size <= asked.hbm * GIB
    ]
    return fitting[0] if fitting else known[sizes.index(min(sizes))]


def knobs(
    config: LMConfig, mesh: Mapping[str, int], asked: Plan
) -> Iterator[tuple[str, int]]:
    """What one change at a time would make the peak, by planning again."""

    def again(mesh=mesh, config=config, **changes) -> int:
        return peak(parts_of(config, mesh, dataclasses.replace(asked, **changes)))

    if asked.mesh.fetch == "step":
        often = dataclasses.replace(asked.mesh, fetch="chunk")
        yield (
            "--mesh.fetch chunk",
            peak(parts_of(config, mesh, dataclasses.replace(asked, mesh=often))),
        )
    if asked.remat != "full":
        yield "--remat full", again(remat="full")
    if asked.dtype != "bfloat16":
        half = dataclasses.replace(config, dtype="bfloat16")
        yield "--dtype bfloat16", again(config=half, dtype="bfloat16")
    if has_critic(asked.estimator):
        if asked.critic != "shared":
            yield "--critic shared", again(critic="shared")
        yield "--estimator hae_group", again(estimator="hae_group")
    if not asked.lora_rank:
        yield "--lora-rank 16", again(lora_rank=16)
    ways = mesh["data"] * mesh["fsdp"]
    for chunk in (asked.chunk // 2, asked.chunk // 4):
        if chunk and chunk % ways == 0:
            yield f"--chunk {chunk}", again(chunk=chunk)
    for slots in (asked.slots // 2, asked.slots // 4):
        if slots and slots % ways == 0:
            yield f"--slots {slots}", again(slots=slots)
    for devices in (asked.devices, 2 * asked.devices, 4 * asked.devices):
        found = [(again(mesh=m), m) for m in meshes(config, devices, asked.chunk)]
        if found:
            size, best = min(found, key=lambda pair: pair[0])
            flags = " ".join(f"--mesh.{k} {v}" for k, v in best.items() if v > 1)
            more = "" if devices == asked.devices else f"--devices {devices} "
            yield more + flags, size
