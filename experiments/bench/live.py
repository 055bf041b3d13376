"""What does a turn cost when few slots are live, and when few responses are long?

Command: `hiper bench live` (about three minutes on two idle CPU cores; on a GPU with
`--model qwen2.5-0.5b --new 512`).
Expected (G9): a turn with a quarter of the slots live takes at most 0.45 of a full one.

Weights are random, prompts have the published lengths over `scale`, and one token in
`mean` ends a response, so that most are short and a few very long. Batches that shrink
to the rows that go on are compared with those that do not: both must write the same
texts (all but a few in a thousand tokens, where rounding turns a draw).
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np

from hiper_jax import lm
from hiper_jax.accept import Count, Name, Whole, check_fields
from hiper_jax.act.generate import Generate, make_generate, respond
from hiper_jax.experiments.bench import models
from hiper_jax.experiments.bench.timing import interleaved, medians
from hiper_jax.experiments.provenance import commit


@dataclasses.dataclass(frozen=True)
class Live:
    """Times turns of which few slots are live."""

    model: Name = "wide"
    """Name of a shape."""
    slots: Count = 128
    """Rows of a full turn; a quarter and a half are the other batches."""
    new: Count = 96
    """Tokens of a response at most."""
    mean: Count = 16
    """One token in so many ends a response."""
    scale: Whole = 0
    """Published prompt lengths are divided by it; 0: 32, on a GPU 1."""
    rounds: Count = 5
    """Times each side is timed, in turn."""
    out: Name = "runs/bench-live"
    """Folder for bench_live.json."""

    def __post_init__(self):
        check_fields(self)


def main(flags: Live) -> dict:
    """Prints both ratios and writes bench_live.json."""
    gpu = jax.default_backend() == "gpu"
    config = models.config_of(flags.model, "bfloat16" if gpu else "float32")
    params = models.random_weights(config)
    params = lm.unstack_layers(params, jnp.dtype(config.dtype))
    rng = np.random.default_rng(0)
    lengths, _ = models.log_lengths(rng, flags.slots, flags.scale or (1 if gpu else 32))
    prompts = [rng.integers(1, config.vocab_size, n).astype(np.int32) for n in lengths]
    rows = tuple(sorted({max(flags.slots // n, 1) for n in (4, 2, 1)}))

    def turn(generate: Generate, live: int):
        return respond(
            generate,
            params,
            prompts[:live],
            np.arange(live),
            jax.random.key(0),
            1.0,
            rows=rows,
            tokens=(int(max(lengths)),),
        )

    shrinking, plain = (made(config, flags, narrow) for narrow in (rows, ()))
    same, said = compared(turn(shrinking, flags.slots), turn(plain, flags.slots))
    if config.dtype == "float32" and same < 0.99:
        raise RuntimeError(f"only {same:.1%} of the texts are equal: nothing was timed")
    seconds = interleaved(
        {
            "full": lambda: turn(shrinking, flags.slots),
            "full, not shrinking": lambda: turn(plain, flags.slots),
            "a quarter": lambda: turn(shrinking, rows[0]),
            "a quarter, not shrinking": lambda: turn(plain, rows[0]),
        },
        flags.rounds,
    )
    middle = medians(seconds)
    result = {
        "machine": f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores",
        "load": f"{os.getloadavg()[0]:.1f}",
        "commit": commit(),
        "settings": dataclasses.asdict(flags),
        "equal tokens": same,
        "tokens of a response": {"mean": float(said.mean()), "most": int(said.max())},
        "programs": {"shrinking": shrinking.programs(), "plain": plain.programs()},
        "medians": middle,
        "seconds": seconds,
    }
    last = "a quarter, not shrinking"
    ratios = [
        ("G9", "a quarter live over full", middle["a quarter"], middle["full"], "0.45"),
        ("G9", "neither shrinks", middle[last], middle["full, not shrinking"], "0.45"),
        (
            "",
            "full, shrinks over not",
            middle["full"],
            middle["full, not shrinking"],
            "1",
        ),
    ]
    print(f"responses of {said.mean():.0f} tokens, the longest of {said.max()}")
    print(models.table([(i, w, a / b, f"at most {c}") for i, w, a, b, c in ratios]))
    print(models.write(flags.out, "bench_live", result))
    return result


def made(config: lm.LMConfig, flags: Live, narrow: tuple[int, ...]) -> Generate:
    """A sampler, of which one token in `flags.mean` ends a response."""
    return make_generate(
        lambda p, t, n, room: lm.prefill(p, config, t, n, room),
        lambda p, t, cache: lm.decode_step(p, config, t, cache),
        max_new=flags.new,
        eos_id=tuple(range(0, config.vocab_size, flags.mean)),
        narrow=narrow,
        take_rows=lm.take_rows,
    )


def compared(some, others) -> tuple[float, np.ndarray]:
    """The share of tokens in equal texts, and tokens of each text."""
    said = np.array([len(ids) for ids, *_ in others])
    equal = [np.array_equal(a[0], b[0]) for a, b in zip(some, others, strict=True)]
    return float(said[equal].sum() / said.sum()), said
