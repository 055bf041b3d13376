"""Tokens to tokens: sampling with a cache, the model given as functions.

S rows, P prompt tokens, R new tokens at most, V vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hiper_jax._programs import CountedJit
from hiper_jax.act.buckets import pad_prompts
from hiper_jax.act.draw import draw


class Sampling(NamedTuple):
    """Where a generation stands; S rows, R new tokens at most."""

    step: Array  # [] int32, tokens drawn per row
    done: Array  # [S] bool, the response has ended
    count: Array  # [S] int32, tokens of each response
    tokens: Array  # [R, S] int32
    log_prob: Array  # [R, S] float32, nats
    last: Array  # [S] int32, the tokens drawn last
    # [R, S, H] float32, values before each token; None where the model says none.
    values: Array | None = None


def record(
    state: Sampling,
    read: Any,
    *,
    keys: Array,
    temperature: Array,
    stops: np.ndarray,
    pad_id: int,
    known: np.ndarray | None = None,
) -> Sampling:
    """Draws from what the model read and notes what was drawn; arguments as `sample`.

    Args:
      state: where it stands.
      read: logits [S, V], or these and values [S, H].
    """
    step, done, count, tokens, log_prob, _, values = state
    logits, said = read if isinstance(read, tuple) else (read, None)
    token, score = draw(logits, step, keys, temperature, known)
    token = jnp.where(done, pad_id, token)
    score = jnp.where(done, 0.0, score)
    tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, step, 0)
    log_prob = jax.lax.dynamic_update_index_in_dim(log_prob, score, step, 0)
    if values is not None:
        values = jax.lax.dynamic_update_index_in_dim(values, said, step, 0)
    count = count + ~done
    done = done | (token[:, None] == stops[None]).any(axis=1)
    return Sampling(step + 1, done, count, tokens, log_prob, token, values)


def sample(
    params: Any,
    prompts: Array,
    lengths: Array,
    key: Array,
    temperature: Array,
    row_ids: Array,
    *,
    prefill: Callable[..., tuple[Any, Any]],
    decode_step: Callable[..., tuple[Any, Any]],
    max_new: int,
    stops: np.ndarray,
    pad_id: int,
    known: np.ndarray | None = None,
    narrow: Sequence[int] = (),
    take_rows: Callable[[Any, Array], Any] | None = None,
) -> tuple[Array, ...]:
    """Samples a response per row.

    Once no more rows go on than the next of `narrow` has, these alone are carried on
    with, in a loop of that many rows: a long response does not keep the others' rows.

    Args:
      params: what `prefill` and `decode_step` read.
      prompts: [S, P] int32, padded on the right.
      lengths: [S] int32; 0 marks a row not in use, which returns nothing.
      key: one key for the call.
      temperature: [] float32; 0 takes the likeliest token.
      row_ids: [S] int32 names of the rows. A row's randomness comes from key, its id
        and the place in the response only.
      prefill, decode_step, max_new, pad_id, narrow, take_rows: see `make_generate`.
      stops: [any] int32 tokens that end a response.
      known: see `draw`.

    Returns:
      [S, R] int32 tokens, the end token included, then `pad_id`; [S, R] float32
      log-probability of each, see `draw`, 0 after the end; [S] int32 tokens per
      response; and, from a model that says values, [S, R, H] float32 of them, each read
      before its token.
    """
    rows = prompts.shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, row_ids)
    note = functools.partial(
        record,
        temperature=temperature,
        stops=stops,
        pad_id=pad_id,
        known=known,
    )
    read, cache = prefill(params, prompts, lengths, max_new)
    begun = Sampling(
        step=jnp.int32(0),
        done=lengths == 0,
        count=jnp.zeros((rows,), jnp.int32),
        tokens=jnp.full((max_new, rows), pad_id, jnp.int32),
        log_prob=jnp.zeros((max_new, rows), jnp.float32),
        last=jnp.zeros((rows,), jnp.int32),
        values=jnp.zeros((max_new, *read[1].shape), jnp.float32)
        if isinstance(read, tuple)
        else None,
    )
    state = note(begun, read, keys=keys)
    found, place = state, None  # which rows of all those are that go on; None: all
    for fewer in (*sorted((n for n in narrow if n < rows), reverse=True), 0):
        state, cache = jax.lax.while_loop(
            functools.partial(_goes_on, max_new, fewer),
            functools.partial(
                _advance, params, decode_step, functools.partial(note, keys=keys)
            ),
            (state, cache),
        )
        found = state if place is None else _put(found, state, place)
        if fewer:
            assert take_rows is not None  # see `make_generate`
            kept = jnp.argsort(state.done)[:fewer]  # those that go on come first
            state, cache = _rows_of(state, kept), take_rows(cache, kept)
            keys, place = keys[kept], kept if place is None else place[kept]
    said = () if found.values is None else (found.values.swapaxes(0, 1),)
    return found.tokens.T, found.log_prob.T, found.count, *said


def _goes_on(max_new: int, fewer: int, carry: tuple[Sampling, Any]) -> Array:
    state, _ = carry
    return (state.step < max_new) & ((~state.done).sum() > fewer)


def _rows_of(state: Sampling, rows: Array) -> Sampling:
    """Some rows of where a generation stands."""
    return state._replace(
        done=state.done[rows],
        count=state.count[rows],
        tokens=state.tokens[:, rows],
        log_prob=state.log_prob[:, rows],
        last=state.last[rows],
        values=None if state.values is None else state.values[:, rows],
    )


def _put(whole: Sampling, state: Sampling, place: Array) -> Sampling:
    """What was drawn for all rows, with those at `place` as they stand now."""
    changes = {"count": whole.count.at[place].set(state.count)}
    for name in ("tokens", "log_prob", "values"):
        now = getattr(state, name)
        if now is not None:
            changes[name] = getattr(whole, name).at[:, place].set(now)
    return whole._replace(**changes)


def _advance(params, decode_step, note, carry: tuple[Sampling, Any]):
    state, cache = carry
    read, cache = decode_step(params, state.last, cache)
    return note(state, read), cache


class Generate:
    """`sample`, compiled: one program per shape (S, P); see `make_generate`."""

    def __init__(self, function: Callable[..., tuple[Array, ...]], **options: Any):
        self._sample = CountedJit(function, **options)

    def __call__(
        self,
        params: Any,
        prompts: Any,
        lengths: Any,
        key: Array,
        temperature: float = 1.0,
        row_ids: Any = None,
    ) -> tuple[Array, ...]:
        """See `sample`; rows are named by their place where they have no names."""
        if row_ids is None:
            row_ids = np.arange(len(lengths), dtype=np.int32)
        heat = np.float32(temperature)
        return self._sample(params, prompts, lengths, key, heat, row_ids)

    def lower(self, *args: Any) -> Any:
        """`sample` for arguments, or their shapes, see `jax.stages.Lowered`."""
        return self._sample.lower(*args)

    def programs(self) -> int:
        """How many programs there are."""
        return self._sample.programs()


def make_generate(
    prefill: Callable[..., tuple[Any, Any]],
    decode_step: Callable[..., tuple[Any, Any]],
    *,
    max_new: int,
    eos_id: int | Sequence[int],
    pad_id: int = 0,
    known: np.ndarray | None = None,
    narrow: Sequence[int] = (),
    take_rows: Callable[[Any, Array], Any] | None = None,
    places: Any = None,
) -> Generate:
    """Builds the compiled sampler.

    Args:
      prefill: (params, tokens [S, P], lengths [S], room) -> (logits [S, V], cache).
      decode_step: (params, token [S], cache) -> (logits [S, V], cache). Both may give
        a pair (logits, values [S, H] of the states these were read from) in place of
        logits.
      max_new: R, tokens per response at most, the end token included.
      eos_id: the token, or tokens, that end a response.
      pad_id: what fills a response after its end.
      known: [V] bool, false where an id has no token and is never drawn; None: all
        have one.
      narrow: row counts that a batch may shrink to while it is answered. No further
        programs, but each is another loop to compile in those of larger batches.
      take_rows: (cache, rows [n]) -> the cache of these rows; needed to shrink.
      places: sharding of what is returned, where every host must have all of it.

    Raises:
      ValueError: a batch is to shrink, and nothing takes rows of its cache.
    """
    if narrow and take_rows is None:
        raise ValueError("a batch that shrinks needs `take_rows` of its cache")
    options = {} if places is None else {"out_shardings": places}
    return Generate(
        functools.partial(
            sample,
            prefill=prefill,
            decode_step=decode_step,
            max_new=max_new,
            stops=np.atleast_1d(np.asarray(eos_id, np.int32)),
            pad_id=pad_id,
            known=known,
            narrow=tuple(narrow),
            take_rows=take_rows,
        ),
        **options,
    )


def respond(
    generate: Generate,
    params: Any,
    prompts: Sequence[np.ndarray],
    row_ids: Sequence[int] | np.ndarray,
    key: Array,
    temperature: float = 1.0,
    *,
    rows: Sequence[int],
    tokens: Sequence[int],
) -> list[tuple[np.ndarray, ...]]:
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
      log-probabilities, nats; and, where there are values, [R_i, H] float32 of them.
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
        new, log_prob, count, *values = jax.device_get(result)
        for row, i in enumerate(group):
            said = (new, log_prob, *values)
            responses[i] = tuple(array[row, : count[row]] for array in said)
    return responses
