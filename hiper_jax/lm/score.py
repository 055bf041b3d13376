"""Log-probabilities and entropies of given tokens, without whole rows of logits.

With z = logits / temperature, p = softmax(z), its entropy H and the target y:

    log p(y) = z(y) - logsumexp z           d log p(y) / dz = onehot(y) - p
    H        = - sum p log p                d H / dz        = - p (log p + H)

The gradient is written out, so that it holds one chunk of logits at a time, multiplies
matrices of the compute type only, and adds up the head's gradient in float32.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hiper_jax.lm.config import LMConfig
from hiper_jax.lm.head_chunks import from_chunks, into_chunks, plan_chunks
from hiper_jax.lm.params import Params
from hiper_jax.lm.qwen import Constrain, forward, leave, take

NEVER = -1e30  # the logit of an id without a token: its probability is exactly 0


def response_positions(
    prompt_lengths: Array, num_tokens: int | Array, length: int
) -> Array:
    """Where the states stand that response tokens are predicted and valued from.

    The state before response token j stands at position `prompt_length + j - 1`: the
    last prompt token for j = 0.

    Args:
      prompt_lengths: [N] int32, tokens of each prompt; at least 1.
      num_tokens: R, response tokens per row, padding included; or [N, K] int32, which
        of them.
      length: L, tokens of a row of prompt + response.

    Returns:
      [N, R] or [N, K] int32; slots past the end of the row repeat its last position.
    """
    chex.assert_rank(prompt_lengths, 1)
    which = jnp.arange(num_tokens)[None] if isinstance(num_tokens, int) else num_tokens
    at = prompt_lengths[:, None] - 1 + which
    return jnp.clip(at, 0, length - 1)


def response_hidden(hidden: Array, prompt_lengths: Array, num_tokens: int) -> Array:
    """Picks the states of `response_positions`: [N, R, D] of hidden [N, L, D]."""
    chex.assert_rank([hidden, prompt_lengths], [3, 1])
    chex.assert_equal_shape_prefix([hidden, prompt_lengths], 1)
    return take(hidden, response_positions(prompt_lengths, num_tokens, hidden.shape[1]))


def response_states(
    params: Params,
    config: LMConfig,
    tokens: Array,
    prompt_lengths: Array,
    num_tokens: int | Array,
    *,
    segment: Array | None = None,
    **options: Any,
) -> Array:
    """Reads rows and returns the states of `response_positions` alone.

    Args:
      params: weights.
      config: the shape of the model; static.
      tokens: [N, L] int32 prompt + response; of packed rows [W, L], N / W in each.
      prompt_lengths: [N] int32, tokens ahead of each response, of its bin if packed.
      num_tokens: R; or [N, K] int32, which of them.
      segment: [W, L] int32, see `qwen.forward`.
      **options: see `qwen.forward`.

    Returns:
      [N, R, D] or [N, K, D].
    """
    at = response_positions(prompt_lengths, num_tokens, tokens.shape[1])
    asked = at.reshape(len(tokens), -1)
    states = forward(params, config, tokens, segment=segment, at=asked, **options)
    return states.reshape(*at.shape, config.width)


@jax.named_scope("score")
def log_prob_and_entropy(
    params: Params,
    config: LMConfig,
    hidden: Array,
    targets: Array,
    *,
    temperature: float | Array = 1.0,
    chunk: int = 1024,
    known: Array | np.ndarray | None = None,
    constrain: Constrain | None = None,
) -> tuple[Array, Array]:
    """Scores tokens under softmax(logits / temperature), a chunk at a time.

    At most `chunk` rows of V logits exist at once, in the forward pass and in the
    gradient, which computes them a second time. A chunk without targets is skipped:
    rows [N, R] are cut by position, so that room behind short responses costs nothing.

    Args:
      params: weights.
      config: the shape of the model; static.
      hidden: [..., D] states before the tokens, see `response_hidden`.
      targets: [...] int32 tokens to score; below 0 on padding, which may score 0.
      temperature: above 0, of the sampling distribution; no gradient flows to it.
      chunk: states per chunk, over all devices.
      known: [V] bool, false where an id has no token: the distribution is over the
        others. None: all have one.
      constrain: places a chunk, see `qwen.forward`.

    Returns:
      [...] float32 log-probability of each target, nats; and [...] float32 entropy of
      the distribution it was drawn from, nats.
    """
    if hidden.shape[:-1] != targets.shape:
        raise ValueError(
            f"hidden {hidden.shape} and targets {targets.shape} must agree but for "
            "the last axis of hidden; pass one state per target."
        )
    chex.assert_axis_dimension(hidden, -1, config.width)
    chex.assert_type(targets, int)
    head = params["embed"] if config.tied else params["head"]
    cut = plan_chunks(targets.shape, chunk)
    scale = 1 / jnp.asarray(temperature, jnp.float32)
    chunks = into_chunks(hidden, cut, 0), into_chunks(targets, cut, -1)
    known = None if known is None else jnp.asarray(known)
    scores: Any = _score(constrain, head, *chunks, scale, known)
    return from_chunks(scores[0], cut), from_chunks(scores[1], cut)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _score(constrain, head: Array, hidden: Array, targets: Array, scale: Array, known):
    """`log_prob_and_entropy` of chunks.

    Args:
      constrain: as there.
      head: [V, D].
      hidden: [chunks, S, D].
      targets: [chunks, S] int32.
      scale: [] float32, 1 / temperature.
      known: [V] bool or None.

    Returns:
      log-probability and entropy, [chunks, S] each.
    """
    return _forward(constrain, head, hidden, targets, scale, known)[0]


def _forward(constrain, head, hidden, targets, scale, known):
    place = constrain or leave
    score = functools.partial(
        _score_chunk,
        place=place,
        head=place(head.astype(hidden.dtype), ("vocab", None)),
        hidden=hidden,
        targets=targets,
        scale=scale,
        known=known,
    )
    blank = (jnp.zeros(targets.shape, jnp.float32),) * 3
    *scores, normaliser = jax.lax.fori_loop(0, _filled(targets), score, blank)
    kept = (head, hidden, targets, scale, known, scores[1], normaliser)
    return tuple(scores), kept


def _score_chunk(i, out, *, place, head, hidden, targets, scale, known):
    """Puts log-probs, entropies and normalisers of chunk i into `out`."""
    z = _logits(place, head, hidden[i], scale, known)
    normaliser = jax.nn.logsumexp(z, axis=-1)
    log_p = z - normaliser[..., None]
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
    return _put(out, i, (pick(log_p, targets[i]), entropy, normaliser))


@jax.named_scope("score")
def _backward(constrain, kept, gradients):
    place = constrain or leave
    head, hidden, targets, scale, known, entropy, normaliser = kept
    add = functools.partial(
        _add_chunk,
        place=place,
        head=place(head.astype(hidden.dtype), ("vocab", None)),
        hidden=hidden,
        targets=targets,
        scale=scale,
        known=known,
        given=(*gradients, entropy, normaliser),
    )
    blank = jnp.zeros(head.shape, jnp.float32), jnp.zeros_like(hidden)
    by_head, by_hidden = jax.lax.fori_loop(0, _filled(targets), add, blank)
    return by_head.astype(head.dtype), by_hidden, None, None, None


def _add_chunk(i, sums, *, place, head, hidden, targets, scale, known, given):
    """Adds chunk i to the gradients by the head [V, D] and by its own states.

    Args:
      i: [] int32.
      sums: [V, D] float32, and [chunks, S, D].
      place, head, hidden, targets, scale, known: as in `_score`.
      given: gradients by log-prob and by entropy, the entropy, the normaliser,
        [chunks, S] each.
    """
    by_head, by_hidden = sums
    by_log_prob, by_entropy, h, log_z = (x[i][..., None] for x in given)
    log_p = _logits(place, head, hidden[i], scale, known) - log_z
    by_z = jnp.where(_is(log_p, targets[i]), by_log_prob, 0.0)
    by_z -= jnp.exp(log_p) * (by_log_prob + by_entropy * (log_p + h))
    by_z = place((by_z * scale).astype(hidden.dtype), ("rows", "vocab"))
    back = jnp.einsum(
        "sv,vd->sd", by_z, head, preferred_element_type=jnp.float32
    ).astype(hidden.dtype)
    more = jnp.einsum("sv,sd->vd", by_z, hidden[i], preferred_element_type=jnp.float32)
    by_head += place(more, ("vocab", None))
    return by_head, _put(by_hidden, i, place(back, ("rows", None)))


_score.defvjp(_forward, _backward)


def _logits(place, head: Array, hidden: Array, scale: Array, known) -> Array:
    """Returns [S, V] float32 logits / temperature of [S, D] states."""
    logits = jnp.einsum(
        "sd,vd->sv",
        place(hidden, ("rows", None)),
        head,
        preferred_element_type=jnp.float32,
    )
    logits = logits * scale
    if known is not None:
        # Finite: 0 times it, in the entropy and in the gradient, is 0.
        logits = jnp.where(known[None], logits, NEVER)
    return place(logits, ("rows", "vocab"))


def _filled(targets: Array) -> Array:
    """Returns [] int32: chunks up to the last that holds a target."""
    some = jnp.any(targets >= 0, axis=1)
    return jnp.max(jnp.where(some, 1 + jnp.arange(len(targets)), 0))


def _put(arrays: Any, i: Array, slices: Any) -> Any:
    return jax.tree.map(lambda a, s: a.at[i].set(s), arrays, slices)


def _is(x: Array, targets: Array) -> Array:
    """[..., V] bool, true at the entry of x [..., V] that each target names."""
    ids = jax.lax.broadcasted_iota(targets.dtype, x.shape, x.ndim - 1)
    return ids == targets[..., None]


def pick(log_prob: Array, targets: Array) -> Array:
    """Returns [...] the entry of log_prob [..., V] that each target names.

    A masked sum, not a gather: its gradient is a select, and over a sharded V each
    device reads its own part.
    """
    return jnp.sum(jnp.where(_is(log_prob, targets), log_prob, 0.0), axis=-1)
