"""How fast is the advantage stage? Side by side in one process, interleaved, medians.

Command: `hiper bench hae` (about two minutes on two CPU cores).
Expected on two CPU cores, plain loops over ours: C1 above 800x, C2 25x, C4 12x; C3, our
HAE over a flat GAE scan, at most 5x. C1 alone says little: C2 always stands beside it.

"Plain" is the published way in our own words: Python loops over trajectories, segments
and turns on scalars of torch (or of numpy where torch is not installed), and blocks
found by decoding every token to text.
"""

import functools
import json
import os
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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

SHAPES = ((128, 50), (1024, 50), (128, 512), (16, 16384))
AIMS = {"C1": (800, 1600), "C2": (25, 60), "C3": (5, 3), "C4": (12, 30)}
RATES = {"gamma": 1.0, "lambda_turn": 1.0, "lambda_segment": 0.95}


class Turns(NamedTuple):
    """Inputs of HAE, [B, T] each, numpy or jax."""

    reward: Any
    terminated: Any
    valid: Any
    switch: Any
    low: Any
    high: Any
    waits: Any


def random_turns(B: int, T: int, seed: int = 0) -> Turns:
    """Full trajectories, a switch every fourth turn or so."""
    rng = np.random.default_rng(seed)
    terminated = np.zeros((B, T), bool)
    terminated[:, -1] = rng.random(B) < 0.5
    reward = np.where(terminated, 10.0, 0.0).astype(np.float32)
    values = rng.normal(size=(3, B, T)).astype(np.float32)
    switch = rng.random((B, T)) < 0.25
    return Turns(reward, terminated, np.ones((B, T), bool), switch, *values)


def interleaved(
    calls: dict[str, Callable], rounds: int, often: int
) -> dict[str, float]:
    """Median seconds of each call; all of them in turn, the quick ones `often`."""
    seconds = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())  # compiles
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(1 if name.startswith("plain") else often):
                begin = time.perf_counter()
                jax.block_until_ready(call())
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


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


def small_tokenizer():
    """A byte-level BPE, trained on the spot, whose tags are several tokens each."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(responses(200), trainer)
    return tokenizer


def responses(count: int, seed: int = 0) -> list[str]:
    """Well-formed responses, a few of them broken."""
    draw = random.Random(seed)
    goals = ("find an apple", "cool the potato with the fridge", "put it on the desk")
    actions = ("go to desk 1", "take apple 2 from table 1", "open fridge 1", "look")
    texts = []
    for _ in range(count):
        switch = draw.choice(("KEEP", "KEEP", "SWITCH", "MAYBE"))
        text = f"<switch>{switch}</switch>\n<subgoal>{draw.choice(goals)}</subgoal>\n"
        text += f"<action>{draw.choice(actions)}</action><|im_end|>"
        texts.append(text if draw.random() < 0.95 else text[: draw.randint(5, 60)])
    return texts


def tokenized(tokenizer, count: int, width: int):
    """[N, L] token ids and mask."""
    tokens = np.zeros((count, width), np.int32)
    mask = np.zeros((count, width), bool)
    for n, encoded in enumerate(tokenizer.encode_batch(responses(count))):
        ids = encoded.ids[:width]
        tokens[n, : len(ids)], mask[n, : len(ids)] = ids, True
    return tokens, mask


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
    return interleaved(calls, rounds, often=20)


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
    return interleaved(calls, rounds, often=5)


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
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2) + "\n"
    _write(out / "bench_hae.json", lambda path: path.write_text(text))
    _write(out / "bench_hae.png", lambda path: _figure(path, result))
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


def _figure(path: pathlib.Path, result: dict) -> None:
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
    figure.savefig(path, dpi=150)


def _write(path: pathlib.Path, write: Callable) -> None:
    """Whole or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = pathlib.Path(folder) / path.name
        write(whole)
        os.replace(whole, path)
