"""How fast is the update? Ours against a PPO step in torch, same weights, same rows.

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
import jax.numpy as jnp
import numpy as np
import optax

from hiper_jax import lm
from hiper_jax.accept import Count, Name, Whole, check_fields
from hiper_jax.act.codec import Codec
from hiper_jax.act.generate import respond
from hiper_jax.act.stack import Batch
from hiper_jax.credit import credit_masks, hiper, segment_starts, token_advantage
from hiper_jax.experiments.bench import models
from hiper_jax.experiments.bench.batch import published, random_batch
from hiper_jax.experiments.bench.generate import sampler
from hiper_jax.experiments.config import Learn
from hiper_jax.lm import value_heads as heads
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.passes import make_model
from hiper_jax.networks.shapes import shapes_of
from hiper_jax.update.state import Optimizers
from hiper_jax.update.step import compile_update, make_update

RATES, MAX_NORM = (1e-5, 1e-4), 1.0
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
    """Prints C5, C6, C8, C9 (G4 on a GPU) and writes bench_update.json."""
    models.need_torch()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    gpu = jax.default_backend() == "gpu"
    threads = models.share_threads()
    scale = flags.scale or (1 if gpu else 8)
    name = flags.model or ("qwen2.5-0.5b" if gpu else "tiny")
    config = models.config_of(name, "bfloat16" if gpu else "float32")
    result = {
        **models.machine(threads),
        "model": name,
        "lengths": f"published / {scale}",
    }
    timed = compare(config, flags, scale)
    C8 = fed_over_real(np.random.default_rng(1), Learn(chunk=flags.chunk))
    result |= {**timed, "fed over real tokens": C8}
    middle = models.medians(timed["seconds"])
    C5, C6 = (middle[theirs] / middle["ours"] for theirs in ("padded", "trimmed"))
    ratios = [
        ("G4" if gpu else "C5", "padded torch update over ours", C5, "at least 3"),
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


def settings_of(flags: Update) -> Learn:
    """One minibatch of all rows: its order is then of no account."""
    rows = flags.episodes * flags.turns
    return Learn(
        gamma=0.98,
        kl_coef=0.05,
        bootstrap="none",
        minibatch=rows,
        chunk=min(flags.chunk, rows),
    )


def our_side(config: lm.LMConfig, flags: Update, scale: int):
    """(update, state, batch), with old log-probs near the actor's own."""
    rng = np.random.default_rng(0)
    batch = random_batch(rng, config.vocab_size, flags.episodes, flags.turns, scale)
    params = models.random_weights(config)
    critic = heads.init(config, jax.random.key(1))
    critic["trunk"] = jax.tree.map(
        jnp.copy, {k: v for k, v in params.items() if k != "head"}
    )
    critic["value"] = jax.random.normal(jax.random.key(2), critic["value"].shape) * 0.02
    no_text = Codec(None, eos_id=0, pad_id=0, chat=False)
    agent = Agent(config, config, no_text, None, remat=flags.remat)
    model = make_model(agent)
    one = jax.jit(model.score)
    chunk = min(flags.chunk, len(batch.start))
    old = [
        one(params, *(x[i : i + chunk] for x in rows), 1.0)[0]
        for rows in [(batch.tokens, batch.start, batch.response)]
        for i in range(0, len(batch.start), chunk)
    ]
    noise = 0.1 * rng.normal(size=batch.response.shape)
    old = np.where(batch.response_mask, np.concatenate(old) + noise, 0.0)
    batch = batch.replace(old_log_prob=old.astype(np.float32))
    optimizers = Optimizers(
        *(
            optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(rate))
            for rate in RATES
        )
    )
    settings = settings_of(flags)
    init, update = make_update(
        model, hiper.estimator(settings), optimizers, settings, published(scale)[2]
    )
    update = compile_update(update)
    # A moved reference: the KL term must have something to pull at.
    moved = jax.tree.map(lambda x: x * 1.01, params)
    state = init(params, critic, jax.random.key_data(jax.random.key(3)))
    state = jax.device_put(state.replace(reference=moved), jax.devices()[0])
    return update, state, batch


def their_side(config: lm.LMConfig, state, flags: Update, device: str):
    """The same weights and optimizers in torch."""
    from hiper_jax.experiments.bench import torch_ppo

    build = functools.partial(
        models.their_model, config=config, dtype="float32", device=device
    )
    trunk = state.critic["trunk"]
    if not config.tied:
        trunk = trunk | {"head": trunk["embed"]}
    critic = torch_ppo.Critic(
        build(trunk).model,
        np.asarray(state.critic["value"]),
        np.asarray(state.critic["value_bias"]),
    )
    return torch_ppo.Learner(
        build(state.actor),
        critic,
        build(state.reference),
        settings_of(flags),
        rates=RATES,
        max_norm=MAX_NORM,
        half=config.dtype == "bfloat16",
    )


def compare(config: lm.LMConfig, flags: Update, scale: int) -> dict:
    """Checks that both sides compute the same, then times them.

    Raises:
      RuntimeError: losses or gradients differ.
    """
    torch = models.need_torch()
    from hiper_jax.experiments.bench import torch_ppo

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    update, state, batch = our_side(config, flags, scale)
    learner = their_side(config, state, flags, device)
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
        name: torch_ppo.lay_out(batch, *handed(batch, credit), P=P, R=R, device=device)
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
    seconds = models.interleaved(calls, flags.rounds)
    found = {
        "rows": len(batch.start),
        "real tokens": real,
        "shapes": {name: [len(batch.start), p, r] for name, (p, r) in layouts.items()},
        "real share of padded": real / (len(batch.start) * (P + R)),
        "same": {name: [ours[name], theirs[name]] for name in PARTS},
        "seconds": seconds,
        "real tokens per second": real / models.medians(seconds)["ours"],
        "our peak GiB": (models.peak_bytes() or 0) / 2**30,
    }
    if device == "cuda":
        found["their peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def handed(batch: Batch, credit) -> tuple[np.ndarray, ...]:
    """What our HAE made of a batch of full trajectories, per row."""
    N = len(batch.start)
    starts = segment_starts(batch.segment).reshape(N)
    masks = credit_masks(
        starts, batch.action_mask, batch.subgoal_mask, batch.switch_mask
    )
    turns = [credit[f"advantage_{n}"].reshape(N) for n in ("low", "high", "switch")]
    parts = [*turns, *masks]
    advantage, carries = token_advantage(*parts)
    returns = [credit[f"return_{n}"].reshape(N) for n in hiper.HEADS]
    returns = np.stack(returns, axis=1)
    return np.asarray(advantage), np.asarray(carries), np.asarray(starts), returns


def fed_over_real(
    rng: np.random.Generator, settings: Learn, turns: int = 3200
) -> float:
    """C8: tokens that gradients are taken over, by real ones, at published lengths."""
    prompts, responses = models.log_lengths(rng, turns)
    lengths, buckets = prompts + responses, published(1)[2]
    M = -(-min(settings.minibatch, turns) // settings.chunk) * settings.chunk
    count = -(-turns // M)
    order = rng.permutation(turns)
    parts = [lengths[order[i::count]] for i in range(count)]
    return sum(fed(part, settings.chunk, buckets) for part in parts) / lengths.sum()


def fed(lengths: np.ndarray, C: int, buckets: tuple[int, ...]) -> int:
    """Tokens that `update` is fed for one minibatch, its twin in numpy.

    Rows are sorted by length and cut into chunks of C, each of the smallest bucket
    that holds it; the chunk of the shortest rows is filled up.
    """
    chunks = np.pad(np.sort(lengths), (-len(lengths) % C, 0)).reshape(-1, C)
    sizes = np.array(buckets)
    return int(C * sizes[np.searchsorted(sizes, chunks.max(axis=1))].sum())


def count_programs(iterations: int, slots: int = 32) -> tuple[int, int]:
    """C9: iterations of rollout and update on a tiny model with published lengths.

    Turn by turn, fewer slots are live and prompts are of other lengths, as in a run;
    buckets are a run's, divided by 32. XLA's own report of compilations is counted.

    Returns:
      programs of sampler and update in the end, and whatever XLA compiled after the
      first two iterations.
    """
    scale, T = 32, 6
    config = lm.tiny(64, width=16, depth=1, num_heads=2, num_kv_heads=1, head_dim=8)
    flags = Update(episodes=8, turns=T, chunk=8)
    update, state, _ = our_side(config, flags, scale)
    new = models.MAX_RESPONSE // scale
    generate = sampler(config, new)
    shapes = shapes_of(
        max_prompt=models.MAX_PROMPT,
        max_response=models.MAX_RESPONSE,
        episodes=flags.episodes,
        max_turns=T,
        slots=slots,
    )
    room = tuple(-(-p // scale) for p in shapes.prompts)
    rng = np.random.default_rng(0)
    compiled = [0]

    def heard(event: str, duration_secs: float, **_: str | int):
        compiled[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(heard)
    warm = 0
    for step in range(iterations):
        params = lm.unstack_layers(state.actor)
        key = jax.random.fold_in(jax.random.key(0), step)
        live = slots
        for turn in range(T):
            lengths, _ = models.log_lengths(rng, live, scale)
            respond(
                generate,
                params,
                [rng.integers(1, 64, n).astype(np.int32) for n in lengths],
                np.arange(live) * 4096 + turn,
                key,
                1.0,
                rows=shapes.slots,
                tokens=room,
            )
            live = max(1, live - int(rng.integers(0, 2 * slots // T)))
        batch = random_batch(rng, 64, flags.episodes, T, scale)
        state, *_ = update(state, batch)
        if step == 1:
            warm = compiled[0]
    jax.block_until_ready(state)
    return generate.programs() + update.programs(), compiled[0] - warm
