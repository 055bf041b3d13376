"""Tokens to tokens: sampling with a cache, the model given as functions.

S rows, P prompt tokens, R new tokens at most, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Generate = Callable[..., tuple[Array, Array, Array]]


def bucket(size: int, buckets: Sequence[int]) -> int:
    """Returns the smallest of the ascending `buckets` that holds `size`.

    Raises:
      ValueError: if none does.
    """
    for limit in buckets:
        if size <= limit:
            return limit
    raise ValueError(
        f"{size} is more than the largest bucket, {buckets[-1]}; add a larger bucket "
        "or shorten the prompts."
    )


def pad_prompts(
    prompts: Sequence[np.ndarray],
    *,
    rows: Sequence[int],
    tokens: Sequence[int],
    pad_id: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Lays ragged prompts into an array whose shape is one of few.

    Args:
      prompts: arrays [P_i] int32 of token ids, one per live row.
      rows: ascending row counts that may be compiled for.
      tokens: ascending prompt lengths that may be compiled for.
      pad_id: what fills the right of a prompt, and unused rows.

    Returns:
      [S, P] int32 and [S] int32 lengths, 0 on unused rows.
    """
    num_rows = bucket(len(prompts), rows)
    width = bucket(max(map(len, prompts), default=0), tokens)
    padded = np.full((num_rows, width), pad_id, np.int32)
    lengths = np.zeros((num_rows,), np.int32)
    for i, prompt in enumerate(prompts):
        padded[i, : len(prompt)] = prompt
        lengths[i] = len(prompt)
    return padded, lengths


def inverse_cdf(prob: Array, uniform: Array, *, block: int = 512) -> Array:
    """Draws by inversion, one uniform number per row: first a block, then a token.

        token = min { v : sum of prob up to and with v > uniform * total }

    One number per row costs far less than the V of a Gumbel maximum, and sums over
    blocks keep float32 exact enough at any V. An outcome of probability 0 is never
    drawn; below 2^-23, the grain of the uniform, outcomes are rounded.

    Args:
      prob: [S, V] float32, not negative; need not sum to one.
      uniform: [S] float32 in [0, 1).
      block: outcomes per block.

    Returns:
      [S] int32 in [0, V).
    """
    rows, size = prob.shape
    count = -(-size // block)
    blocks = jnp.pad(prob, ((0, 0), (0, count * block - size)))
    blocks = blocks.reshape(rows, count, block)
    ends = jnp.cumsum(blocks.sum(axis=-1), axis=-1)
    aim = uniform * ends[:, -1]
    which = jnp.minimum((ends <= aim[:, None]).sum(axis=-1), count - 1)
    inside = jnp.take_along_axis(blocks, which[:, None, None], axis=1)[:, 0]
    before = jnp.take_along_axis(
        jnp.pad(ends, ((0, 0), (1, 0))), which[:, None], axis=1
    )
    steps = jnp.cumsum(inside, axis=-1)
    # The block's own total bounds the aim: rounding must not step off its end.
    aim = jnp.minimum(aim[:, None] - before, steps[:, -1:] * (1 - 2**-23))
    place = (steps <= aim).sum(axis=-1)
    return jnp.minimum(which * block + place, size - 1).astype(jnp.int32)


def make_generate(
    prefill: Callable[..., tuple[Array, Any]],
    decode_step: Callable[..., tuple[Array, Any]],
    *,
    max_new: int,
    eos_id: int | Sequence[int],
    pad_id: int = 0,
) -> Generate:
    """Builds the compiled sampler; one program per shape (S, P).

    Args:
      prefill: (params, tokens [S, P], lengths [S], room) -> (logits [S, V], cache).
      decode_step: (params, token [S], cache) -> (logits [S, V], cache).
      max_new: R, tokens per response at most, the end token included.
      eos_id: the token, or tokens, that end a response.
      pad_id: what fills a response after its end.

    Returns:
      generate(params, prompts, lengths, key, temperature, row_ids=None), see `sample`
      in its body for the shapes.
    """
    stops = np.atleast_1d(np.asarray(eos_id, np.int32))

    def sample(params, prompts, lengths, key, temperature, row_ids):
        """Samples a response per row.

        Args:
          params: what `prefill` and `decode_step` read.
          prompts: [S, P] int32, padded on the right.
          lengths: [S] int32; 0 marks a row not in use, which returns nothing.
          key: one key for the call.
          temperature: [] float32; 0 takes the likeliest token.
          row_ids: [S] int32 names of the rows. A row's randomness comes from key, its
            id and the place in the response only.

        Returns:
          [S, R] int32 tokens, the end token included, then `pad_id`; [S, R] float32
          log-probability of each under the distribution it was drawn from (under
          temperature 1 where the temperature is 0), nats, 0 after the end; [S] int32
          tokens per response.
        """
        rows = prompts.shape[0]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, row_ids)

        def draw(logits, step):
            scaled = logits / jnp.where(temperature > 0, temperature, 1.0)

            def at_random(scaled):
                step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
                uniform = jax.vmap(jax.random.uniform)(step_keys)
                return inverse_cdf(jax.nn.softmax(scaled, axis=-1), uniform)

            def likeliest(scaled):
                return jnp.argmax(scaled, axis=-1).astype(jnp.int32)

            token = jax.lax.cond(temperature > 0, at_random, likeliest, scaled)
            chosen = jnp.take_along_axis(scaled, token[:, None], axis=1)[:, 0]
            return token, chosen - jax.nn.logsumexp(scaled, axis=-1)

        def record(state, logits):
            step, done, count, tokens, log_prob, _ = state
            token, score = draw(logits, step)
            token = jnp.where(done, pad_id, token)
            score = jnp.where(done, 0.0, score)
            tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, step, 0)
            log_prob = jax.lax.dynamic_update_index_in_dim(log_prob, score, step, 0)
            count = count + ~done
            done = done | (token[:, None] == stops[None]).any(axis=1)
            return step + 1, done, count, tokens, log_prob, token

        def going(carry):
            (step, done, *_), _ = carry
            return (step < max_new) & ~done.all()

        def advance(carry):
            state, cache = carry
            logits, cache = decode_step(params, state[-1], cache)
            return record(state, logits), cache

        logits, cache = prefill(params, prompts, lengths, max_new)
        state = (
            jnp.int32(0),
            lengths == 0,
            jnp.zeros((rows,), jnp.int32),
            jnp.full((max_new, rows), pad_id, jnp.int32),
            jnp.zeros((max_new, rows), jnp.float32),
            jnp.zeros((rows,), jnp.int32),
        )
        state = record(state, logits)
        state, _ = jax.lax.while_loop(going, advance, (state, cache))
        _, _, count, tokens, log_prob, _ = state
        return tokens.T, log_prob.T, count

    compiled = jax.jit(sample)

    def generate(params, prompts, lengths, key, temperature=1.0, row_ids=None):
        if row_ids is None:
            row_ids = np.arange(len(lengths), dtype=np.int32)
        temperature = np.float32(temperature)
        return compiled(params, prompts, lengths, key, temperature, row_ids)

    generate.programs = compiled._cache_size
    generate.lower = compiled.lower
    return generate


def respond(
    generate: Generate,
    params: Any,
    prompts: Sequence[np.ndarray],
    row_ids: Sequence[int],
    key: Array,
    temperature: float = 1.0,
    *,
    rows: Sequence[int],
    tokens: Sequence[int],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Samples one response per ragged prompt, in groups of like length.

    Prompts are sorted by length and cut into groups of `rows[-1]`, so that a long
    prompt pads few others. On a CPU groups of 16 stay in its cache and are fastest.

    Args:
      generate: from `make_generate`.
      params: the weights.
      prompts: arrays [P_i] int32 of token ids.
      row_ids: [len(prompts)] names of the rows; see `make_generate`.
      key: one key for the call.
      temperature: 0 takes the likeliest token.
      rows: ascending row counts that may be compiled for.
      tokens: ascending prompt lengths that may be compiled for.

    Returns:
      for each prompt, [R_i] int32 tokens with the end token, and [R_i] float32
      log-probabilities, nats.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    running = []
    for start in range(0, len(order), rows[-1]):
        group = order[start : start + rows[-1]]
        padded, lengths = pad_prompts(
            [prompts[i] for i in group], rows=rows, tokens=tokens
        )
        ids = np.zeros((len(lengths),), np.int32)
        ids[: len(group)] = [row_ids[i] for i in group]
        running.append(
            (group, generate(params, padded, lengths, key, temperature, ids))
        )
    responses: list[Any] = [None] * len(prompts)
    for group, result in running:
        new, log_prob, count = jax.device_get(result)
        for row, i in enumerate(group):
            size = count[row]
            responses[i] = (new[row, :size], log_prob[row, :size])
    return responses
