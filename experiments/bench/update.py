"""How fast is the update? Ours against a PPO step in torch, same weights, same rows.

`hiper bench update --against ours` times it against itself instead, see `update_own`:
C12, the update as it was over ours, at least 1.4x, and C13, over that of a shared trunk
whose values were read while sampling, 1.8x; `--model wide` at width 896, `--dtype
bfloat16` in 16 bits (some two minutes each).

Command: `hiper bench update` (about five minutes on two idle CPU cores).
Expected, theirs over ours: C5 (theirs padded to the room for prompts and responses) at
least 3x, C6 (trimmed to the batch's longest prompt and response) 0.8x; C8, tokens fed
over real tokens, at most 1.10; C9, programs in 150 iterations, at most 12, and none
after warm-up. On a GPU: `hiper bench update --model qwen2.5-0.5b` (G4 at least 3.3x).

Rows have the lengths of the published runs, divided by `scale`, in their room of
2048 + 512 tokens, divided likewise. Losses and gradient norms of both sides are
compared before anything is timed. Values, the reference's log-probs, losses, gradients
and Adam are in the time of both sides; HAE is in ours only: theirs is handed the
advantages.
"""

import dataclasses
import functools
import os
from typing import Literal

import jax
import numpy as np

from hiper_jax import lm
from hiper_jax.accept import Count, Name, Whole, check_fields
from hiper_jax.experiments.bench import models, update_own
from hiper_jax.experiments.bench.batch import published
from hiper_jax.experiments.bench.timing import interleaved, medians
from hiper_jax.experiments.bench.update_counts import count_programs, fed_over_real
from hiper_jax.experiments.bench.update_sides import (
    handed,
    our_side,
    settings_of,
    their_side,
)
from hiper_jax.experiments.config import Learn

PARTS = {  # their names of our metrics
    "policy": "loss/policy",
    "kl": "loss/kl",
    "entropy": "policy/entropy",
    "high": "loss/value_high",
    "low": "loss/value_low",
    "switch": "loss/value_switch",
    "grad actor": "grad/actor",
    "grad critic": "grad/critic",
}


@dataclasses.dataclass(frozen=True)
class Update:
    """Times the update against torch."""

    against: Literal["torch", "ours"] = "torch"
    """What is timed beside our update: torch's, or its own earlier and other forms."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What is computed in; auto: bfloat16 on a GPU."""
    model: str = ""
    """Name of a shape, weights are random; empty: tiny, on a GPU 0.5B."""
    episodes: Count = 8
    """Trajectories in the batch."""
    turns: Count = 32
    """Turns of each; all rows are one minibatch."""
    scale: Whole = 0
    """Published lengths and room are divided by it; 0: 8, on a GPU 1."""
    chunk: Count = 8
    """Rows that we feed at once."""
    their_chunk: Count = 8
    """Rows that torch is fed at once."""
    remat: Literal["none", "dots", "full"] = "none"
    """What our gradient computes again."""
    rounds: Count = 5
    """Times each side is timed, in turn."""
    iterations: Whole = 150
    """Of the count of programs; 0 leaves it out."""
    out: Name = "runs/bench-update"
    """Folder for bench_update.json."""

    def __post_init__(self):
        check_fields(self)


def main(flags: Update) -> dict:
    """Prints C5, C6, C8, C9 (G4 on a GPU), or C12, C13; writes bench_update.json."""
    if flags.against == "ours":
        return against_ours(flags)
    models.need_torch()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    gpu = jax.default_backend() == "gpu"
    threads = models.share_threads()
    scale = flags.scale or (1 if gpu else 8)
    name = flags.model or ("qwen2.5-0.5b" if gpu else "tiny")
    config = models.config_of(name, dtype_of(flags))
    result = {
        **models.machine(threads),
        "model": name,
        "lengths": f"published / {scale}",
    }
    timed = compare(config, flags, scale)
    C8 = fed_over_real(np.random.default_rng(1), Learn(chunk=flags.chunk))
    result |= {**timed, "fed over real tokens": C8}
    middle = medians(timed["seconds"])
    C5, C6 = (middle[theirs] / middle["ours"] for theirs in ("padded", "trimmed"))
    ratios = [
        (
            "G4" if gpu else "C5",
            "padded torch update over ours",
            C5,
            f"at least {3.3 if gpu else 3}",
        ),
        ("C6", "torch trimmed to the longest row over ours", C6, "at least 0.8"),
        ("C8", "tokens fed over real tokens", C8, "at most 1.10"),
    ]
    if flags.iterations:
        programs, later = count_programs(flags.iterations)
        result |= {"programs": programs, "compiled after warm-up": later}
        what = f"programs in {flags.iterations} iterations"
        ratios.append(("C9", what, programs, "at most 12"))
        ratios.append(("C9", "compiled after warm-up", later, "0"))
    print(models.table(ratios))
    print(models.write(flags.out, "bench_update", result))
    return result


def dtype_of(flags: Update) -> str:
    """What is computed in."""
    if flags.dtype != "auto":
        return flags.dtype
    return "bfloat16" if jax.default_backend() == "gpu" else "float32"


def against_ours(flags: Update) -> dict:
    """Prints C12 and C13 and writes bench_update_own.json."""
    name = flags.model or "tiny"
    config = models.config_of(name, dtype_of(flags))
    if name == "tiny":  # that of the quickstart
        config = dataclasses.replace(config, mlp_width=256)
    seconds, gaps = update_own.compare(
        config,
        episodes=flags.episodes,
        turns=flags.turns,
        chunk=flags.chunk,
        rounds=flags.rounds,
    )
    result = {"model": name, "dtype": config.dtype, "seconds": seconds, "gaps": gaps}
    print(models.table(update_own.table(seconds)))
    print(models.write(flags.out, "bench_update_own", result))
    return result


def compare(config: lm.LMConfig, flags: Update, scale: int) -> dict:
    """Checks that both sides compute the same, then times them.

    Raises:
      RuntimeError: losses or gradients differ.
    """
    torch = models.need_torch()
    from hiper_jax.experiments.bench import torch_ppo

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    update, state, batch = our_side(
        config,
        episodes=flags.episodes,
        turns=flags.turns,
        chunk=flags.chunk,
        scale=scale,
        remat=flags.remat,
    )
    settings = settings_of(len(batch.start), flags.chunk)
    learner = their_side(config, state, settings, device)
    held = {"state": state}
    del state

    def call_ours():
        held["state"], metrics, credit = update(held["state"], batch)
        return jax.device_get((metrics, credit))

    metrics, credit = call_ours()
    P, R, _ = published(scale)
    layouts = {
        "padded": (P, R),
        "trimmed": (int(batch.start.max()), int((batch.length - batch.start).max())),
    }
    rows = {
        name: torch_ppo.padded_rows(
            batch, *handed(batch, credit), P=P, R=R, device=device
        )
        for name, (P, R) in layouts.items()
    }

    def call_theirs(name):
        losses = learner.step(rows[name], flags.their_chunk)
        if device == "cuda":
            torch.cuda.synchronize()
        return losses

    theirs = call_theirs("trimmed")
    ours = {name: float(metrics[key]) for name, key in PARTS.items()}
    far = 0.05 if config.dtype == "bfloat16" else 2e-3
    for name in PARTS:
        if not np.isclose(ours[name], theirs[name], rtol=far, atol=far * 0.1):
            raise RuntimeError(
                f"both sides must compute the same update, but {name} is "
                f"{ours[name]:.6g} for us and {theirs[name]:.6g} for torch: nothing "
                "was timed"
            )
    calls = {
        "ours": call_ours,
        **{name: functools.partial(call_theirs, name) for name in layouts},
    }
    real = int(batch.length.sum())
    seconds = interleaved(calls, flags.rounds)
    found = {
        "rows": len(batch.start),
        "real tokens": real,
        "shapes": {name: [len(batch.start), p, r] for name, (p, r) in layouts.items()},
        "real share of padded": real / (len(batch.start) * (P + R)),
        "same": {name: [ours[name], theirs[name]] for name in PARTS},
        "seconds": seconds,
        "real tokens per second": real / medians(seconds)["ours"],
        "our peak GiB": (models.peak_bytes() or 0) / 2**30,
    }
    if device == "cuda":
        found["their peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found
