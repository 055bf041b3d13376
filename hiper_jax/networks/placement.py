"""Where a run's state lies: one device, or a mesh that was checked beforehand.

The update's own functions are handed in: `init` is the first of `make_update`'s pair.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hiper_jax import lm
from hiper_jax.lm import sharding, weights
from hiper_jax.lm import value_heads as heads
from hiper_jax.networks import assemble
from hiper_jax.networks.agent import Agent


def make_mesh(
    directory, *, data: int, fsdp: int, tensor: int, chunk: int, rows: int
) -> Any:
    """Makes the mesh for the model in `directory`; None for one device.

    Args:
      directory: a folder of weights.
      data, fsdp, tensor: ways of each axis, see `lm.sharding`.
      chunk: rows that the update feeds at once.
      rows: rows of a batch.

    Raises:
      ValueError: the devices, the model or the chunk do not fit it.
    """
    if data * fsdp * tensor == 1:
        return None
    mesh = sharding.make_mesh(data, fsdp, tensor)
    model = weights.read_config(directory)
    sharding.shardings(lm.abstract(model), mesh)
    check_chunk(min(chunk, rows), mesh)
    return mesh


def check_chunk(chunk: int, mesh: Any) -> None:
    """Raises ValueError where devices would hold unequal parts of a chunk."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if chunk % ways:
        raise ValueError(
            f"learn.chunk is {chunk} turns, which data x fsdp = {ways} does not "
            f"divide; set --learn.chunk to {-(-chunk // ways) * ways}"
        )


def init_state(agent: Agent, init: Callable, actor: Any, critic: Any, key: Any) -> Any:
    """A state at step 0, every part of it where it belongs.

    Under bfloat16 the reference is kept as it is read, in half the bytes.

    Args:
      agent: the networks' shapes and places.
      init: (actor, critic, key, reference) -> TrainState.
      actor, critic: weights; the mesh's version of them is given away.
      key: [2] uint32.
    """
    begin = functools.partial(_begin, agent, init)
    if agent.mesh is None:
        # Placed as a whole, as the update returns it: one program, not two.
        return jax.device_put(begin(actor, critic, key), jax.devices()[0])
    places = state_places(agent, jax.eval_shape(begin, actor, critic, key))
    # What becomes the reference cannot also be reused, but for an adapter's base.
    donated = () if agent.rank else (0, 1)
    return jax.jit(begin, out_shardings=places, donate_argnums=donated)(
        actor, critic, key
    )


def state_places(agent: Agent, state: Any) -> Any:
    """Shardings of a TrainState on the agent's mesh, given its arrays or shapes."""
    of_actor, of_critic = agent.leaves
    place = functools.partial(sharding.state_shardings, mesh=agent.mesh)
    everywhere = NamedSharding(agent.mesh, PartitionSpec())
    critic = {}
    if of_critic is not None:
        critic = {
            "critic": place(state.critic, of_critic),
            "critic_opt": place(state.critic_opt, of_critic),
        }
    return state.replace(
        step=everywhere,
        actor=place(state.actor, of_actor),
        actor_opt=place(state.actor_opt, of_actor),
        reference=place(state.reference, lm.abstract(agent.config)),
        key=everywhere,
        **critic,
    )


def update_places(agent: Agent, init: Callable) -> Any:
    """Shardings of what an update returns; None on one device."""
    if agent.mesh is None:
        return None
    everywhere = NamedSharding(agent.mesh, PartitionSpec())
    state = state_places(agent, abstract_state(agent, init))
    return state, everywhere, everywhere


def fetched(tree: Any, keep: bool = True) -> Any:
    """Weights of which each host has a part, as numpy arrays; called on all hosts.

    Weights that this host has all of stay as they are. One layer travels at a time.

    Args:
      tree: arrays; stacked layers first.
      keep: whether this host wants them.

    Returns:
      The tree; of nothing at all where it is not kept.
    """

    def whole(leaf: Any) -> Any:
        if leaf.is_fully_addressable:
            return leaf
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        if leaf.ndim < 3:
            found = jax.jit(lambda x: x, out_shardings=everywhere)(leaf)
            return np.asarray(found) if keep else None
        layer = jax.jit(lambda x, i: x[i], out_shardings=everywhere)
        out = np.empty(leaf.shape, leaf.dtype) if keep else None
        for i in range(leaf.shape[0]):
            found = layer(leaf, i)  # on all hosts, whoever keeps it
            if out is not None:
                out[i] = np.asarray(found)
        return out

    return jax.tree.map(whole, tree)


def abstract_state(agent: Agent, init: Callable) -> Any:
    """Shapes and types of a state at step 0, without places."""
    own = agent.critic == "separate" and not agent.rank

    def shaped(leaves):
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "float32"), leaves
        )

    critic = None
    if agent.critic != "none":
        critic = shaped(heads.abstract(agent.critic_config, trunk=own))
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    begin = functools.partial(_begin, agent, init)
    return jax.eval_shape(begin, shaped(lm.abstract(agent.config)), critic, key)


def _begin(agent: Agent, init: Callable, actor, critic, key):
    reference = None
    if agent.config.dtype == "bfloat16":
        reference = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), actor)
    if agent.rank:
        reference = actor if reference is None else reference
        actor, critic = assemble.adapters(agent, critic, key)
    return init(actor, critic, key, reference)
