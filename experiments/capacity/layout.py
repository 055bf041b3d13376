"""How a run lies on a machine: only its layout changes, never what it computes.

Type, recomputation, mesh, chunk and slots: a published run on other devices.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from hiper_jax.experiments.capacity import forecast
from hiper_jax.experiments.capacity import hardware as machines
from hiper_jax.experiments.capacity import plan as planning
from hiper_jax.experiments.config import Mesh, Train
from hiper_jax.lm import LMConfig, qwen, sharding, weights
from hiper_jax.lm.known import MODELS

PACK = 4  # turns of a bin: at the published lengths three fill one
SHARE = 0.9  # of a device's memory that a layout may fill: a plan is not the compiler


def published_name(config: Train) -> str:
    """The model of a published preset, as `MODELS` names it.

    Raises:
      ValueError: the preset starts from another.
    """
    name = config.model.lower().removesuffix("-instruct").split("/")[-1]
    if name not in MODELS:
        raise ValueError(
            "--hardware lays out the published runs, whose model is known before it is "
            f"there; this preset starts from {config.model or 'a small one of ours'}: "
            "set --mesh.fsdp and --learn.chunk"
        )
    return name


def laid_out(config: Train, machine: machines.Hardware) -> Train:
    """A published run on a machine: of what fits, what takes the least time on paper.

    That is `forecast`'s, with nothing overlapped, which holds what travels against it.

    In bfloat16 over float32 weights, with full recomputation, which is what plans were
    held against the compiler with. A chunk is as few rows as there are devices to cut
    it over, for long rows feed short ones' padding; and on a TPU, whose attention reads
    packed rows, a row is a bin of up to four turns. Where nothing fits it is the layout
    that comes nearest; `refuse` says so.

    Raises:
      ValueError: the preset's model is none of the published.
    """
    model = dataclasses.replace(MODELS[published_name(config)], dtype="bfloat16")
    room = machines.CHIPS[machine.chip].hbm * planning.GIB
    if machine.slices:
        config = dataclasses.replace(
            config, learn=dataclasses.replace(config.learn, pack=PACK)
        )
    fitting, found = [], []
    for i, layout in enumerate(layouts(config, model, machine.devices)):
        devices, tpu = machine.devices, machine.slices
        asked = planning.of_run(layout, devices=devices, tpu=tpu)
        mesh = layout.mesh.sizes
        size = planning.peak(planning.parts_of(model, mesh, asked))
        found.append((size, i, layout))
        if size <= SHARE * room:
            parts = forecast.iteration(model, mesh, machine, asked)
            seconds = sum(map(sum, parts.values()))
            fitting.append((round(seconds, 3), size, i, layout))
    return min(fitting)[-1] if fitting else min(found)[-1]


def layouts(config: Train, model: LMConfig, devices: int) -> Iterator[Train]:
    """Every layout of a run on so many devices, the best first."""
    for slots in (config.slots, config.slots // 2, config.slots // 4):
        for tensor, fsdp in planning.divided(devices):
            mesh = Mesh(devices // tensor // fsdp, fsdp, tensor)
            fault = sharding.undivided(qwen.abstract(model), mesh.sizes)
            ways = mesh.data * mesh.fsdp
            chunk = ways * math.ceil(config.learn.chunk / ways)
            if fault or chunk > config.learn.minibatch or slots < 1:
                continue
            learn: Any = dataclasses.replace(config.learn, chunk=chunk)
            layout = dataclasses.replace(
                config,
                learn=learn,
                mesh=mesh,
                dtype="bfloat16",
                remat="full",
                slots=slots,
            )
            if ways > 1:
                once = dataclasses.replace(mesh, fetch="step")
                yield dataclasses.replace(layout, mesh=once)
            yield layout


def flags_of(layout: Train) -> str:
    """The flags of `hiper train` that a layout stands for."""
    ways = layout.mesh.sizes.items()
    mesh = "".join(f" --mesh.{axis} {n}" for axis, n in ways if n > 1)
    mesh += " --mesh.fetch step" if layout.mesh.fetch == "step" else ""
    pack = f" --learn.pack {layout.learn.pack}" if layout.learn.pack > 1 else ""
    return (
        f"--dtype {layout.dtype} --remat {layout.remat}{mesh} "
        f"--learn.chunk {layout.learn.chunk}{pack} --slots {layout.slots}"
    )


def check(config: Train, folder: Any, say: Callable[[str], None]) -> None:
    """Before weights are read: names devices that stay idle, refuses what cannot fit.

    Memory is compared only where the device says how much it has; a CPU does not.

    Args:
      config: the run's.
      folder: of its model.
      say: told of idle devices.

    Raises:
      ValueError: a device has less memory than the run needs; which knob would help.
    """
    model = dataclasses.replace(weights.read_config(folder), dtype=config.dtype)
    devices, used = jax.device_count(), config.mesh.size
    if used == 1 < devices:
        say(idle(config, model, devices))
    stats = jax.local_devices()[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        refuse(config, model, limit, tpu=jax.default_backend() == "tpu")


def idle(config: Train, model: LMConfig, devices: int) -> str:
    """One line on devices that nothing is laid out on, and how to use them."""
    line = f"note: mesh 1 x 1 x 1 uses 1 of {devices} devices, the others stay idle"
    for layout in layouts(config, model, devices):
        sizes = layout.mesh.sizes.items()
        mesh = " ".join(f"--mesh.{axis} {n}" for axis, n in sizes if n > 1)
        return f"{line}; {mesh} --learn.chunk {layout.learn.chunk} uses them all"
    return line


def refuse(config: Train, model: LMConfig, limit: int, *, tpu: bool = False) -> None:
    """Raises ValueError where a device of `limit` bytes cannot hold the run."""
    asked = planning.of_run(config, devices=config.mesh.size, tpu=tpu)
    mesh = config.mesh.sizes
    needed = planning.peak(planning.parts_of(model, mesh, asked))
    if needed <= limit:
        return
    least: dict[str, int] = {}
    for change, size in planning.knobs(model, mesh, asked):
        if size < needed:
            words = change.replace("--chunk", "--learn.chunk")
            least[words.replace("--devices", "devices")] = size
    fitting = [change for change, size in least.items() if size <= limit]
    help_ = f"; with {' or '.join(fitting[:3])} it fits" if fitting else ""
    if least and not fitting:
        best = min(least, key=lambda change: least[change])
        help_ = f"; what helps most is {best}, {least[best] / planning.GIB:.1f} GiB"
    raise ValueError(
        f"the run needs {needed / planning.GIB:.1f} GiB on each device, which has "
        f"{limit / planning.GIB:.1f} GiB{help_}; hiper plan shows what takes how much"
    )
