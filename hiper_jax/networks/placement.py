"""Where a run's state lies: one device, or a mesh that was checked beforehand."""

import functools
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from hiper_jax import lm
from hiper_jax.experiments import config as configs
from hiper_jax.lm import sharding, weights
from hiper_jax.lm import value_heads as heads
from hiper_jax.networks import agent as agents
from hiper_jax.networks import assemble as trained
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.shapes import shapes_of
from hiper_jax.update import step as learning


def lay_out(directory, config: configs.Train) -> Any:
    """Makes the mesh of a run whose model lies in `directory`; None for one device.

    Raises:
      ValueError: the devices, the model or the chunk do not fit it.
    """
    mesh = config.mesh
    if mesh.size == 1:
        return None
    laid = sharding.make_mesh(mesh.data, mesh.fsdp, mesh.tensor)
    model = weights.read_config(directory)
    sharding.shardings(lm.abstract(model), laid)
    rows = shapes_of(config.reading, config.episodes, config.world.max_turns).rows[0]
    check_chunk(min(config.learn.chunk, rows), laid)
    return laid


def check_chunk(chunk: int, mesh: Any) -> None:
    """Raises ValueError where devices would hold unequal parts of a chunk."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if chunk % ways:
        raise ValueError(
            f"learn.chunk is {chunk} turns, which data x fsdp = {ways} does not "
            f"divide; set --learn.chunk to {-(-chunk // ways) * ways}"
        )


def fresh_state(agent: Agent, actor, critic, actor_tx, critic_tx, key):
    """A state at step 0, every part of it where it belongs.

    Under bfloat16 the reference is kept as it is read, in half the bytes.
    """

    init = functools.partial(_init, agent, actor_tx, critic_tx)
    if agent.mesh is None:
        # Placed as a whole, as the update returns it: one program, not two.
        return jax.device_put(init(actor, critic, key), jax.devices()[0])
    places = state_places(agent, jax.eval_shape(init, actor, critic, key))
    # What becomes the reference cannot also be reused, but for an adapter's base.
    donated = () if agent.rank else (0, 1)
    return jax.jit(init, out_shardings=places, donate_argnums=donated)(
        actor, critic, key
    )


def state_places(agent: Agent, state: Any) -> learning.TrainState:
    """Shardings of a state on the agent's mesh, given its arrays or their shapes."""
    actor, critic = (
        functools.partial(sharding.state_shardings, leaves=leaves, mesh=agent.mesh)
        for leaves in agent.leaves
    )
    everywhere = NamedSharding(agent.mesh, PartitionSpec())
    return learning.TrainState(
        step=everywhere,
        actor=actor(state.actor),
        critic=critic(state.critic),
        reference=sharding.state_shardings(
            state.reference, lm.abstract(agent.config), agent.mesh
        ),
        actor_opt=actor(state.actor_opt),
        critic_opt=critic(state.critic_opt),
        key=everywhere,
    )


def serving_places(agent: Agent) -> Any:
    """Shardings of the weights to sample with, on the agent's mesh."""
    return sharding.serving_shardings(agent.served, agent.mesh)


def compiled_update(agent: Agent, actor_tx, critic_tx, settings, **options: Any):
    """The agent's update, ready to be given a state from `fresh_state`.

    Args:
      agent: the networks and where they lie.
      actor_tx, critic_tx: optimizers.
      settings: of the update.
      **options: of `make_update`.
    """
    update = learning.make_update(
        agents.score(agent),
        agents.read_values(agent),
        actor_tx,
        critic_tx,
        settings,
        joint=agents.joint(agent),
        complete=trained.complete(agent),
        **options,
    )
    if agent.mesh is None:
        return learning.compile_update(update)
    everywhere = NamedSharding(agent.mesh, PartitionSpec())
    state = abstract_state(agent, actor_tx, critic_tx)
    places = (state_places(agent, state), everywhere, everywhere)
    return learning.compile_update(update, places=places)


def abstract_state(agent: Agent, actor_tx, critic_tx) -> learning.TrainState:
    """Shapes and types of a fresh state, without places."""
    own = not agent.shared and not agent.rank
    trees = lm.abstract(agent.config), heads.abstract(agent.critic_config, trunk=own)
    actor, critic = (
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "float32"), leaves)
        for leaves in trees
    )
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    init = functools.partial(_init, agent, actor_tx, critic_tx)
    return jax.eval_shape(init, actor, critic, key)


def _init(agent: Agent, actor_tx, critic_tx, actor, critic, key):
    reference = None
    if agent.config.dtype == "bfloat16":
        reference = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), actor)
    if agent.rank:
        reference = actor if reference is None else reference
        actor, critic = trained.adapters(agent, critic, key)
    return learning.init(actor, critic, actor_tx, critic_tx, key, reference)
