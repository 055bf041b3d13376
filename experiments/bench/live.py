"""What does a turn cost when few slots are live, and when few responses are long?

Command: `hiper bench live` (70 s of processor time; on a GPU with
`--model qwen2.5-0.5b`).
Expected (G9): a turn with a quarter of the slots live takes at most 0.45 of a full one.

Weights are random and prompts have the published lengths over `scale`. For G9 nothing
ends a response before it has `turn` tokens. Then one token in `mean` ends a response of
`long` tokens at most, so that most are short and a few very long: batches that shrink
to the rows that go on are compared with those that do not. Both must write the same
texts (in float32 all but those in which rounding turns a draw). With `--mean 0` no
response ends early: what is left then is what shrinking costs where it is of no use.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hiper_jax import lm
from hiper_jax.accept import Count, Name, SettingError, Whole, check_fields
from hiper_jax.act.generate import Generate, make_generate, respond
from hiper_jax.experiments.bench import models
from hiper_jax.experiments.bench.timing import interleaved, medians
from hiper_jax.experiments.provenance import commit


@dataclasses.dataclass(frozen=True)
class Live:
    """Times turns of which few slots are live."""

    model: str = ""
    """Name of a shape; empty: a small one of `width` and `depth`."""
    width: Count = 256
    """Of the small one, a multiple of 64."""
    depth: Count = 2
    """Layers of the small one."""
    slots: Count = 128
    """Rows of a full turn; a quarter and a half are the other batches."""
    turn: Whole = 0
    """Tokens of every response of G9's turns; 0: 32, on a GPU 64."""
    long: Whole = 0
    """Tokens of a long response at most; 0: 256, on a GPU 512."""
    mean: Whole = 48
    """One token in so many ends a long response; 0: none does."""
    scale: Whole = 0
    """Published prompt lengths are divided by it; 0: 32, on a GPU 1."""
    rounds: Count = 5
    """Times each side is timed, in turn."""
    out: Name = "runs/bench-live"
    """Folder for bench_live.json."""

    def __post_init__(self):
        check_fields(self)
        if not self.model and self.width % 64:
            fault = f"must be a multiple of 64, not {self.width}"
            raise SettingError(type(self), "width", fault)


def main(flags: Live) -> dict:
    """Prints the ratios and writes bench_live.json."""
    gpu = jax.default_backend() == "gpu"
    config = shape_of(flags, "bfloat16" if gpu else "float32")
    params = lm.unstack_layers(models.random_weights(config), jnp.dtype(config.dtype))
    rng = np.random.default_rng(0)
    lengths, _ = models.log_lengths(rng, flags.slots, flags.scale or (1 if gpu else 32))
    prompts = [rng.integers(1, config.vocab_size, n).astype(np.int32) for n in lengths]
    rows = tuple(sorted({max(flags.slots // n, 1) for n in (4, 2, 1)}))
    ask = functools.partial(answers, params, prompts, rows)

    even = made(config, flags.turn or (64 if gpu else 32), ())
    ends = range(0, config.vocab_size, flags.mean) if flags.mean else ()
    long = {
        name: made(config, flags.long or (512 if gpu else 256), ends, narrow)
        for name, narrow in (("shrinking", rows), ("not shrinking", ()))
    }
    texts, first = {}, {}
    for name, generate in long.items():
        began = time.perf_counter()
        texts[name] = ask(generate, flags.slots)
        first[name] = time.perf_counter() - began
    same, said = compared(*texts.values())
    if config.dtype == "float32" and same < 0.9:
        raise RuntimeError(
            f"only {same:.1%} of the tokens are in equal texts: nothing was timed"
        )
    calls = {
        "full": functools.partial(ask, even, flags.slots),
        "a quarter": functools.partial(ask, even, rows[0]),
    } | {name: functools.partial(ask, g, flags.slots) for name, g in long.items()}
    seconds = interleaved(calls, flags.rounds)
    middle = medians(seconds)
    computed = row_steps(said, rows) / max(row_steps(said, rows[-1:]), 1)
    result = {
        "machine": f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores",
        "load": f"{os.getloadavg()[0]:.1f}",
        "commit": commit(),
        "settings": dataclasses.asdict(flags),
        "in equal texts": same,
        "tokens of a response": {"mean": float(said.mean()), "most": int(said.max())},
        "programs": {name: g.programs() for name, g in long.items()},
        "first call s": first,
        "medians": middle,
        "seconds": seconds,
        "G9": middle["a quarter"] / middle["full"],
        "shrinking over not": middle["shrinking"] / middle["not shrinking"],
        "rows x steps, shrinking over not": computed,
    }
    print(f"long responses of {said.mean():.0f} tokens, the longest of {said.max()}")
    live = f"a turn with {rows[0]} of {flags.slots} live over a full one"
    print(
        models.table(
            [
                ("G9", live, result["G9"], "at most 0.45"),
                ("", "long, shrinking over not", result["shrinking over not"], ""),
                ("", "rows x steps of these", computed, ""),
            ]
        )
    )
    print(models.write(flags.out, "bench_live", result))
    return result


def shape_of(flags: Live, dtype: str) -> lm.LMConfig:
    """The named shape, or the small one."""
    if flags.model:
        return models.config_of(flags.model, dtype)
    width = flags.width
    return lm.tiny(
        1024,
        width=width,
        depth=flags.depth,
        num_heads=width // 32,
        mlp_width=4 * width,
        dtype=dtype,
    )


def made(
    config: lm.LMConfig, new: int, ends: Sequence[int], narrow: tuple[int, ...] = ()
) -> Generate:
    """A sampler of `new` tokens at most, of which `ends` end a response."""
    return make_generate(
        lambda p, t, n, room: lm.prefill(p, config, t, n, room),
        lambda p, t, cache: lm.decode_step(p, config, t, cache),
        max_new=new,
        eos_id=tuple(ends),
        narrow=narrow,
        take_rows=lm.take_rows,
    )


def answers(params, prompts, rows: tuple[int, ...], generate: Generate, live: int):
    """Responses to the first prompts, padded to the longest of all of them."""
    return respond(
        generate,
        params,
        prompts[:live],
        np.arange(live),
        jax.random.key(0),
        1.0,
        rows=rows,
        tokens=(max(map(len, prompts)),),
    )


def compared(some, others) -> tuple[float, np.ndarray]:
    """The share of tokens in equal texts, and tokens of each text."""
    said = np.array([len(ids) for ids, *_ in others])
    equal = [np.array_equal(a[0], b[0]) for a, b in zip(some, others, strict=True)]
    return float(said[equal].sum() / said.sum()), said


def row_steps(said: np.ndarray, rows: Sequence[int]) -> int:
    """Rows of all decode steps together: of each the fewest of `rows` that will do."""
    live = [int((said > step).sum()) for step in range(1, int(said.max()))]
    return sum(min(n for n in rows if n >= here) for here in live)
