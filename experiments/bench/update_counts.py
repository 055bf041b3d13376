"""Two counts of the update: tokens fed over real ones, and programs of a whole run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hiper_jax import lm
from hiper_jax.act.generate import respond
from hiper_jax.experiments.bench import models
from hiper_jax.experiments.bench.batch import published, random_batch
from hiper_jax.experiments.bench.generate import sampler
from hiper_jax.experiments.bench.update_sides import our_side
from hiper_jax.experiments.config import Learn
from hiper_jax.networks.shapes import shapes_of
from hiper_jax.update import bins


def fed_over_real(
    rng: np.random.Generator, settings: Learn, turns: int = 3200
) -> float:
    """C8: tokens that gradients are taken over, by real ones, at published lengths.

    Of rows alone, or in bins where the settings pack them.
    """
    prompts, responses = models.log_lengths(rng, turns)
    lengths, buckets = prompts + responses, published(1)[2]
    M = -(-min(settings.minibatch, turns) // settings.chunk) * settings.chunk
    count = -(-turns // M)
    order = rng.permutation(turns)
    parts = [lengths[order[i::count]] for i in range(count)]
    C, K = settings.chunk, settings.pack
    if K == 1:
        each = [fed(part, C, buckets) for part in parts]
    else:
        each = [fed_in_bins(part, C, bins.rooms(buckets[-1]), K) for part in parts]
    return sum(each) / lengths.sum()


def fed(lengths: np.ndarray, C: int, buckets: tuple[int, ...]) -> int:
    """Tokens that `update` is fed for one minibatch, its twin in numpy.

    Rows are sorted by length and cut into chunks of C, each of the smallest bucket
    that holds it; the chunk of the shortest rows is filled up.
    """
    chunks = np.pad(np.sort(lengths), (-len(lengths) % C, 0)).reshape(-1, C)
    return _cut(chunks.max(axis=1), C, buckets)


def fed_in_bins(lengths: np.ndarray, C: int, rooms: tuple[int, ...], K: int) -> int:
    """`fed` of rows that lie in bins, K in one at most, as the update lays them."""
    rows = jnp.arange(len(lengths))
    laid, count = bins.pack(jnp.asarray(lengths), rows, rows >= 0, rooms, K, C)
    fullest = np.asarray(laid.filled).reshape(-1, C).max(axis=1)[: int(count)]
    return _cut(fullest, C, rooms)


def _cut(longest: np.ndarray, C: int, lengths: tuple[int, ...]) -> int:
    """Tokens of chunks of C rows, each of the smallest length that holds them."""
    sizes = np.array(lengths)
    return int(C * sizes[np.searchsorted(sizes, longest)].sum())


def count_programs(iterations: int, slots: int = 32) -> tuple[int, int]:
    """C9: iterations of rollout and update on a tiny model with published lengths.

    Turn by turn, fewer slots are live and prompts are of other lengths, as in a run;
    buckets are a run's, divided by 32. XLA's own report of compilations is counted.

    Returns:
      programs of sampler and update in the end, and whatever XLA compiled after the
      first two iterations.
    """
    scale, B, T = 32, 8, 6
    config = lm.tiny(64, width=16, depth=1, num_heads=2, num_kv_heads=1, head_dim=8)
    update, state, _ = our_side(config, episodes=B, turns=T, chunk=8, scale=scale)
    new = models.MAX_RESPONSE // scale
    generate = sampler(config, new)
    shapes = shapes_of(
        max_prompt=models.MAX_PROMPT,
        max_response=models.MAX_RESPONSE,
        episodes=B,
        max_turns=T,
        slots=slots,
    )
    room = tuple(-(-p // scale) for p in shapes.prompts)
    rng = np.random.default_rng(0)
    compiled: list[str] = []
    heard = functools.partial(_note_compilation, compiled)
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
        batch = random_batch(rng, 64, B, T, scale)
        state, *_ = update(state, batch)
        if step == 1:
            warm = len(compiled)
    jax.block_until_ready(state)
    jax.monitoring.unregister_event_duration_listener(heard)
    return generate.programs() + update.programs(), len(compiled) - warm


def _note_compilation(
    compiled: list[str], event: str, duration_secs: float, **said: str | int
) -> None:
    del duration_secs, said
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(event)
