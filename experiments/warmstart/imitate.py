"""Supervised training: rows of (prompt, response) -> weights that imitate them."""

import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hiper_jax import lm
from hiper_jax.act.buckets import bucket
from hiper_jax.experiments.warmstart.demonstrations import Row


def imitate(
    params,
    config: lm.LMConfig,
    rows: Sequence[Row],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    prompt_weight: float,
    length_buckets: Sequence[int],
    seed: int,
    report: Callable[[int, dict[str, float]], None] | None = None,
):
    """Fits the responses by maximum likelihood, the prompts with a smaller weight.

    Rows of a batch have like lengths: all rows are shuffled, sorted by length inside
    pools of 32 batches, and cut.

    Args:
      params: weights to start from.
      config: their shape.
      rows: what to imitate.
      steps: optimizer steps; rows are seen again if they run out.
      batch: rows per step.
      learning_rate: Adam's peak; warmed up over 5 % of the steps, then a cosine.
      prompt_weight: how much a prompt token counts against a response token.
      length_buckets: lengths that may be compiled.
      seed: of the order of rows.
      report: called with (step, {"loss", "accuracy", "tokens_per_second"}).

    Returns:
      The weights after the last step.
    """
    if len(rows) < batch:
        raise ValueError(
            f"{len(rows)} rows are fewer than a batch of {batch}: make more "
            "demonstrations or a smaller batch"
        )
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, steps // 20, steps, learning_rate / 20
    )
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01)
    )

    def loss_fn(params, tokens, weight):
        hidden = lm.forward(params, config, tokens[:, :-1])
        log_prob = jax.nn.log_softmax(lm.logits(params, config, hidden))
        targets = tokens[:, 1:]
        chosen = jnp.take_along_axis(log_prob, targets[..., None], axis=-1)[..., 0]
        right = (jnp.argmax(log_prob, axis=-1) == targets) & (weight >= 1)
        loss = -jnp.sum(chosen * weight) / jnp.sum(weight)
        return loss, jnp.sum(right) / jnp.sum(weight >= 1)

    @jax.jit
    def step(params, opt, tokens, weight):
        (loss, accuracy), grad = jax.value_and_grad(loss_fn, has_aux=True)(
            params, tokens, weight
        )
        updates, opt = tx.update(grad, opt, params)
        return optax.apply_updates(params, updates), opt, loss, accuracy

    opt = tx.init(params)
    began, tokens_seen = time.perf_counter(), 0
    losses = []
    for i, chosen in enumerate(_batches(rows, batch, steps, seed)):
        tokens, weight = _lay_out(
            [rows[j] for j in chosen], prompt_weight, length_buckets
        )
        params, opt, loss, accuracy = step(params, opt, tokens, weight)
        tokens_seen += int(np.sum(weight > 0))
        losses.append((loss, accuracy))
        if report and ((i + 1) % 50 == 0 or i + 1 == steps):
            recent = np.mean(jax.device_get(losses), axis=0)
            losses = []
            report(
                i + 1,
                {
                    "loss": float(recent[0]),
                    "accuracy": float(recent[1]),
                    "tokens_per_second": tokens_seen / (time.perf_counter() - began),
                },
            )
    return params


def _batches(rows, batch: int, steps: int, seed: int):
    """Yields index arrays of `batch` rows of like lengths, endlessly shuffled."""
    rng = np.random.default_rng(seed)
    length = np.array([len(row.prompt) + len(row.response) for row in rows])
    made = 0
    while made < steps:
        order = rng.permutation(len(rows))
        pools = []
        for i in range(0, len(order), 32 * batch):
            pool = order[i : i + 32 * batch]
            pool = pool[np.argsort(length[pool], kind="stable")]
            cut = [pool[j : j + batch] for j in range(0, len(pool), batch)]
            pools += [c for c in cut if len(c) == batch]
        for i in rng.permutation(len(pools)):
            if made < steps:
                yield pools[i]
                made += 1


def _lay_out(rows: Sequence[Row], prompt_weight: float, buckets: Sequence[int]):
    """[batch, L] tokens and the weight of each as a target, [batch, L - 1]."""
    width = bucket(max(len(r.prompt) + len(r.response) for r in rows), buckets)
    tokens = np.zeros((len(rows), width), np.int32)
    weight = np.zeros((len(rows), width), np.float32)
    for i, row in enumerate(rows):
        P, K = len(row.prompt), len(row.response)
        tokens[i, :P], tokens[i, P : P + K] = row.prompt, row.response
        weight[i, :P], weight[i, P : P + K] = prompt_weight, 1.0
    return tokens, weight[:, 1:]
