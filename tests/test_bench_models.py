"""The model benches compare equal things, and count what really happens."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hiper_jax import lm
from hiper_jax.credit import hiper
from hiper_jax.experiments.bench import batch as bench_batch
from hiper_jax.experiments.bench import (
    models,
    update_counts,
    update_own,
    update_sides,
)
from hiper_jax.experiments.bench import update as bench_update
from hiper_jax.experiments.config import Learn
from hiper_jax.networks.model import Model
from hiper_jax.networks.shapes import shapes_of
from hiper_jax.update import bins
from hiper_jax.update.state import Optimizers
from hiper_jax.update.step import compile_update, make_update

SMALL = lm.tiny(64, width=16, depth=1, num_heads=2, num_kv_heads=1, head_dim=8)


def test_lengths_are_those_of_the_published_runs():
    prompts, responses = models.log_lengths(np.random.default_rng(0), 4000)
    assert prompts.min() == 513 and prompts.max() <= 1681
    assert 700 < prompts.mean() < 790 and 36 <= responses.mean() <= 40
    share = (prompts + responses).mean() / (models.MAX_PROMPT + models.MAX_RESPONSE)
    assert 0.29 < share < 0.32


def test_tokens_fed_are_within_a_tenth_of_the_real_ones():
    """C8 with the published settings' chunk, and what coarse chunks would cost."""
    fine, coarse = (
        update_counts.fed_over_real(np.random.default_rng(1), Learn(chunk=chunk))
        for chunk in (8, 64)
    )
    assert 1.0 < fine <= 1.10 < coarse


def test_bins_of_two_lengths_feed_as_little_as_rows_of_nine():
    packed = Learn(chunk=8, pack=4)
    fed = update_counts.fed_over_real(np.random.default_rng(1), packed)
    assert 1.0 < fed <= 1.10


@pytest.mark.parametrize("pack", [1, 3])
def test_the_count_of_fed_tokens_is_the_updates(pack):
    """The numpy twin against the compiled update, which says what it is given."""
    batch = bench_batch.random_batch(np.random.default_rng(0), 64, B=4, T=5, scale=64)
    seen = []

    def score(params, tokens, start, targets, temperature, segment=None):
        jax.debug.callback(lambda t: seen.append(t.shape), tokens)
        x = params["w"] * jnp.ones(targets.shape)
        return x, x

    def values(params, tokens, start, R, segment=None):
        return params["w"] * jnp.ones((len(start), R, 3))

    asked = {"chunk": 3, "minibatch": 20, "pack": pack}
    settings = Learn(**asked, kl_coef=0.0, bootstrap="none")
    buckets, tx = (10, 15, 40), optax.sgd(0.0)
    model, estimator = Model(score, values), hiper.estimator(settings)
    init, update = make_update(model, estimator, Optimizers(tx, tx), settings, buckets)
    one = {"w": jnp.zeros(())}
    state = init(one, {"w": jnp.ones(())}, jnp.zeros(2, jnp.uint32))
    jax.block_until_ready(compile_update(update)(state, batch))
    jax.effects_barrier()
    assert {rows for rows, _ in seen} == {3}
    fed = sum(rows * length for rows, length in seen)
    if pack == 1:
        assert len(seen) == 7 and len({length for _, length in seen}) > 1
        assert fed == update_counts.fed(batch.length, 3, buckets)
    else:
        rooms = bins.rooms(40)
        assert fed == update_counts.fed_in_bins(batch.length, 3, rooms, pack)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_both_updates_are_the_same(monkeypatch):
    """Losses and gradient norms agree, or `compare` raises."""
    for module in (bench_batch, bench_update, update_sides):
        monkeypatch.setattr(module, "published", lambda scale: (64, 16, (40, 80)))
    torch = pytest.importorskip("torch", reason="install the extra `parity`")
    torch.set_num_threads(1)
    flags = bench_update.Update(episodes=3, turns=4, chunk=4, their_chunk=5, rounds=1)
    found = bench_update.compare(SMALL, flags, scale=32)
    assert found["rows"] == 12
    for ours, theirs in found["same"].values():
        assert abs(ours) > 1e-6 and np.isclose(ours, theirs, rtol=2e-3)


def test_the_update_is_compared_with_what_computes_the_same():
    """Reading all positions or those asked for, a pass's values or a sampler's."""
    asked = {"episodes": 2, "turns": 4, "chunk": 4, "rounds": 0}
    seconds, gaps = update_own.compare(SMALL, **asked, lengths=(288,))
    assert set(seconds) >= {"plain", "apart", "shared", "sampled"}
    assert all(gap < 1e-5 for gap in gaps.values()), gaps
    assert update_own.distance({"grad/actor": 2.0}, {"grad/actor": 1.0}) == 0.5


def test_short_rows_have_lengths_of_their_own_and_long_ones_those_of_kernels():
    def sizes(prompt, response, platform):
        made = shapes_of(
            max_prompt=prompt,
            max_response=response,
            episodes=64,
            max_turns=30,
            platform=platform,
        )
        return made.lengths, made.prompts

    short = sizes(256, 28, "cpu")
    assert short == ((104, 120, 136, 168, 288), (96, 128, 160, 256))
    assert sizes(2048, 512, "tpu")[0] == (
        *(640, 768, 896, 1024, 1152, 1408, 1792, 2560),
    )
    for platform, step in (("cpu", 16), ("gpu", 16), ("tpu", 128)):
        long = sizes(2048, 512, platform)
        assert long[0][-1] == 2560 and long[1][-1] == 2048 and len(long[1]) == 3
        assert all(size % step == 0 for size in (*long[0], *long[1]))
