"""The passes of an agent's networks: the functions that the update is handed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax import lm
from hiper_jax.lm import sharding, sharding_rows, value_heads
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.assemble import assemble
from hiper_jax.networks.model import Model
from hiper_jax.networks.own_rows import own_rows

HEAD_CHUNK = 1024  # states that the head is applied to at once, over all devices


def make_model(agent: Agent, heads: tuple[str, ...] = value_heads.HEADS) -> Model:
    """An agent's networks as functions, with the value heads an estimator reads.

    Args:
      agent: the networks' shapes and places.
      heads: names of value heads, in the estimator's order; () leaves the critic out.

    Raises:
      ValueError: the critic has no head of that name, or there is no critic.
    """
    if unknown := set(heads) - set(value_heads.HEADS):
        raise ValueError(
            f"the critic has no head {', '.join(sorted(unknown))}; it has "
            + ", ".join(value_heads.HEADS)
        )
    if heads and agent.critic == "none":
        raise ValueError(
            f"the estimator reads the value heads {', '.join(heads)}, but the agent "
            "has no critic: load it with critic='separate' or 'shared'"
        )
    if not heads:
        return Model(score(agent), assemble=assemble(agent), own_rows=own_rows(agent))
    return Model(
        score(agent),
        values(agent, heads),
        score_and_values(agent, heads) if agent.critic == "shared" else None,
        assemble(agent),
        own_rows(agent),
        values_at(agent, heads),
    )


def score(agent: Agent) -> Callable[..., tuple[Array, Array]]:
    """`Model.score`: log-probs and entropies of responses."""
    read = states_of(agent)

    def apply(actor, tokens, start, targets, temperature, *, segment=None):
        states = read(actor, tokens, start, targets.shape[1], segment)
        return scored(agent, actor, states, targets, temperature)

    return apply


def values(
    agent: Agent, heads: tuple[str, ...] = value_heads.HEADS
) -> Callable[..., Array]:
    """`Model.values`: the heads at every response token."""

    def apply(critic, tokens, start, num_tokens, *, segment=None):
        read = valued(agent, critic, tokens, start, num_tokens, segment)
        return select(read, heads)

    return apply


def values_at(
    agent: Agent, heads: tuple[str, ...] = value_heads.HEADS
) -> Callable[..., Array]:
    """`Model.values_at`: each head at its own response position."""

    def apply(critic, tokens, start, read_at, *, segment=None):
        read = select(valued(agent, critic, tokens, start, read_at, segment), heads)
        return jnp.diagonal(read, axis1=1, axis2=2)

    return apply


def valued(agent: Agent, critic: Any, tokens, start, which: Any, segment) -> Array:
    """All heads [C, R or K, 3] at response positions: the first R, or those [C, K]."""
    tokens, start, segment = on_rows(agent, tokens, start, segment)
    return value_heads.values(
        critic,
        agent.critic_config,
        tokens,
        start,
        which,
        segment=segment,
        remat=agent.remat,
        **agent.on_mesh(),
    )


def score_and_values(
    agent: Agent, heads: tuple[str, ...] = value_heads.HEADS
) -> Callable[..., tuple[Array, Array, Array]]:
    """`Model.score_and_values`: one pass of a shared trunk."""
    read = states_of(agent)
    flows = agent.trunk_gradient

    def apply(actor, critic, tokens, start, targets, temperature, *, segment=None):
        states = read(actor, tokens, start, targets.shape[1], segment)
        log_prob, entropy = scored(agent, actor, states, targets, temperature)
        # The same states, through which `flows` of the gradient passes.
        still = jax.lax.stop_gradient(states)
        valued = still + flows * (states - still) if flows else still
        return log_prob, entropy, select(value_heads.head_values(critic, valued), heads)

    return apply


def select(read: Array, heads: tuple[str, ...]) -> Array:
    """[..., H] of [..., all heads], by name."""
    if heads == value_heads.HEADS:
        return read
    return read[..., [value_heads.HEADS.index(name) for name in heads]]


def scored(
    agent: Agent, actor: Any, states: Array, targets: Array, temperature: Any
) -> tuple[Array, Array]:
    """Log-probs and entropies, each [C, R], of targets [C, R] read from [C, R, D]."""
    return lm.log_prob_and_entropy(
        actor,
        agent.config,
        states,
        targets,
        temperature=temperature,
        chunk=max(HEAD_CHUNK // sharding_rows.share(), 1),
        known=agent.known,
        constrain=agent.on_mesh().get("constrain"),
    )


def states_of(agent: Agent) -> Callable[..., Array]:
    """(params, tokens, start, R, segment) -> the states [C, R, D] before responses."""

    def apply(params, tokens, start, num_tokens, segment):
        tokens, start, segment = on_rows(agent, tokens, start, segment)
        return lm.response_states(
            params,
            agent.config,
            tokens,
            start,
            num_tokens,
            segment=segment,
            remat=agent.remat,
            **agent.on_mesh(),
        )

    return apply


def on_rows(agent: Agent, *arrays: Array | None) -> tuple[Any, ...]:
    """Chunk arrays [C, ...], cut along their rows on a mesh; None stays None."""
    if agent.mesh is None:
        return arrays
    place = sharding.rows(agent.mesh)
    return tuple(
        None if a is None else jax.lax.with_sharding_constraint(a, place)
        for a in arrays
    )
