"""Updates from stored episodes: what takes a rollout's place in `hiper train`.

The episodes were sampled by some other policy μ, whose log-probs they carry. The loss
clips the ratio π / μ as it always does; how far apart the two are is measured before
each update, of whole responses y:

    w = π(y) / μ(y)        effective sample size = (Σ w)² / Σ w²
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hiper_jax import workdir
from hiper_jax.act.episode import Episode
from hiper_jax.act.rollout import SPENT
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import setup
from hiper_jax.experiments.redraw import Drawn
from hiper_jax.hosts import Hosts, digest
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.passes import make_model
from hiper_jax.update.chunks import map_rows, rows_of
from hiper_jax.update.objective import read_scores


class Offline(NamedTuple):
    """Stored episodes to learn from."""

    groups: tuple[tuple[Episode, ...], ...]  # siblings of one task side by side
    seed: int
    measure: Callable[..., dict[str, jax.Array]]  # (state, batch) -> metrics
    digest: str  # of all of them


def load(config: configs.Train, agent: Agent) -> Offline:
    """Reads `config.offline` and checks that a run can learn from it.

    Raises:
      FileNotFoundError, ValueError, ImportError: it cannot.
    """
    if configs.estimator_of(config).reads_teacher:
        raise ValueError(
            f"{config.estimator} shows a teacher the tasks of a rollout: choose "
            "another estimator with --offline"
        )
    together: dict[tuple[str, int, str], list[Episode]] = {}
    for n, entry in enumerate(workdir.stored(config.offline)):
        check(entry.episode, config, agent.config.vocab_size)
        # One by one where nobody compares them.
        game = entry.episode.game if config.siblings > 1 else str(n)
        key = entry.run, entry.iteration, game
        together.setdefault(key, []).append(entry.episode)
    size = config.siblings
    groups = [
        tuple(found[i : i + size])
        for found in together.values()
        for i in range(0, len(found) - size + 1, size)
    ]
    if len(groups) * size < config.episodes:
        raise ValueError(
            f"{config.offline} has {len(groups)} tasks of {size} episodes each, an "
            f"iteration needs {config.episodes // size}: set fewer --episodes"
        )
    said = b"".join(
        turn.response.tobytes() for g in groups for e in g for turn in e.turns
    )
    return Offline(tuple(groups), config.seed, measurer(config, agent), digest(said))


def check(episode: Episode, config: configs.Train, vocab_size: int) -> None:
    """Raises ValueError where a run cannot learn from an episode."""
    where = f"{config.offline}: {episode.game}"
    if not 1 <= len(episode.turns) <= config.world.turns:
        raise ValueError(
            f"{where} has {len(episode.turns)} turns: set --world.max-turns to that"
        )
    reading = config.reading
    for turn in episode.turns:
        if (
            len(turn.log_prob) != len(turn.response)
            or not np.isfinite(turn.log_prob).all()
        ):
            raise ValueError(
                f"{where} has no log-probs of what was sampled, which importance "
                "ratios need: take episodes that training wrote, or imitate these with "
                "`hiper warmstart --from`"
            )
        for name, ids, most in (
            ("prompt", turn.prompt, reading.max_prompt),
            ("response", turn.response, reading.max_response),
        ):
            if len(ids) > most:
                raise ValueError(
                    f"{where} has a {name} of {len(ids)} tokens: set --reading.max-"
                    f"{name} to that"
                )
            if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
                raise ValueError(f"{where} is of another tokenizer than --model's")


def draw(
    offline: Offline, step: int, config: configs.Train, hosts: Hosts | None = None
) -> Drawn:
    """An iteration's episodes: every one once, in an order drawn anew, then again.

    Of several hosts each takes its share, whole tasks.
    """
    number, size = config.episodes // config.siblings, len(offline.groups)
    begin, end = (hosts or Hosts()).share(number)
    places = range(step * number + begin, step * number + end)
    orders = {
        epoch: np.random.default_rng((offline.seed, epoch)).permutation(size)
        for epoch in {place // size for place in places}
    }
    chosen = [offline.groups[orders[p // size][p % size]] for p in places]
    episodes = [episode for group in chosen for episode in group]
    spent = dict.fromkeys(SPENT, 0.0)
    return Drawn(episodes, episodes, spent, {})


def measurer(config: configs.Train, agent: Agent) -> Callable[..., dict[str, Any]]:
    """(state, batch) -> how far the policy is from the one that played, compiled."""
    heads = configs.estimator_of(config).heads
    model, settings = make_model(agent, heads), config.learn
    buckets: Sequence[int] = setup.run_shapes(config).lengths

    def measure(actor, critic, reference, batch):
        batch, rows = rows_of(batch, buckets, settings.chunk, settings.pack)
        actor, _ = model.assemble(reference, actor, critic)

        def scored(fed):
            given = batch.start, batch.response, config.temperature
            return read_scores(model, actor, fed, *given)[0]

        log_prob = map_rows(scored, rows, jnp.zeros(batch.response.shape))
        return distance(
            log_prob,
            batch.old_log_prob,
            batch.response_mask & batch.is_turn[:, None],
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
        )

    everywhere = None  # else the numbers may lie where this process cannot read them
    if agent.mesh is not None:
        everywhere = NamedSharding(agent.mesh, PartitionSpec())
    compiled = jax.jit(measure, out_shardings=everywhere)

    def of_state(state, batch):
        return compiled(state.actor, state.critic, state.reference, batch)

    return of_state


def distance(
    log_prob: jax.Array,
    old_log_prob: jax.Array,
    mask: jax.Array,
    *,
    clip_low: float,
    clip_high: float,
) -> dict[str, jax.Array]:
    """How far a policy is from the one that sampled, each a scalar.

    Args:
      log_prob: [N, R] of response tokens now, in nats.
      old_log_prob: [N, R] when they were sampled.
      mask: [N, R] bool, real tokens.
      clip_low: see the loss.
      clip_high: see the loss.

    Returns:
      offline/effective_turns, the effective sample size of whole responses, and
      offline/effective_share, that of their number; offline/clip_fraction, the share
      of tokens whose ratio is outside the clip before the first step; and
      offline/ratio, the mean ratio of a token.
    """
    gap = jnp.where(mask, log_prob - old_log_prob, 0.0)
    there = mask.any(axis=1)
    total = jnp.where(there, gap.sum(axis=1), -jnp.inf)
    # Only the weights' proportions count, so the largest may be 1.
    weight = jnp.where(there, jnp.exp(total - total.max()), 0.0)
    effective = weight.sum() ** 2 / jnp.maximum((weight**2).sum(), 1e-30)
    tokens = jnp.maximum(mask.sum(), 1)
    ratio = jnp.exp(jnp.clip(gap, -20.0, 20.0))
    outside = mask & ((ratio < 1 - clip_low) | (ratio > 1 + clip_high))
    return {
        "offline/effective_turns": effective,
        "offline/effective_share": effective / jnp.maximum(there.sum(), 1),
        "offline/clip_fraction": outside.sum() / tokens,
        "offline/ratio": jnp.where(mask, ratio, 0.0).sum() / tokens,
    }
