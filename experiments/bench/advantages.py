"""How fast is each estimator? Compiled, beside plain loops and, if it is there, rlax.

Command: `hiper bench advantages` (some minutes on two CPU cores). rlax: extra `peers`.
Aims on two CPU cores: HAE at most 3x a flat GAE scan at [128, 50], 4x at [1024, 50].

Every estimator is given what it needs of siblings that share observations, 8 to a task.
What is timed is also compared: a bench of wrong code says nothing.
"""

import csv
import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hiper_jax as hj
from hiper_jax import workdir
from hiper_jax.accept import Count, Name, check_fields
from hiper_jax.experiments.bench.advantage_sides import PLAIN, ours, peers, siblings
from hiper_jax.experiments.bench.hae import flat_gae
from hiper_jax.experiments.bench.hae_inputs import random_turns
from hiper_jax.experiments.bench.timing import interleaved, medians

SHAPES = ((128, 50), (1024, 50))
FLOOR = "flat GAE scan"  # the least that an estimator with a critic can cost
AIMS = {"128x50": 3, "1024x50": 4}  # HAE over the floor, at most
COLUMNS = ("ms", "CPU ms", "plain ms")


@dataclasses.dataclass(frozen=True)
class Advantages:
    """Times every estimator against plain loops and rlax (extra `peers`)."""

    out: Name = "runs/bench-advantages"
    """Folder for advantages.csv, advantages.md and advantages.png."""
    rounds: Count = 20
    """Rounds of interleaved calls of what is compiled, ten calls each."""
    plain_rounds: Count = 5
    """Rounds of the plain loops."""

    def __post_init__(self):
        check_fields(self)


def main(asked: Advantages, shapes: tuple[tuple[int, int], ...] = SHAPES) -> dict:
    """Prints the tables and writes them, as CSV, Markdown and a picture.

    Args:
      asked: settings.
      shapes: (trajectories, turns).

    Returns:
      Shape -> name -> milliseconds.

    Raises:
      RuntimeError: a side gives other numbers than its plain loop.
    """
    found = {f"{B}x{T}": measure(B, T, asked) for B, T in shapes}
    out, text = pathlib.Path(asked.out), table(found)
    workdir.write_bytes(out / "advantages.csv", _csv(found).encode())
    workdir.write_bytes(out / "advantages.md", text.encode())
    workdir.write_bytes(out / "advantages.png", _figure(found))
    print(text, end="")
    return found


def measure(B: int, T: int, asked: Advantages) -> dict[str, dict[str, float]]:
    """Milliseconds by name: of what is compiled, and of the plain loop beside it."""
    given, full = siblings(B, T), random_turns(B, T)
    on_device, full_on_device = jax.tree.map(jnp.asarray, (given, full))
    results: dict[str, Any] = {}

    def kept(name: str, call: Callable, *given: Any) -> Callable:
        """The call; what it returned last stays in `results`."""

        def run():
            results[name] = call(*given)
            return results[name]

        return run

    compiled = {name: jax.jit(call) for name, call in (ours() | peers()).items()}
    calls = {name: kept(name, call, on_device) for name, call in compiled.items()}
    calls[FLOOR] = kept(FLOOR, flat_gae, full_on_device)
    quick = medians(interleaved(calls, asked.rounds, often=lambda name: 10))
    loops = {
        name: kept(f"plain {name}", loop, given)
        for name, loop in PLAIN.items()
        if name in compiled
    }
    slow = medians(interleaved(loops, asked.plain_rounds))
    check(results)
    wanted = jax.vmap(functools.partial(hj.gae, lambda_=0.95))(*full[:3], full.low)
    _compare(FLOOR, results[FLOOR], wanted)
    times = {}
    for name in calls:
        seconds = quick[name], quick[f"{name}, CPU"], slow.get(name)
        times[name] = {
            column: 1e3 * s
            for column, s in zip(COLUMNS, seconds, strict=True)
            if s is not None
        }
    return times


def check(results: Mapping[str, Any]) -> None:
    """Raises RuntimeError where a side and its plain loop differ.

    Args:
      results: what was returned, by name; a loop's under "plain NAME". A peer's name
        begins with the estimator's and a comma.
    """
    for name, got in results.items():
        loops = (f"plain {n}" for n in (name, name.partition(",")[0]))
        wanted = next((results[loop] for loop in loops if loop in results), None)
        if wanted is not None:
            _compare(name, got, wanted)


def _compare(name: str, got: Any, wanted: Any) -> None:
    parts = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    far = max(
        float(np.max(np.abs(np.asarray(a) - b) / (1 + np.abs(b)))) for a, b in parts
    )
    if not far < 1e-3:
        raise RuntimeError(f"{name} and its plain loop differ by {far:.3g}")


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown: milliseconds by shape, over a flat GAE scan, loops over ours."""
    lines = [
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, jax "
        f"{jax.__version__}; wall and CPU time of a call, medians",
    ]
    for shape, times in found.items():
        flat = times[FLOOR]["ms"]
        head = f"[{shape.replace('x', ', ')}]", "ms", "CPU ms", "over flat GAE"
        lines += ["", f"| {' | '.join(head)} | plain ms | plain / ours |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for name, ms in sorted(times.items(), key=lambda item: item[1]["ms"]):
            plain = ms.get("plain ms")
            beside = (f"{plain:.3g}", f"{plain / ms['ms']:.0f}") if plain else ("", "")
            lines.append(
                f"| {name} | {ms['ms']:.3f} | {ms['CPU ms']:.3f} | "
                f"{ms['ms'] / flat:.1f} | {' | '.join(beside)} |"
            )
        ratio, aim = times["hae"]["ms"] / flat, AIMS.get(shape)
        lines += ["", f"HAE over a flat GAE scan: {ratio:.1f}x"]
        lines[-1] += f" ({aim}x at most is the aim)" if aim else ""
    return "\n".join(lines) + "\n"


def _csv(found) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("shape", "estimator", "ms", "cpu_ms", "plain_ms"))
    for shape, times in found.items():
        for name, ms in times.items():
            cells = (f"{ms[key]:.4f}" if key in ms else "" for key in COLUMNS)
            writer.writerow((shape, name, *cells))
    return text.getvalue()


def _figure(found) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    first = next(iter(found.values()))
    names = sorted(first, key=lambda name: first[name]["ms"], reverse=True)
    for ax, (shape, times) in zip(axes, found.items(), strict=True):
        for key, label in (("ms", "compiled"), ("plain ms", "plain loops")):
            at = [n for n, name in enumerate(names) if key in times[name]]
            ax.plot([times[names[n]][key] for n in at], at, "o", label=label)
        ax.set(xscale="log", xlabel="ms", title=f"[{shape.replace('x', ', ')}]")
        ax.set_yticks(range(len(names)), names)
        ax.grid(axis="x", alpha=0.3)
    axes[0].legend(loc="lower left")
    png = io.BytesIO()
    figure.savefig(png, dpi=150)
    return png.getvalue()
