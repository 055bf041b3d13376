"""TrainState, Batch -> TrainState, metrics: one compiled program.

    values -> shaping -> HAE -> standardise -> minibatches of (loss, gradient, step)

Rows of a minibatch are sorted by length and fed in chunks; each chunk is cut to the
smallest length bucket that holds it, so that one program serves every batch of the
same outer shape and little padding is computed. How many chunks and minibatches
there are is data, not shape.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array, lax

from hiper_jax.act.stack import Batch
from hiper_jax.credit import boundaries, carrying
from hiper_jax.credit.hiper import Credit, Settings, assign_credit, credit_metrics
from hiper_jax.loss import (
    aggregate,
    kl_loss,
    policy_loss,
    token_advantage,
    value_loss,
)
from hiper_jax.update.minibatch import (
    GAP,
    ONCE,
    SUMMED,
    WORST,
    Totals,
    minibatch,
    shuffled,
)

# (params, tokens [C, L], start [C], targets [C, R], below 0 on padding, temperature)
#   -> log-probs [C, R], entropies [C, R]
Score = Callable[..., tuple[Array, Array]]
# (params, tokens [C, L], start [C], R) -> values [C, R, 3]: high, low, switch
ReadValues = Callable[..., Array]
# (actor, critic, tokens [C, L], start [C], targets [C, R], temperature)
#   -> log-probs [C, R], entropies [C, R], values [C, R, 3]
Joint = Callable[..., tuple[Array, Array, Array]]
# (reference, actor, critic) -> actor and critic as the functions above read them
Complete = Callable[[Any, Any, Any], tuple[Any, Any]]


@struct.dataclass
class TrainState:
    """Everything an update reads and writes."""

    step: Any  # [] int32, updates done
    actor: Any  # pytree of weights
    critic: Any  # pytree of weights
    reference: Any  # pytree of weights, frozen: what the KL term pulls towards
    actor_opt: Any  # optax state
    critic_opt: Any  # optax state
    key: Any  # [2] uint32, root of all randomness; never split in place


def init(
    actor, critic, actor_tx, critic_tx, key: Array, reference: Any = None
) -> TrainState:
    """A state at step 0 whose reference is a copy of the actor, or the one given."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        actor=actor,
        critic=critic,
        # A copy: the actor's buffers are donated to the update, these are not.
        reference=jax.tree.map(jnp.copy, actor) if reference is None else reference,
        actor_opt=actor_tx.init(actor),
        critic_opt=critic_tx.init(critic),
        key=jnp.copy(key),
    )


def make_update(
    score: Score,
    read_values: ReadValues,
    actor_tx: optax.GradientTransformation,
    critic_tx: optax.GradientTransformation,
    settings: Settings,
    *,
    length_buckets: tuple[int, ...],
    schedule: Callable[[Array], Array | float] = lambda step: 1.0,
    joint: Joint | None = None,
    complete: Complete = lambda reference, actor, critic: (actor, critic),
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array], Credit]]:
    """Builds the update; jit it once (`compile_update`).

    Args:
      score: log-probs and entropies of responses under the actor.
      read_values: the three heads at every response position.
      actor_tx: the actor's optimizer.
      critic_tx: the critic's.
      settings: everything else.
      length_buckets: lengths that a chunk may be cut to; those above L are ignored.
      schedule: iteration -> factor on the actor's steps.
      joint: what the gradient is taken of, where one pass gives both; None: `score`
        and `read_values`, one after the other.
      complete: adds to the trained weights what they share or stand on.
    """

    def apart(actor, critic, tokens, start, targets, temperature):
        values = read_values(critic, tokens, start, targets.shape[1])
        return *score(actor, tokens, start, targets, temperature), values

    both = joint or apart

    def update(state: TrainState, batch: Batch):
        # Axes: N rows, L tokens, R response tokens, M minibatch, C chunk.
        batch = jax.tree.map(jnp.asarray, batch)
        batch = batch.replace(
            response=jnp.where(batch.response_mask, batch.response, -1)
        )
        N, L = batch.tokens.shape
        R = batch.response.shape[1]
        C = min(settings.chunk, N)
        M = -(-min(settings.minibatch, N) // C) * C
        lengths = tuple(sorted({min(b, L) for b in length_buckets} | {L}))

        def cut(fn, rows, *args):
            """fn(tokens [C, l], rows, ...) at the smallest length l that holds them."""

            def at(length):
                return lambda r, *rest: fn(batch.tokens[r, :length], r, *rest)

            branch = jnp.searchsorted(jnp.array(lengths), jnp.max(batch.length[rows]))
            return lax.switch(branch, [at(length) for length in lengths], rows, *args)

        def everywhere(fn, like):
            """fn over all rows that hold something, in chunks of like length."""
            order = jnp.argsort(jnp.where(batch.length > 0, batch.length, L + 1))
            order = jnp.pad(order, (0, -N % C), mode="edge")

            def body(i, out):
                rows = lax.dynamic_slice(order, (i * C,), (C,))
                return jax.tree.map(lambda o, v: o.at[rows].set(v), out, cut(fn, rows))

            return lax.fori_loop(0, -(-batch.num_rows // C), body, like)

        def values_of(critic, tokens, rows):
            """V_high, V_low, V_switch of rows, each [C]."""
            return decided(read_values(critic, tokens, batch.start[rows], R), rows)

        def decided(values, rows):
            """Values where decisions are made, each [C], of values [C, R, 3]."""
            _expect("read_values", (C, R, 3), values)
            each, planned = jnp.arange(C), batch.value_low[rows]
            return values[:, 0, 0], values[each, planned, 1], values[:, 0, 2]

        def score_of(actor, tokens, rows):
            """Log-probs and entropies of rows' responses, each [C, R]."""
            log_prob, entropy = score(
                actor,
                tokens,
                batch.start[rows],
                batch.response[rows],
                settings.temperature,
            )
            _expect("score", (C, R), log_prob, entropy)
            return log_prob, entropy

        def to_rows(x):
            """[B, T] -> [N], zero on rows that are no turn."""
            where = jnp.where(batch.valid, batch.row, N)
            return jnp.zeros(N, x.dtype).at[where].set(x, mode="drop")

        # Values, credit.
        _, old_critic = complete(state.reference, state.actor, state.critic)
        old_high, old_low, old_switch = everywhere(
            lambda *a: values_of(old_critic, *a), (jnp.zeros(N),) * 3
        )
        credit = assign_credit(batch, old_low, old_high, old_switch, settings)
        starts = to_rows(jax.vmap(boundaries)(batch.switch, batch.valid))
        masks = carrying(
            starts,
            batch.action_mask,
            batch.subgoal_mask,
            batch.switch_mask,
            high_on_switch=settings.high_on_switch,
            switch_on_kept=settings.switch_on_kept,
        )
        advantage, mask = token_advantage(
            to_rows(credit.advantage_low),
            to_rows(credit.advantage_high),
            to_rows(credit.advantage_switch),
            *masks,
        )
        mask &= batch.trained[:, None]
        return_low, return_high, return_switch = map(
            to_rows, (credit.return_low, credit.return_high, credit.return_switch)
        )

        # What the KL term pulls towards.
        reference = jnp.zeros((N, R))
        if settings.kl_coef:
            reference = everywhere(
                lambda *a: score_of(state.reference, *a)[0], reference
            )

        def chunk_loss(params, tokens, rows, used, totals):
            """What one chunk adds to the loss of its minibatch."""
            carries = mask[rows] & used[:, None]
            log_prob, entropy, values = both(
                *complete(state.reference, *params),
                tokens,
                batch.start[rows],
                batch.response[rows],
                settings.temperature,
            )
            _expect("score", (C, R), log_prob, entropy)
            count = jnp.maximum(totals.tokens, 1).astype(jnp.float32)
            policy, ratios = policy_loss(
                log_prob,
                batch.old_log_prob[rows],
                advantage[rows],
                carries,
                clip_low=settings.clip_low,
                clip_high=settings.clip_high,
                dual_clip=settings.dual_clip,
                denominator=count,
            )
            kl = kl_loss(
                log_prob,
                reference[rows],
                carries,
                estimator=settings.kl_estimator,
                denominator=count,
            )
            bonus = aggregate(entropy, carries, denominator=count)
            loss = policy + settings.kl_coef * kl - settings.entropy_coef * bonus
            gap = jnp.where(carries, jnp.abs(log_prob - batch.old_log_prob[rows]), 0.0)
            share = jnp.sum(carries) / count
            parts = {
                "loss/policy": policy,
                "loss/kl": kl,
                "policy/entropy": bonus,
                GAP: jnp.sum(gap) / count,
                **{f"policy/{name}": share * x for name, x in ratios.items()},
            }
            turns = batch.trained[rows] & used
            heads = zip(
                ("high", "low", "switch"),
                decided(values, rows),
                (old_high, old_low, old_switch),
                (return_high, return_low, return_switch),
                (starts[rows] & used, turns, turns),
                (totals.starts, totals.turns, totals.turns),
                strict=True,
            )
            for name, value, old, target, at, number in heads:
                error, _ = value_loss(
                    value,
                    old[rows],
                    target[rows],
                    at,
                    clip=settings.value_clip,
                    denominator=jnp.maximum(number, 1).astype(jnp.float32),
                )
                loss += error
                parts[f"loss/value_{name}"] = error
            return loss, (parts, jnp.max(gap))

        def gradient(params, *chunk):
            """Of chunk_loss, one network after the other where there are two.

            What the first keeps for its gradient is gone before the second begins.
            """
            if joint:
                (_, (parts, gap)), grad = jax.value_and_grad(chunk_loss, has_aux=True)(
                    params, *chunk
                )
                return grad, parts, gap

            def of(part, which):
                whole = (part, params[1]) if which == 0 else (params[0], part)
                return chunk_loss(whole, *chunk)

            alone = jax.value_and_grad(of, has_aux=True)
            (_, (parts, gap)), to_actor = alone(params[0], 0)
            to_actor, critic = lax.optimization_barrier((to_actor, params[1]))
            (_, (values, _)), to_critic = alone(critic, 1)
            # Each pass is used for its own network; the rest of it is never computed.
            parts |= {k: v for k, v in values.items() if k.startswith("loss/value")}
            return (to_actor, to_critic), parts, gap

        def minibatch_step(i, carry):
            actor, critic, actor_opt, critic_opt, ranks, count, metrics = carry
            slots, used = minibatch(ranks, i, count, batch.num_turns, M)
            # Like lengths side by side; what is not used stands with the shortest.
            order = jnp.argsort(jnp.where(used, batch.length[slots], 0))
            slots, used = slots[order], used[order]
            totals = Totals(
                jnp.sum(mask[slots] & used[:, None]),
                jnp.sum(used),
                jnp.sum(starts[slots] & used),
            )
            params = (actor, critic)

            def add(j, sums):
                place = M - (chunks - j) * C
                rows = lax.dynamic_slice(slots, (place,), (C,))
                here = lax.dynamic_slice(used, (place,), (C,))
                # An unused slot may name a long row: it must not set the length.
                rows = jnp.where(here, rows, rows[-1])
                grad, parts, gap = cut(
                    lambda *chunk: gradient(params, *chunk, totals), rows, here
                )
                grads, losses, worst = sums
                return (
                    jax.tree.map(jnp.add, grads, grad),
                    jax.tree.map(jnp.add, losses, parts),
                    jnp.maximum(worst, gap),
                )

            blank = (
                jax.tree.map(jnp.zeros_like, params),
                dict.fromkeys(SUMMED, jnp.zeros(())),
                jnp.zeros(()),
            )
            chunks = -(-totals.turns // C)
            (actor_grad, critic_grad), losses, worst = lax.fori_loop(
                0, chunks, add, blank
            )
            actor_step, actor_opt = actor_tx.update(actor_grad, actor_opt, actor)
            factor = schedule(state.step)
            actor_step = jax.tree.map(lambda s: factor * s, actor_step)
            critic_step, critic_opt = critic_tx.update(critic_grad, critic_opt, critic)
            # Only before the first step are sampler and trainer the same network.
            first = i == 0
            metrics = {
                **{k: metrics[k] + v / count for k, v in losses.items() if k != GAP},
                GAP: metrics[GAP] + jnp.where(first, losses[GAP], 0.0),
                WORST: metrics[WORST] + jnp.where(first, worst, 0.0),
                "grad/actor": metrics["grad/actor"]
                + optax.tree.norm(actor_grad) / count,
                "grad/critic": metrics["grad/critic"]
                + optax.tree.norm(critic_grad) / count,
            }
            return (
                optax.apply_updates(actor, actor_step),
                optax.apply_updates(critic, critic_step),
                actor_opt,
                critic_opt,
                ranks,
                count,
                metrics,
            )

        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        blank_metrics = dict.fromkeys((*SUMMED, *ONCE), jnp.zeros(()))
        carry = (state.actor, state.critic, state.actor_opt, state.critic_opt)
        count = jnp.maximum(-(-batch.num_turns // M), 1)

        def one_epoch(epoch, carry):
            *carry, metrics = carry
            ranks = shuffled(jax.random.fold_in(key, epoch), batch.trained)
            *carry, _, _, seen = lax.fori_loop(
                0, count, minibatch_step, (*carry, ranks, count, blank_metrics)
            )
            # Metrics are those of the first epoch: later ones would hide the start.
            keep = epoch == 0
            metrics = jax.tree.map(lambda m, s: jnp.where(keep, s, m), metrics, seen)
            return *carry, metrics

        *carry, metrics = lax.fori_loop(
            0, settings.epochs, one_epoch, (*carry, blank_metrics)
        )
        actor, critic, actor_opt, critic_opt = carry
        state = state.replace(
            step=state.step + 1,
            actor=actor,
            critic=critic,
            actor_opt=actor_opt,
            critic_opt=critic_opt,
        )
        return state, metrics | credit_metrics(batch, credit, old_low), credit

    return update


def _expect(who: str, shape: tuple[int, ...], *arrays: Array):
    for array in arrays:
        if array.shape != shape:
            raise ValueError(
                f"{who} returned shape {array.shape}, {shape} is needed; see its type"
            )


def compile_update(update, donate: bool = True, places: Any = None):
    """Jits an update; its state is donated, so the caller must drop the old one.

    Args:
      update: from `make_update`.
      donate: reuse the memory of the state.
      places: shardings of (state, metrics, credit) on a mesh; None: one device.
    """
    donated = (0,) if donate else ()
    return jax.jit(update, donate_argnums=donated, out_shardings=places)
