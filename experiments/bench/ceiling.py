"""How near do update and sampling come to what the device at hand can do?

Command: `hiper bench ceiling` (a tiny model on a CPU, 0.5B on a GPU);
`hiper bench ceiling --size 1.5b`, `--size 7b`. Needs nothing but jax.
Expected on a GPU:
    G1  the update's FLOP/s, real tokens only, over those of a large product: at least
        0.40 (0.5B), 0.50 (1.5B), 0.55 (7B's width, two layers)
    G6  bytes that decoding must read, per second, over a plain copy's: at least 0.30,
        0.50, 0.60
    G9  time of a turn with a quarter of the slots live over a full one's: at most 0.45

FLOPs of the update, counted from real tokens alone, for a row of n tokens of which r
are the response's, with N the weights of all layers, H the vocabulary's product:

    forward(n, r) = 2 N n + 2 H r + 2 · depth · heads · head_dim · n²      causal: half
    update        = Σ over rows of  3 forward + forward          actor, reference
                                  + 3 forward + forward, no H    critic, its values

On a CPU the numbers are there, and what they are wanted to be is not meant for it.
"""

import dataclasses
import os
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from hiper_jax import lm
from hiper_jax.accept import Count, Name, Whole, check_fields
from hiper_jax.act.stack import Batch
from hiper_jax.experiments.bench import generate, models
from hiper_jax.experiments.bench.timing import interleaved, medians
from hiper_jax.experiments.bench.update_sides import our_side
from hiper_jax.experiments.provenance import commit

WANTED = {  # G1, G6
    "0.5b": (0.40, 0.30),
    "1.5b": (0.50, 0.50),
    "7b": (0.55, 0.60),
}
QUARTER = 0.45  # G9


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """Times update and sampling against the device's own limits."""

    size: Literal["", "tiny", "0.5b", "1.5b", "7b"] = ""
    """Shape, weights are random; empty: tiny, on a GPU 0.5b."""
    slots: Whole = 0
    """Slots of a full turn; 0: 16, on a GPU 128."""
    new: Whole = 0
    """Tokens per response; 0: 16, on a GPU 64."""
    scale: Whole = 0
    """Published lengths are divided by it; 0: 16, on a GPU 1."""
    episodes: Count = 4
    """Trajectories in the update's batch."""
    turns: Count = 16
    """Turns of each; all rows are one minibatch."""
    chunk: Count = 8
    """Rows that the update feeds at once."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the gradient computes again; not counted."""
    rounds: Count = 5
    """Times everything is timed, in turn."""
    out: Name = "runs/bench-ceiling"
    """Folder for bench_ceiling.json."""

    def __post_init__(self):
        check_fields(self)


def main(flags: Ceiling) -> dict[str, Any]:
    """Prints G1, G6 and G9 and writes bench_ceiling.json."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    cpu = jax.default_backend() == "cpu"
    size = flags.size or ("tiny" if cpu else "0.5b")
    config = models.config_of(
        size if size == "tiny" else f"qwen2.5-{size}", "float32" if cpu else "bfloat16"
    )
    scale = flags.scale or (16 if cpu else 1)
    slots = flags.slots or (16 if cpu else 128)
    new = flags.new or (16 if cpu else 64)
    # Two networks, a reference and two optimizers of 7B are no single device's.
    trained = dataclasses.replace(config, depth=2) if size == "7b" else config
    width = 1024 if cpu else 8192
    top = matmul_rate(width, config.dtype, flags.rounds)
    copied = generate.copy_bandwidth(2**24 if cpu else 2**28, flags.rounds)
    learned = update_rate(trained, flags, scale)
    turn = turns(config, slots, new, scale, flags.rounds)
    result = {
        "device": jax.devices()[0].device_kind,
        "commit": commit(),
        "jax": jax.__version__,
        "size": size,
        "layers trained": trained.depth,
        "lengths": f"published / {scale}",
        "matmul TFLOP/s": top / 1e12,
        "copy GB/s": copied / 1e9,
        "update": learned,
        "turn": turn,
        "G1": learned["FLOPs"] / learned["median s"] / top,
        "G6": turn["decode bytes"] / turn["decode step s"] / copied,
        "G9": turn["quarter over full"],
    }
    rate, read = wanted(size)
    print(
        models.table(
            [
                ("G1", f"update over matmul ceiling, {size}", result["G1"], rate),
                ("G6", f"decode over copy, {size}, {slots} slots", result["G6"], read),
                (
                    "G9",
                    f"turn with {slots // 4} of {slots} live over a full one",
                    result["G9"],
                    f"at most {QUARTER:.2f}",
                ),
            ]
        )
    )
    print(models.write(flags.out, "bench_ceiling", result))
    return result


def wanted(size: str) -> tuple[str, str]:
    """What G1 and G6 should be on a GPU; nothing of the tiny model."""
    if size not in WANTED:
        return "", ""
    rate, read = WANTED[size]
    return f"at least {rate:.2f}", f"at least {read:.2f}"


def matmul_rate(width: int, dtype: str, rounds: int) -> float:
    """FLOP/s of a product of two [width, width] matrices, several in a row."""
    a = jnp.full((width, width), 1 / width, dtype)
    often = 8
    chained = jax.jit(lambda a, b: jax.lax.fori_loop(0, often, lambda i, x: x @ b, a))
    seconds = medians(interleaved({"product": lambda: chained(a, a)}, rounds))
    return 2.0 * width**3 * often / seconds["product"]


def forward_flops(config: lm.LMConfig, tokens: np.ndarray) -> float:
    """Of all layers over rows of so many real tokens: the docstring's, without H."""
    tokens = np.asarray(tokens, np.float64)
    attention = 2.0 * config.depth * config.num_heads * config.head_dim
    embedded = (2 - config.tied) * config.vocab_size * config.width
    layers = 2.0 * (lm.num_params(config) - embedded)
    return float(layers * tokens.sum() + attention * (tokens**2).sum())


def update_flops(config: lm.LMConfig, batch: Batch) -> float:
    """Of one pass of the update over its batch: see the module's formula."""
    said = float(np.sum(batch.length - batch.start))
    head = 2.0 * config.vocab_size * config.width * said
    return 8 * forward_flops(config, batch.length) + 4 * head


def update_rate(config: lm.LMConfig, flags: Ceiling, scale: int) -> dict[str, Any]:
    """Seconds and FLOPs of an update at published lengths."""
    update, state, batch = our_side(
        config,
        episodes=flags.episodes,
        turns=flags.turns,
        chunk=flags.chunk,
        scale=scale,
        remat=flags.remat,
    )
    held = {"state": state}
    del state

    def call():
        held["state"], metrics, _ = update(held["state"], batch)
        return metrics

    seconds = interleaved({"update": call}, flags.rounds)
    median, real = medians(seconds)["update"], int(batch.length.sum())
    return {
        "seconds": seconds,
        "median s": median,
        "real tokens": real,
        "real tokens per second": real / median,
        "FLOPs": update_flops(config, batch),
    }


def turns(
    config: lm.LMConfig, slots: int, new: int, scale: int, rounds: int
) -> dict[str, Any]:
    """Seconds of a full turn, of one with a quarter live, and of a decode step."""
    rng = np.random.default_rng(0)
    lengths, _ = models.log_lengths(rng, slots, scale)
    prompts = [rng.integers(1, config.vocab_size, n).astype(np.int32) for n in lengths]
    params = models.random_weights(config)
    live = [prompts[i] for i in range(0, slots, 4)]
    # The longest prompt stays, so that both are padded to the same.
    live[0] = max(prompts, key=len)
    full = generate.continuation(config, params, prompts, new)
    quarter = generate.continuation(config, params, live, new)
    calls = {"full": full, "quarter": quarter, "one token": lambda: full(1)}
    seconds = interleaved(calls, rounds)
    middle = medians(seconds)
    bits = jnp.dtype(config.dtype).itemsize / 2  # `step_bytes` counts 16-bit numbers
    return {
        "seconds": seconds,
        "quarter over full": middle["quarter"] / middle["full"],
        "decode step s": (middle["full"] - middle["one token"]) / (new - 1),
        "decode bytes": bits
        * generate.step_bytes(config, slots, max(lengths) + new // 2),
    }
