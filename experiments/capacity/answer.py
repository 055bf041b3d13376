"""`hiper plan`: the plan of a model or of a published run, as a page or as JSON."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hiper_jax.experiments.capacity import forecast, layout
from hiper_jax.experiments.capacity import hardware as machines
from hiper_jax.experiments.capacity.plan import (
    GIB,
    Plan,
    choose,
    knobs,
    of_run,
    parts_of,
    peak,
    shape_of,
)
from hiper_jax.experiments.config import Mesh, Train, with_estimator
from hiper_jax.experiments.recipes import recipe
from hiper_jax.lm import num_params


def main(asked: Plan) -> None:
    """Prints the plan; the answer is in its last lines.

    Raises:
      ValueError, FileNotFoundError: something in the question cannot be.
    """
    name, told = asked.model or asked.preset, []
    asked, run, machine = filled(asked)
    config = dataclasses.replace(shape_of(asked.model), dtype=asked.dtype)
    mesh = choose(config, asked)
    report = {
        "model": name,
        "weights": num_params(config),
        "mesh": mesh,
        "hbm": int(asked.hbm * GIB),
        **parts_of(config, mesh, asked),
    }
    report["fits"] = peak(report) <= report["hbm"]
    report["knobs"] = [
        {"change": name, "peak": size, "fits": size <= report["hbm"]}
        for name, size in knobs(config, mesh, asked)
        if size < peak(report)
    ]
    if machine is not None:
        parts = forecast.iteration(config, mesh, machine, asked)
        report["iteration"] = {
            name: part._asdict() | {"seconds": part.seconds, "binds": part.binds}
            for name, part in parts.items()
        }
        told = forecast.text(parts)
    if run is not None and report["fits"]:
        sizes = mesh["data"], mesh["fsdp"], mesh["tensor"]
        laid = Mesh(*sizes, fetch=asked.mesh.fetch)
        report["command"] = command(dataclasses.replace(asked, mesh=laid), run)
    page = json.dumps(report, indent=1) if asked.json else text(report, told)
    print(page)


def filled(asked: Plan) -> tuple[Plan, Train | None, machines.Hardware | None]:
    """The question with what its machine and its preset say, the run and the machine.

    What was asked for and is not a default is kept.

    Raises:
      ValueError: there is no such preset, or it is none of the published runs.
    """
    given = {
        field.name: getattr(asked, field.name)
        for field in dataclasses.fields(Plan)
        if getattr(asked, field.name) != field.default
    }
    machine = None
    if asked.hardware:
        machine = machines.HARDWARE[asked.hardware]
        machine = machines.grown(machine, asked.hosts) if asked.hosts else machine
        hbm = machines.CHIPS[machine.chip].hbm
        of_machine = {"devices": machine.devices, "hbm": hbm, "tpu": machine.slices}
        given = of_machine | given
    if not asked.preset:
        return Plan(**given), None, machine
    run = recipe(asked.preset)
    if asked.estimator != "hae":
        run = with_estimator(run, asked.estimator)
    run = dataclasses.replace(run, critic=asked.critic, lora_rank=asked.lora_rank)
    model = layout.published_name(run)
    if machine is not None:
        run = layout.laid_out(run, machine)
    settings = dataclasses.asdict(of_run(run, devices=given.get("devices", 1)))
    settings |= {"model": model, "mesh": run.mesh}
    if "devices" in given and given["devices"] != run.mesh.size:
        settings["mesh"] = Mesh(fetch=run.mesh.fetch)  # to be chosen
    return Plan(**(settings | given)), run, machine


def command(asked: Plan, run: Train) -> str:
    """The line that starts the run that was planned."""
    words = ["hiper train", asked.preset]
    learn: Any = dataclasses.replace(run.learn, chunk=asked.chunk)
    planned = dataclasses.replace(
        run,
        learn=learn,
        mesh=asked.mesh,
        dtype=asked.dtype,
        remat=asked.remat,
        slots=asked.slots,
    )
    named = asked.hardware and not asked.hosts and planned == run
    words.append(f"--hardware {asked.hardware}" if named else layout.flags_of(planned))
    for flag, value in (("critic", run.critic), ("estimator", run.estimator)):
        if value not in ("separate", "hae"):
            words += [f"--{flag}", str(value)]
    if run.lora_rank:
        words += ["--lora-rank", str(run.lora_rank)]
    return " ".join([*words, "--model", "FOLDER"])


def text(report: Mapping[str, Any], told: Sequence[str]) -> str:
    """The plan as a page of text; `told` is what is said of an iteration's time."""

    def gib(size: float) -> str:
        return f"{size / GIB:9.2f} GiB"

    mesh = " x ".join(f"{k} {v}" for k, v in report["mesh"].items())
    lines = [f"{report['model']}: {report['weights'] / 1e9:.2f} G weights, mesh {mesh}"]
    resident = sum(report["resident"].values())
    for name, head in (
        ("update", "the update"),
        ("generation", "sampling, beside the training state"),
    ):
        lines.append(f"\n{head}, per device")
        parts = dict(report[name])
        total = parts.pop("total")
        if name == "generation":
            parts, total = {"training state": resident, **parts}, total + resident
        lines += [f"  {part:22}{gib(size)}" for part, size in parts.items()]
        lines.append(f"  {'total':22}{gib(total)}")
    saved = report["checkpoint"]
    lines += [
        "\na checkpoint, written while the run goes on",
        f"  {'on disk':22}{gib(saved['written'])}",
        f"  {'in host memory':22}{gib(saved['in_host_memory'])}  for each device",
    ]
    most, hbm = peak(report), report["hbm"]
    verdict = "fits" if report["fits"] else "does NOT fit"
    lines.append(f"\n{verdict}: {most / GIB:.2f} of {hbm / GIB:.0f} GiB at the most")
    fitting = [k for k in report["knobs"] if k["fits"]] if not report["fits"] else []
    shown = fitting or report["knobs"]
    if shown and not report["fits"]:
        lines.append("what would make it fit:" if fitting else "what would help:")
    elif shown:
        lines.append("what would need less:")
    lines += [f"  {k['change']:44}{gib(k['peak'])}" for k in shown]
    lines += ["", *told] if told else []
    if "command" in report:
        lines += ["\nto run it, on every host:", f"  {report['command']}"]
    return "\n".join(lines)
