"""TrainState: everything an update reads and writes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array


class Optimizers(NamedTuple):
    """The optimizers of the two networks."""

    actor: optax.GradientTransformation
    critic: optax.GradientTransformation | None = None  # None without a critic


class TrainState(struct.PyTreeNode):
    """Everything an update reads and writes; None where there is no critic."""

    step: Any  # [] int32, updates done
    actor: Any  # pytree of weights
    critic: Any  # pytree of weights
    reference: Any  # pytree of weights, frozen: what the KL term pulls towards
    actor_opt: Any  # optax state
    critic_opt: Any  # optax state
    key: Any  # [2] uint32, root of all randomness; never split in place


def initial_state(
    actor: Any,
    critic: Any,
    optimizers: Optimizers,
    key: Array,
    reference: Any = None,
) -> TrainState:
    """A state at step 0 whose reference is a copy of the actor, or the one given.

    Args:
      actor: weights.
      critic: weights; None for an estimator without heads.
      optimizers: of both.
      key: [2] uint32, see `jax.random.key_data`.
      reference: weights that the KL term pulls towards.

    Raises:
      ValueError: a critic without an optimizer, or the other way round.
    """
    if (critic is None) != (optimizers.critic is None):
        raise ValueError(
            "a critic and its optimizer go together: give both, or neither where "
            "the estimator reads no value head"
        )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        actor=actor,
        critic=critic,
        # A copy: the actor's buffers are donated to the update, these are not.
        reference=jax.tree.map(jnp.copy, actor) if reference is None else reference,
        actor_opt=optimizers.actor.init(actor),
        critic_opt=optimizers.critic.init(critic) if optimizers.critic else None,
        key=jnp.copy(key),
    )
