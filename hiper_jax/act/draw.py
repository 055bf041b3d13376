"""Logits -> a token per row, and what it was drawn with. S rows, V vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

NEVER = -1e30  # the logit of an id without a token: its probability is exactly 0


@jax.named_scope("draw")
def draw(
    logits: Array,
    step: Array,
    keys: Array,
    temperature: Array,
    known: Array | np.ndarray | None = None,
) -> tuple[Array, Array]:
    """Draws a token per row.

    Args:
      logits: [S, V] float32.
      step: [] int32, place in the response.
      keys: [S] one key per row.
      temperature: [] float32; 0 takes the likeliest token.
      known: [V] bool, false where an id has no token and is never drawn; None: all
        have one.

    Returns:
      [S] int32 tokens, and [S] float32 log-probability of each under the distribution
      it was drawn from (under temperature 1 where the temperature is 0), nats.
    """
    if known is not None:
        logits = jnp.where(known[None], logits, NEVER)
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    token = jax.lax.cond(temperature > 0, at_random, likeliest, scaled, step, keys)
    if known is not None:
        # Sums of a CDF may round up behind its last outcome.
        token = jnp.where(
            jnp.asarray(known)[token], token, likeliest(scaled, step, keys)
        )
    chosen = jnp.take_along_axis(scaled, token[:, None], axis=1)[:, 0]
    return token, chosen - jax.nn.logsumexp(scaled, axis=-1)


def at_random(scaled: Array, step: Array, keys: Array) -> Array:
    """[S] int32 drawn from softmax of scaled [S, V]; arguments as `draw`."""
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    uniform = jax.vmap(jax.random.uniform)(step_keys)
    return inverse_cdf(jax.nn.softmax(scaled, axis=-1), uniform)


def likeliest(scaled: Array, step: Array, keys: Array) -> Array:
    """[S] int32 largest of scaled [S, V]."""
    del step, keys
    return jnp.argmax(scaled, axis=-1).astype(jnp.int32)


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
