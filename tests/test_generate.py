"""Sampling: equal to the trainer's forward pass, and independent of company."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiper_jax.act.buckets import bucket, pad_prompts
from hiper_jax.act.draw import inverse_cdf
from hiper_jax.act.generate import make_generate, respond
from hiper_jax.lm import qwen, score
from hiper_jax.lm import qwen_cache as cache
from hiper_jax.lm.config import tiny
from hiper_jax.lm.layers import unstack_layers

CONFIG = tiny(
    67, width=32, depth=3, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48
)
MAX_NEW = 7


def _prefill(params, tokens, lengths, room):
    return cache.prefill(params, CONFIG, tokens, lengths, room)


def _decode(params, token, state):
    return cache.decode_step(params, CONFIG, token, state)


@pytest.fixture(scope="module")
def params():
    params = jax.jit(qwen.init, static_argnums=0)(CONFIG, jax.random.key(0))
    # Larger embeddings: a distribution far from uniform.
    return params | {"embed": params["embed"] * 20}


@pytest.fixture(scope="module")
def generate():
    return make_generate(_prefill, _decode, max_new=MAX_NEW, eos_id=(5, 9), pad_id=3)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    lengths = (13, 1, 7, 16, 4, 9)
    return [rng.integers(0, 67, n).astype(np.int32) for n in lengths]


def _score(params, prompts, tokens, temperature):
    width = max(map(len, prompts)) + MAX_NEW
    rows = np.zeros((len(prompts), width), np.int32)
    for row, prompt, response in zip(rows, prompts, tokens, strict=True):
        row[: len(prompt)] = prompt
        row[len(prompt) : len(prompt) + MAX_NEW] = response
    lengths = np.array([len(p) for p in prompts], np.int32)
    hidden = qwen.forward(params, CONFIG, jnp.asarray(rows))
    hidden = score.response_hidden(hidden, lengths, MAX_NEW)
    return score.log_prob_and_entropy(
        params, CONFIG, hidden, jnp.asarray(tokens), temperature=temperature
    )[0]


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_sampled_log_prob_is_the_trainers(params, generate, prompts, temperature):
    tokens, lengths = pad_prompts(prompts, rows=[8], tokens=[16])
    new, log_prob, count = jax.device_get(
        generate(params, tokens, lengths, jax.random.key(1), temperature)
    )
    expected = _score(params, prompts, new[:6], temperature)
    live = np.arange(MAX_NEW)[None] < count[:6, None]
    gap = np.abs(np.where(live, expected - log_prob[:6], 0.0))
    assert live.sum() > 20
    assert gap.max() < 1e-4
    assert gap.sum() / live.sum() < 1e-5
    assert (log_prob[:6][~live] == 0).all() and (count[6:] == 0).all()


def test_response_ends_at_the_first_end_token(params, generate, prompts):
    tokens, lengths = pad_prompts(prompts, rows=[8], tokens=[16])
    ended = 0
    for seed in range(5):
        new, _, count = jax.device_get(
            generate(params, tokens, lengths, jax.random.key(seed), 2.0)
        )
        for row, n in zip(new[:6], count[:6], strict=True):
            is_end = np.isin(row[:n], (5, 9))
            assert not is_end[:-1].any() and (row[n:] == 3).all()
            assert is_end[-1] or n == MAX_NEW
            ended += is_end[-1]
    assert ended > 0


def test_row_does_not_depend_on_company_or_bucket(params, generate, prompts):
    tokens, lengths = pad_prompts(prompts, rows=[8], tokens=[16])
    ids = np.array([10, 11, 12, 13, 14, 15, 0, 0], np.int32)
    key = jax.random.key(2)
    all_new, all_log_prob, all_count = generate(params, tokens, lengths, key, 1.0, ids)
    some = [prompts[4], prompts[1]]
    tokens, lengths = pad_prompts(some, rows=[2], tokens=[24])
    new, log_prob, count = generate(
        params, tokens, lengths, key, 1.0, np.array([14, 11], np.int32)
    )
    rows = np.array([4, 1])
    np.testing.assert_array_equal(new, np.asarray(all_new)[rows])
    np.testing.assert_array_equal(count, np.asarray(all_count)[rows])
    np.testing.assert_allclose(log_prob, np.asarray(all_log_prob)[rows], atol=1e-5)


def test_greedy_takes_the_likeliest_token(params, generate, prompts):
    tokens, lengths = pad_prompts(prompts, rows=[8], tokens=[16])
    new, _, count = generate(params, tokens, lengths, jax.random.key(3), 0.0)
    prompt = prompts[2]
    row = np.concatenate([prompt, np.asarray(new[2])])[None]
    hidden = qwen.forward(params, CONFIG, jnp.asarray(row))
    best = np.asarray(qwen.logits(params, CONFIG, hidden))[0].argmax(-1)
    n = int(count[2])
    np.testing.assert_array_equal(
        best[len(prompt) - 1 : len(prompt) - 1 + n], np.asarray(new[2][:n])
    )


def test_samples_follow_the_distribution(params, prompts):
    generate = make_generate(_prefill, _decode, max_new=1, eos_id=-1)
    draws = 4096
    tokens, lengths = pad_prompts([prompts[0]] * draws, rows=[draws], tokens=[16])
    new, log_prob, _ = generate(params, tokens, lengths, jax.random.key(4), 1.0)
    hidden = qwen.forward(params, CONFIG, jnp.asarray(prompts[0])[None])[0, -1]
    prob = np.asarray(jax.nn.softmax(qwen.logits(params, CONFIG, hidden)))
    seen = np.bincount(np.asarray(new)[:, 0], minlength=67) / draws
    noise = np.sqrt(prob * (1 - prob) / draws)
    assert (np.abs(seen - prob) < 5 * noise + 1e-3).all()
    assert prob.max() > 0.1


def test_loop_stops_when_every_row_has_ended():
    def prefill(params, tokens, lengths, room):
        del params, lengths, room
        return jnp.zeros((tokens.shape[0], 4)).at[:, 1].set(50.0), jnp.int32(0)

    def decode(params, token, steps):
        del params
        # The second response token is the end; any later step would be the third.
        end = jnp.where(steps == 0, 2, 3)
        return jax.nn.one_hot(jnp.full(token.shape, end), 4) * 50.0, steps + 1

    generate = make_generate(prefill, decode, max_new=100, eos_id=2)
    tokens, _, count = generate(
        {}, np.ones((3, 2), np.int32), np.array([2, 0, 1]), jax.random.key(0), 0.0
    )
    np.testing.assert_array_equal(count, [2, 0, 2])
    np.testing.assert_array_equal(tokens[:, :3], [[1, 2, 0], [0, 0, 0], [1, 2, 0]])


def test_inverse_cdf_counts_the_outcomes():
    """Evenly spaced uniforms hit each outcome in proportion to its probability."""
    rng = np.random.default_rng(1)
    prob = rng.random(10).astype(np.float32)
    prob[[0, 3, 9]] = 0.0
    prob /= prob.sum()
    grid = (np.arange(10_000, dtype=np.float32) + 0.5) / 10_000
    for block in (3, 10, 512):
        token = inverse_cdf(np.tile(prob, (10_000, 1)), grid, block=block)
        seen = np.bincount(np.asarray(token), minlength=10) / 10_000
        np.testing.assert_allclose(seen, prob, atol=2e-4)
        assert (seen[[0, 3, 9]] == 0).all()
    ends = inverse_cdf(np.tile(prob, (2, 1)), np.array([0, 1 - 2**-24], np.float32))
    np.testing.assert_array_equal(ends, [1, 8])


def test_groups_answer_every_prompt_in_its_place(params, generate, prompts):
    key = jax.random.key(7)
    ids = [20, 21, 22, 23, 24, 25]
    tokens, lengths = pad_prompts(prompts, rows=[6], tokens=[16])
    new, log_prob, count = jax.device_get(
        generate(params, tokens, lengths, key, 1.0, np.array(ids, np.int32))
    )
    answers = respond(generate, params, prompts, ids, key, rows=[1, 4], tokens=[8, 16])
    for row, (answer, score_) in enumerate(answers):
        np.testing.assert_array_equal(answer, new[row, : count[row]])
        np.testing.assert_allclose(score_, log_prob[row, : count[row]], atol=1e-5)


def test_serving_form_samples_the_same(params, generate, prompts):
    tokens, lengths = pad_prompts(prompts, rows=[8], tokens=[16])
    key = jax.random.key(8)
    stacked = generate(params, tokens, lengths, key, 1.0)
    apart = generate(unstack_layers(params), tokens, lengths, key, 1.0)
    np.testing.assert_array_equal(stacked[0], apart[0])
    np.testing.assert_allclose(stacked[1], apart[1], atol=1e-5)


def test_a_single_layer_is_read_in_either_form():
    config = dataclasses.replace(CONFIG, depth=1)
    params = jax.jit(qwen.init, static_argnums=0)(config, jax.random.key(0))
    tokens, lengths = np.arange(10, dtype=np.int32).reshape(2, 5), np.array([5, 3])
    read = jax.jit(lambda params: cache.prefill(params, config, tokens, lengths, 2)[0])
    last = jax.jit(qwen.forward, static_argnums=1)(params, config, tokens)
    expected = qwen.logits(params, config, last[np.arange(2), lengths - 1])
    np.testing.assert_allclose(read(params), expected, atol=1e-5)
    np.testing.assert_allclose(read(unstack_layers(params)), expected, atol=1e-5)


def test_wrong_ranks_and_types_are_refused(params):
    tokens, lengths = jnp.zeros((2, 5), jnp.int32), jnp.array([5, 3])
    for bad in ((tokens[0], lengths), (tokens, lengths[:1]), (tokens * 1.0, lengths)):
        with pytest.raises(AssertionError, match="Assertion assert_"):
            cache.prefill(params, CONFIG, *bad, 2)
    _, state = jax.eval_shape(
        lambda *a: cache.prefill(params, CONFIG, *a, 2), tokens, lengths
    )
    for bad in (tokens, jnp.zeros(3, jnp.int32), jnp.zeros(2)):
        with pytest.raises(AssertionError, match="Assertion assert_"):
            jax.eval_shape(lambda *a: cache.decode_step(params, CONFIG, *a), bad, state)


def test_one_program_per_shape(params, prompts):
    """Prefill and decode step are traced once each, whatever is asked of the shape."""
    chex.clear_trace_counter()
    once = chex.assert_max_traces(n=1)
    generate = make_generate(
        once(_prefill), once(_decode), max_new=MAX_NEW, eos_id=(5, 9), pad_id=3
    )
    tokens, lengths = pad_prompts(prompts, rows=[8], tokens=[16])
    generate(params, tokens, lengths, jax.random.key(5), 1.0)
    before = generate.programs()
    for temperature in (0.0, 0.4, 1):
        generate(params, tokens, lengths, jax.random.key(6), temperature)
    assert generate.programs() == before == 1
    with pytest.raises(AssertionError, match="traced > 1 times"):
        generate(params, tokens[:4], lengths[:4], jax.random.key(6), 1.0)


def test_bucket_and_padding():
    assert bucket(3, [2, 4, 8]) == 4 and bucket(8, [2, 4, 8]) == 8
    with pytest.raises(ValueError, match="larger bucket"):
        bucket(9, [2, 4, 8])
    tokens, lengths = pad_prompts(
        [np.array([7, 8], np.int32)], rows=[2], tokens=[3], pad_id=1
    )
    np.testing.assert_array_equal(tokens, [[7, 8, 1], [1, 1, 1]])
    np.testing.assert_array_equal(lengths, [2, 0])
