"""How fast is sampling? Ours against `transformers`' generate, same weights, prompts.

Command: `hiper bench generate` (about two minutes on two idle CPU cores).
Expected, theirs over ours: C7 at least 2x for the tiny model and 1x at real width. On
a GPU: `hiper bench generate --models qwen2.5-0.5b --batch 128` (G7, at least 5x, and
G6, decode bytes per second over copy bandwidth).

Both sides take the likeliest token, so that the texts can be compared before anything
is timed. Prompts have the lengths of the published runs, divided by `scale`; theirs
are padded on the left to the longest of the batch.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hiper_jax import lm
from hiper_jax.accept import Count, Name, Whole, check_fields
from hiper_jax.act.generate import make_generate, respond
from hiper_jax.experiments.bench import models
from hiper_jax.experiments.bench.timing import interleaved, medians
from hiper_jax.experiments.capacity.forecast import step_reads


@dataclasses.dataclass(frozen=True)
class Generate:
    """Times sampling against `transformers`."""

    models: tuple[str, ...] = ()
    """Names of shapes, weights are random; empty: tiny and wide, on a GPU 0.5B."""
    batch: Whole = 0
    """Prompts; 0: 16, on a GPU 128."""
    new: Whole = 0
    """Tokens per response; 0: 32, on a GPU 64."""
    scale: Whole = 0
    """Published prompt lengths are divided by it; 0: 8, on a GPU 1."""
    rounds: Count = 5
    """Times each side is timed, in turn."""
    out: Name = "runs/bench-generate"
    """Folder for bench_generate.json."""

    def __post_init__(self):
        check_fields(self)


def main(flags: Generate) -> dict:
    """Prints C7 (G6 and G7 on a GPU) and writes bench_generate.json."""
    models.need_torch()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    gpu = jax.default_backend() == "gpu"
    threads = models.share_threads()
    batch, new = flags.batch or (128 if gpu else 16), flags.new or (64 if gpu else 32)
    scale = flags.scale or (1 if gpu else 8)
    names = flags.models or (("qwen2.5-0.5b",) if gpu else ("tiny", "wide"))
    result = {
        **models.machine(threads),
        "batch": batch,
        "new tokens": new,
        "prompt lengths": f"published / {scale}",
        "models": {},
    }
    ratios = []
    for name in names:
        config = models.config_of(name, "bfloat16" if gpu else "float32")
        found = one_model(config, batch, new, scale, flags.rounds)
        result["models"][name] = found
        goal = "at least 5" if gpu else f"at least {2 if name == 'tiny' else 1}"
        label = "G7" if gpu else "C7"
        what = f"transformers' generate over ours, {name}"
        ratios.append((label, what, found["theirs over ours"], goal))
        if gpu:
            what = f"decode bytes/s over copy bandwidth, {name}"
            ratios.append(("G6", what, found["decode over copy"], "0.3 to 0.6"))
    print(models.table(ratios))
    print(models.write(flags.out, "bench_generate", result))
    return result


class Sides(NamedTuple):
    """One model, both ways."""

    prompts: list[np.ndarray]  # int32 ids each
    params: Any  # the weights, stacked
    ours: Callable[..., np.ndarray]  # new tokens -> [N, new] int32, greedy
    theirs: Callable[[], np.ndarray]  # the same by `transformers`


def sides_of(config: lm.LMConfig, batch: int, new: int, scale: int) -> Sides:
    """Random weights and prompts of published lengths, and what continues them."""
    torch = models.need_torch()
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    rng = np.random.default_rng(0)
    lengths, _ = models.log_lengths(rng, batch, scale)
    prompts = [rng.integers(1, config.vocab_size, n).astype(np.int32) for n in lengths]
    params = models.random_weights(config)
    theirs = models.their_model(params, config, config.dtype, device).eval()
    widest = int(max(lengths))
    tokens, mask = left_padded(prompts, widest)
    tokens, mask = (torch.tensor(x).to(device) for x in (tokens, mask))
    call_ours = continuation(config, params, prompts, new)

    @torch.inference_mode()
    def call_theirs():
        out = theirs.generate(
            tokens,
            attention_mask=mask,
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        return out[:, widest:].cpu().numpy()

    return Sides(prompts, params, call_ours, call_theirs)


def continuation(
    config: lm.LMConfig, params: Any, prompts: list[np.ndarray], new: int
) -> Callable[..., np.ndarray]:
    """Our sampler on these prompts: new tokens -> [N, new] int32, greedy."""
    flat = lm.unstack_layers(params, jnp.dtype(config.dtype))
    compiled = functools.cache(functools.partial(sampler, config))
    N, widest = len(prompts), max(map(len, prompts))
    # Like a run's: on a CPU, groups that stay in its cache.
    rows = (min(16, N),) if jax.default_backend() == "cpu" else (N,)

    def call(new: int = new) -> np.ndarray:
        answers = respond(
            compiled(new),
            flat,
            prompts,
            np.arange(N),
            jax.random.key(0),
            0.0,
            rows=rows,
            tokens=(widest,),
        )
        return np.stack([ids for ids, _ in answers])

    return call


def check_same(config: lm.LMConfig, ours: np.ndarray, theirs: np.ndarray) -> float:
    """The share of equal tokens.

    Raises:
      RuntimeError: it is below 0.99 in float32, in which near ties are rare.
    """
    same = float(np.mean(ours == theirs))
    if config.dtype == "float32" and same < 0.99:
        raise RuntimeError(
            f"both sides must write the same greedy text, but {same:.1%} of the tokens "
            "are equal: nothing was timed"
        )
    return same


def one_model(config: lm.LMConfig, batch: int, new: int, scale: int, rounds: int):
    """Checks that both sides write the same, then times them."""
    sides = sides_of(config, batch, new, scale)
    same = check_same(config, sides.ours(), sides.theirs())
    calls = {"ours": sides.ours, "theirs": sides.theirs}
    gpu = jax.default_backend() == "gpu"
    if gpu:
        # The time of a prompt alone, to be taken off the decode steps'.
        calls["ours, one token"] = functools.partial(sides.ours, 1)
    seconds = interleaved(calls, rounds)
    middle = medians(seconds)
    lengths = [len(prompt) for prompt in sides.prompts]
    found = {
        "equal tokens": same,
        "real prompt tokens": sum(lengths),
        "padded prompt": max(lengths),
        "seconds": seconds,
        "new tokens per second": batch * new / middle["ours"],
        "theirs over ours": middle["theirs"] / middle["ours"],
        "peak GiB": (models.peak_bytes() or 0) / 2**30,
    }
    if gpu:
        step = (middle["ours"] - middle["ours, one token"]) / (new - 1)
        found["decode step, ms"] = 1e3 * step
        moved = step_bytes(config, batch, max(lengths) + new // 2)
        found["decode over copy"] = moved / step / copy_bandwidth()
    return found


def sampler(config: lm.LMConfig, new: int):
    """Our compiled sampler, which never stops early."""
    return make_generate(
        lambda p, t, n, room: lm.prefill(p, config, t, n, room),
        lambda p, t, cache: lm.decode_step(p, config, t, cache),
        max_new=new,
        eos_id=-1,
    )


def left_padded(prompts, width: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.zeros((len(prompts), width), np.int64)
    mask = np.zeros_like(tokens)
    for i, prompt in enumerate(prompts):
        tokens[i, width - len(prompt) :] = prompt
        mask[i, width - len(prompt) :] = 1
    return tokens, mask


def step_bytes(config: lm.LMConfig, rows: int, context: int) -> float:
    """Bytes that one decode step must read: weights, and keys and values in bf16."""
    return 2.0 * step_reads(config, lm.num_params(config), rows, context)


def copy_bandwidth(size: int = 2**28, rounds: int = 5) -> float:
    """Bytes read and written per second by a plain copy of [size] float32."""
    source = jnp.zeros((size,), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    seconds = interleaved({"copy": lambda: jax.block_until_ready(copy(source))}, rounds)
    return 8.0 * size / medians(seconds)["copy"]
