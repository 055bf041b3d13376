"""How fast is the advantage stage? Side by side in one process, interleaved, medians.

Command: `hiper bench hae` (about two minutes on two CPU cores).
Expected on two CPU cores, plain loops over ours: C1 above 800x, C2 25x, C4 12x; C3, our
HAE over a flat GAE scan, at most 5x. C1 alone says little: C2 always stands beside it.

"Plain" is the published way in our own words: Python loops over trajectories, segments
and turns on scalars of torch (or of numpy where torch is not installed), and blocks
found by decoding every token to text.
"""

import functools
import io
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hiper_jax import workdir
from hiper_jax.act.pieces import piece_table
from hiper_jax.act.spans import token_masks
from hiper_jax.credit import (
    boundaries,
    credit_masks,
    hae,
    standardize,
    token_advantage,
)
from hiper_jax.experiments.bench import plain_hae
from hiper_jax.experiments.bench.hae_inputs import (
    Turns,
    random_turns,
    small_tokenizer,
    tokenized,
)
from hiper_jax.experiments.bench.timing import interleaved, medians

SHAPES = ((128, 50), (1024, 50), (128, 512), (16, 16384))
AIMS = {"C1": (800, 1600), "C2": (25, 60), "C3": (5, 3), "C4": (12, 30)}
RATES = {"gamma": 1.0, "lambda_turn": 1.0, "lambda_segment": 0.95}


@functools.partial(jax.jit, static_argnames="implementation")
def our_hae(turns: Turns, implementation: str = "auto"):
    """Per turn, in and out."""
    return jax.vmap(lambda *a: hae(*a, implementation=implementation, **RATES))(*turns)


@jax.jit
def flat_gae(turns: Turns):
    """The least a GAE can be: one scan with one carry, no masks, no segments."""

    def step(carry, now):
        after, value_after = carry
        reward, goes_on, value = now
        advantage = reward + goes_on * (value_after + 0.95 * after) - value
        return (advantage, value), advantage

    goes_on = 1.0 - turns.terminated
    by_turn = jax.tree.map(jnp.transpose, (turns.reward, goes_on, turns.low))
    start = jnp.zeros_like(turns.reward[:, 0])
    _, advantage = lax.scan(step, (start, start), by_turn, reverse=True)
    return advantage.T, advantage.T + turns.low


@jax.jit
def our_tokens(turns: Turns, values, masks):
    """Token-level in and out: values [3, N, L] -> advantages and targets [N, L]."""
    shape = turns.reward.shape
    positions = masks.value_low, masks.value_high, masks.value_switch
    low, high, waits = (
        jnp.sum(jnp.where(position, value, 0), axis=-1).reshape(shape)
        for value, position in zip(values, positions, strict=True)
    )
    estimate = our_hae(turns._replace(low=low, high=high, waits=waits))
    boundary = jax.vmap(boundaries)(turns.switch, turns.valid).reshape(-1)
    carried = credit_masks(boundary, masks.action, masks.subgoal, masks.switch)
    advantages = [
        standardize(a.reshape(-1), mask.any(axis=-1))
        for a, mask in zip(estimate[:3], carried, strict=True)
    ]
    parts = [*advantages, *carried]
    total, mask = token_advantage(*parts)
    returns = [
        jnp.where(position, r.reshape(-1, 1), 0)
        for r, position in zip(estimate[3:], positions, strict=True)
    ]
    return total, mask, returns


def per_turn(B: int, T: int, rounds: int, with_plain: bool) -> dict[str, float]:
    """Seconds of HAE on [B, T]."""
    turns = random_turns(B, T)
    on_device = jax.tree.map(jnp.asarray, turns)
    calls = {}
    if with_plain:
        calls |= plain_hae.per_turn(turns, RATES)
    calls |= {
        "ours": lambda: our_hae(on_device),
        "ours, scan": lambda: our_hae(on_device, "scan"),
        "ours, associative": lambda: our_hae(on_device, "associative"),
        "flat GAE scan": lambda: flat_gae(on_device),
    }
    return _timed(calls, rounds, often=20)


def per_token(B: int, T: int, width: int, rounds: int) -> dict[str, float]:
    """Seconds of the stage with token-level arrays, and from raw tokens."""
    tokenizer = small_tokenizer()
    table = piece_table(tokenizer)
    tokens, mask = tokenized(tokenizer, B * T, width)
    turn_index = np.tile(np.arange(T), B)
    masks = token_masks(tokens, mask, turn_index, table, mode="paper")
    turns = random_turns(B, T)
    turns = turns._replace(switch=masks.is_switch.reshape(B, T))
    values = np.random.default_rng(0).normal(size=(3, *tokens.shape))
    values = values.astype(np.float32)
    on_device = jax.tree.map(jnp.asarray, (turns, values, masks))

    def from_raw_tokens():
        found = token_masks(tokens, mask, turn_index, table, mode="paper")
        said = turns._replace(switch=found.is_switch.reshape(B, T))
        return our_tokens(said, on_device[1], found)

    calls = plain_hae.per_token(
        turns, values, masks, tokens, mask, turn_index, tokenizer, RATES
    )
    calls |= {
        "ours, tokens": lambda: our_tokens(*on_device),
        "ours, from raw tokens": from_raw_tokens,
        "ours, masks only": lambda: token_masks(
            tokens, mask, turn_index, table, mode="paper"
        ),
    }
    return _timed(calls, rounds, often=5)


def _timed(calls: dict[str, Callable], rounds: int, often: int) -> dict[str, float]:
    """Median seconds of each call; the quick ones are called `often` a round."""
    seconds = interleaved(
        calls, rounds, lambda n: 1 if n.startswith("plain") else often
    )
    return {
        name: seconds for name, seconds in medians(seconds).items() if name in calls
    }


def main(
    out_dir: str = "results/bench_hae",
    shapes: tuple[tuple[int, int], ...] = SHAPES,
    width: int = 64,
    rounds: int = 5,
    plain_limit: int = 100_000,
) -> dict:
    """Prints ratios C1 to C4 and writes bench_hae.json and bench_hae.png.

    Args:
      out_dir: where to write.
      shapes: (trajectories, turns); the first is the one of the ratios.
      width: response tokens.
      rounds: rounds of interleaved calls, each a plain one and many quick ones.
      plain_limit: most turns for which the plain loops are run.

    Returns:
      What is written: milliseconds per shape, ratios, and what they were taken on.
    """
    turns = {
        f"{B}x{T}": per_turn(B, T, rounds, with_plain=plain_limit >= B * T)
        for B, T in shapes
    }
    B, T = shapes[0]
    tokens = per_token(B, T, width, rounds)
    first = turns[f"{B}x{T}"]
    slow = plain_hae.NAME
    result = {
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores",
        "plain": slow,
        "jax": jax.__version__,
        "rounds": rounds,
        "ratios": {
            "C1": first[f"plain, {slow}"] / first["ours"],
            "C2": tokens[f"plain, {slow}, tokens"] / tokens["ours, tokens"],
            "C3": first["ours"] / first["flat GAE scan"],
            "C4": tokens["plain, from raw tokens"] / tokens["ours, from raw tokens"],
        },
        "per turn, ms": {
            shape: {name: 1e3 * s for name, s in times.items()}
            for shape, times in turns.items()
        },
        f"per token, ms, {B}x{T}x{width}": {n: 1e3 * s for n, s in tokens.items()},
    }
    out = pathlib.Path(out_dir)
    workdir.write_json(out / "bench_hae.json", result)
    workdir.write_bytes(out / "bench_hae.png", _figure(result))
    print(summary(result))
    return result


def summary(result: dict) -> str:
    """The ratios as a table, then the milliseconds."""
    says = {
        "C1": "plain loops over ours, per turn",
        "C2": "the same, token-level in and out",
        "C3": "our HAE over a flat GAE scan (smaller is better)",
        "C4": "the whole stage from raw tokens, plain over ours",
    }
    lines = [
        f"{result['device']}, jax {result['jax']}, plain in {result['plain']}",
        "",
        "| id | ratio | measured | at least | aim |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, ratio in result["ratios"].items():
        bound, aim = AIMS[name]
        lines.append(f"| {name} | {says[name]} | {ratio:.1f}x | {bound}x | {aim}x |")
    for title, table in result.items():
        if ", ms" not in title:
            continue
        shapes = table if title.startswith("per turn") else {"": table}
        for shape, times in shapes.items():
            lines += ["", f"{title} {shape}".rstrip()]
            lines += [f"  {name:32s} {ms:12.3f}" for name, ms in times.items()]
    return "\n".join(lines)


def _figure(result: dict) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    by_shape = result["per turn, ms"]
    names = list(dict.fromkeys(name for times in by_shape.values() for name in times))
    for k, name in enumerate(names):
        at = [
            n + 0.15 * k for n, times in enumerate(by_shape.values()) if name in times
        ]
        heights = [times[name] for times in by_shape.values() if name in times]
        left.bar(at, heights, 0.15, label=name)
    left.set(yscale="log", ylabel="ms", title="HAE per turn")
    left.set_xticks([n + 0.3 for n in range(len(by_shape))], list(by_shape))
    left.legend(fontsize=7)
    tokens = result[next(key for key in result if key.startswith("per token"))]
    right.barh(list(tokens), list(tokens.values()))
    right.set(xscale="log", xlabel="ms", title="with tokens")
    png = io.BytesIO()
    figure.savefig(png, dpi=150)
    return png.getvalue()
