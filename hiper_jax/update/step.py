"""TrainState, Batch -> TrainState, metrics: one compiled program.

    values -> credit -> minibatches of (loss, gradient, step)

Rows of a minibatch are sorted by length and fed in chunks; each chunk is cut to the
smallest length bucket that holds it, so that one program serves every batch of the
same outer shape and little padding is computed. How many chunks and minibatches
there are is data, not shape.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from hiper_jax._programs import CountedJit
from hiper_jax.act.stack import Batch
from hiper_jax.credit.estimator import Credit, Estimator
from hiper_jax.networks.model import Model
from hiper_jax.update.chunks import Rows, map_rows, rows_of
from hiper_jax.update.minibatch import Totals, minibatch, shuffled
from hiper_jax.update.objective import (
    MEAN_GAP,
    Loss,
    Settings,
    Targets,
    expect,
    gradient,
    loss_names,
    read_scores,
)
from hiper_jax.update.over_chunks import Minibatch, add_up, apart_gradient
from hiper_jax.update.readings import taught, values_of_rows, values_of_turns
from hiper_jax.update.state import Optimizers, TrainState, initial_state

MAX_GAP = "sampler/log_prob_diff_max"
SKIPPED = "update/skipped"  # optimizer steps whose gradient was not finite
Schedule = Callable[[Array], Array | float]
# (state, batch) -> state, metrics [] by name, what credit says of turns, [B, T] by name
Update = Callable[
    [TrainState, Batch], tuple[TrainState, dict[str, Array], dict[str, Array]]
]


class Learner(NamedTuple):
    """The part of a TrainState that an optimizer step changes."""

    actor: Any
    critic: Any
    actor_opt: Any
    critic_opt: Any


class Work(NamedTuple):
    """What stays the same during the steps of one update."""

    loss: Loss
    rows: Rows
    optimizers: Optimizers
    factor: Array | float  # on the actor's steps
    count: Array  # [] int32, minibatches
    size: int  # M, rows of a minibatch, a multiple of the chunk


def make_update(
    model: Model,
    estimator: Estimator,
    optimizers: Optimizers,
    settings: Settings,
    length_buckets: Sequence[int],
    *,
    schedule: Schedule = lambda step: 1.0,
    temperature: float = 1.0,
) -> tuple[Callable[..., TrainState], Update]:
    """Builds a pair (init, update), as optax does; jit the update once.

    Args:
      model: the networks as functions; its heads are the estimator's.
      estimator: how credit is assigned; without heads nothing of a critic is compiled.
      optimizers: the actor's and the critic's.
      settings: of the loss and of the steps.
      length_buckets: lengths that a chunk may be cut to; those above L are ignored.
      schedule: iteration -> factor on the actor's steps.
      temperature: the sampler's.

    Returns:
      init(actor, critic, key, reference=None) -> TrainState, see `initial_state`;
      update(state, batch) -> (state, metrics, turns).

    Raises:
      ValueError: the estimator reads heads and there is no critic, or no optimizer for
        it; or rows are packed and the model reads none.
    """
    optimizers = Optimizers(*optimizers)
    if estimator.heads and (model.values is None or optimizers.critic is None):
        raise ValueError(
            f"the estimator reads the value heads {', '.join(estimator.heads)}: give "
            "the model `values` and the critic an optimizer"
        )
    if not estimator.heads:
        optimizers = Optimizers(optimizers.actor)
    if settings.pack > 1:
        check_packs(model)

    def init(actor, critic, key, reference=None) -> TrainState:
        return initial_state(actor, critic, optimizers, key, reference)

    def update(state: TrainState, batch: Batch):
        own = model.own_rows
        feeding = settings.chunk, settings.pack, own
        batch, rows = rows_of(batch, length_buckets, *feeding)
        N, C = len(batch.tokens), rows.chunk
        M = -(-min(settings.minibatch, N) // C) * C
        networks = state.reference, state.actor, state.critic
        reference, *_ = networks = networks if own is None else own.fetch(*networks)
        targets, credit = measure(
            model, estimator, settings, temperature, networks, batch, rows
        )
        loss = Loss(
            model,
            settings,
            estimator.heads,
            temperature,
            reference,
            batch,
            targets,
        )
        count = jnp.maximum(-(-batch.num_turns // M), 1)
        work = Work(loss, rows, optimizers, schedule(state.step), count, M)
        learner, metrics = learn(work, state)
        state = state.replace(step=state.step + 1, **learner._asdict())
        told = credit.turn | values_of_turns(batch, estimator.heads, targets.value)
        return state, metrics | credit.metrics, told

    return init, update


def check_packs(model: Model) -> None:
    """Raises ValueError where a function of the model reads no packed rows."""
    for name in ("score", "values", "values_at", "score_and_values"):
        fn = getattr(model, name)
        if fn is not None and "segment" not in inspect.signature(fn).parameters:
            raise ValueError(
                f"learn.pack lays rows end to end, and the model's `{name}` takes no "
                "`segment`: give it one (see hiper_jax.Model), or set learn.pack to 1"
            )


def measure(
    model: Model,
    estimator: Estimator,
    settings: Settings,
    temperature: float,
    networks: tuple[Any, Any, Any],
    batch: Batch,
    rows: Rows,
) -> tuple[Targets, Credit]:
    """What is measured before the first step: values, credit, reference log-probs."""
    N, R = batch.response.shape
    H = len(estimator.heads)
    read_at = estimator.read_at(batch)
    values = jnp.zeros((N, H) if read_at is not None else (N, R, H))
    if H:
        _, critic = model.assemble(*networks)
        values = values_of_rows(model, critic, batch, rows, read_at, H)
    reference = None
    if settings.kl_coef or estimator.reads_reference:

        def reference_of(fed, reference, start, response):
            given = reference, fed, start, response
            log_prob, _ = read_scores(model, *given, temperature)
            expect("score", (len(fed.rows), R), log_prob)
            return log_prob

        blank = jnp.zeros((N, R))
        given = networks[0], batch.start, batch.response
        with jax.named_scope("reference"):
            reference = map_rows(reference_of, rows, blank, *given)
    known = batch.replace(reference_log_prob=reference)
    if estimator.reads_teacher:
        actor, _ = model.assemble(*networks)
        known = known.replace(**taught(model, actor, temperature, batch, rows))
    with jax.named_scope("credit"):
        credit = estimator.assign(known, values)
    expect("assign", (N, R), credit.advantage, credit.mask)
    expect("assign", values.shape, credit.return_, credit.reads)
    targets = Targets(
        credit.advantage,
        credit.mask,
        reference if settings.kl_coef else None,
        read_at,
        values,
        credit.return_,
        credit.reads,
    )
    return targets, credit


def learn(work: Work, state: TrainState) -> tuple[Learner, dict[str, Array]]:
    """Every epoch's minibatches, one optimizer step each; metrics of the first.

    A step whose gradient is not finite changes nothing, and is counted.
    """
    batch, settings = work.loss.batch, work.loss.settings
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    blank = dict.fromkeys(metric_names(work.loss), jnp.zeros(()))

    def one_epoch(epoch, carry):
        learner, metrics = carry
        ranks = shuffled(jax.random.fold_in(key, epoch), batch.is_turn)
        step = functools.partial(minibatch_step, work, ranks)
        learner, seen = lax.fori_loop(0, work.count, step, (learner, blank))
        skipped = metrics[SKIPPED] + seen[SKIPPED]
        # Metrics are those of the first epoch: later ones would hide the start.
        metrics = jax.tree.map(lambda m, s: jnp.where(epoch == 0, s, m), metrics, seen)
        return learner, metrics | {SKIPPED: skipped}

    learner = Learner(state.actor, state.critic, state.actor_opt, state.critic_opt)
    return lax.fori_loop(0, settings.epochs, one_epoch, (learner, blank))


def minibatch_step(work: Work, ranks: Array, i: Array, carry):
    """One optimizer step on minibatch i.

    Args:
      work: what stays the same.
      ranks: [N] rows in random order.
      i: [] int32.
      carry: Learner, metrics so far.
    """
    learner, metrics = carry
    optimizers, count = work.optimizers, work.count
    actor_grad, critic_grad, losses, worst = summed_gradient(work, ranks, i, learner)
    norms = {"grad/actor": optax.tree.norm(actor_grad)}
    if optimizers.critic is not None:
        norms["grad/critic"] = optax.tree.norm(critic_grad)
    finite = jnp.isfinite(jnp.stack([*norms.values()])).all()
    # Both networks or neither. A choice of branch, not of each number: that would keep
    # a second copy of one network's weights.
    taken = functools.partial(optimizer_step, work)
    grads = actor_grad, critic_grad
    learner = lax.cond(finite, taken, lambda learner, _: learner, learner, grads)
    # Only before the first step are sampler and trainer the same network.
    first = i == 0
    seen = {k: metrics[k] + v / count for k, v in losses.items() if k != MEAN_GAP}
    seen[MEAN_GAP] = metrics[MEAN_GAP] + jnp.where(first, losses[MEAN_GAP], 0.0)
    seen[MAX_GAP] = metrics[MAX_GAP] + jnp.where(first, worst, 0.0)
    for name, norm in norms.items():
        seen[name] = metrics[name] + norm / count
    seen[SKIPPED] = metrics[SKIPPED] + ~finite
    return learner, seen


def optimizer_step(work: Work, learner: Learner, grads: tuple[Any, Any]) -> Learner:
    """The learner after one step of each optimizer; gradients of actor and critic."""
    optimizers, (to_actor, to_critic) = work.optimizers, grads
    with jax.named_scope("optimizer"):
        step, actor_opt = optimizers.actor.update(
            to_actor, learner.actor_opt, learner.actor
        )
        step = jax.tree.map(lambda s: work.factor * s, step)
        actor = optax.apply_updates(learner.actor, step)
        critic, critic_opt = learner.critic, learner.critic_opt
        if optimizers.critic is not None:
            step, critic_opt = optimizers.critic.update(to_critic, critic_opt, critic)
            critic = optax.apply_updates(critic, step)
    return Learner(actor, critic, actor_opt, critic_opt)


def summed_gradient(work: Work, ranks: Array, i: Array, learner: Learner):
    """Gradients and losses of minibatch i, its chunks added up."""
    loss, rows, M = work.loss, work.rows, work.size
    batch, targets = loss.batch, loss.targets
    slots, used = minibatch(ranks, i, work.count, batch.num_turns, M)
    # Like lengths side by side; what is not used stands with the shortest.
    order = jnp.argsort(jnp.where(used, batch.length[slots], 0))
    slots, used = slots[order], used[order]
    reads = targets.reads[slots] & used.reshape(-1, *[1] * (targets.reads.ndim - 1))
    totals = Totals(
        jnp.sum(targets.mask[slots] & used[:, None]),
        jnp.sum(used),
        jnp.sum(targets.mask[slots].any(axis=1) & used),
        jnp.sum(reads, axis=tuple(range(reads.ndim - 1))),
    )
    given = Minibatch(rows, slots, used, totals)
    networks = learner.actor, learner.critic
    with jax.named_scope("gradient"):
        if loss.model.own_rows is not None:
            grads, losses, worst = apart_gradient(loss, given, *networks)
        else:
            grads, losses, worst = add_up(
                gradient, loss_names(loss), networks, loss, given, *networks
            )
    return *grads, losses, worst


def metric_names(loss: Loss) -> tuple[str, ...]:
    """Every metric of a step."""
    critic = ("grad/critic",) if loss.heads else ()
    return *loss_names(loss), "grad/actor", *critic, MAX_GAP, SKIPPED


def compile_update(update: Update, donate: bool = True, places: Any = None):
    """Jits an update; its state is donated, so the caller must drop the old one.

    Args:
      update: from `make_update`.
      donate: reuse the memory of the state.
      places: shardings of (state, metrics, turns) on a mesh; None: one device.
    """
    donated = (0,) if donate else ()
    return CountedJit(update, donate_argnums=donated, out_shardings=places)
