"""What of the networks is trained, and how whole networks are assembled from it."""

from collections.abc import Callable
from typing import Any

import jax

from hiper_jax.lm import qwen_lora as lora
from hiper_jax.lm import sharding
from hiper_jax.networks.agent import Agent


def assemble(agent: Agent) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """`Model.assemble`: adapters stand on the reference, which never moves, and a
    shared critic on the actor's trunk."""

    def apply(reference, actor, critic):
        actor, critic = held(agent, actor, 0), held(agent, critic, 1)
        if agent.rank:
            actor = lora.attach(reference, actor, agent.alpha)
        if agent.critic == "none":
            return actor, None
        if agent.critic == "shared":
            return actor, critic | {"trunk": actor}
        if agent.rank:
            trunk = lora.attach(reference, critic["adapter"], agent.alpha)
            critic = {k: v for k, v in critic.items() if k != "adapter"}
            critic["trunk"] = trunk
        return actor, critic

    return apply


def policy(agent: Agent, state: Any, *, valued: bool = False) -> Any:
    """The weights to sample with, given a TrainState; adapters stay beside.

    Args:
      agent: whose networks.
      state: the TrainState.
      valued: the value heads on the shared trunk come along, see `make_sampler`.
    """
    weights = state.actor
    if agent.rank:
        weights = lora.attach(state.reference, state.actor, agent.alpha)
    return weights | state.critic if valued else weights


def merged(agent: Agent, state: Any) -> tuple[Any, Any]:
    """Actor and critic of a TrainState as plain weights, to be saved."""
    if not agent.rank:
        return state.actor, state.critic

    def merge(adapter):
        base = jax.tree.map(lambda leaf: leaf.astype("float32"), state.reference)
        return lora.merge(base, adapter, agent.alpha)

    if agent.critic == "none":
        return merge(state.actor), None
    critic = dict(state.critic)
    if agent.critic == "separate":
        trunk = merge(critic.pop("adapter"))
        critic["trunk"] = {k: v for k, v in trunk.items() if k != "head"}
    return merge(state.actor), critic


def adapters(agent: Agent, critic: Any, key: Any) -> tuple[Any, Any]:
    """Adapters that change nothing yet: the actor's; the critic's, beside its heads."""
    of_actor, of_critic = jax.random.split(jax.random.wrap_key_data(key))
    if agent.critic == "separate":
        critic = critic | {"adapter": lora.init(agent.config, of_critic, agent.rank)}
    return lora.init(agent.config, of_actor, agent.rank), critic


def held(agent: Agent, params: Any, which: int) -> Any:
    """What is trained of actor (0) or critic (1), it and its gradients in place."""
    if agent.mesh is None or params is None:
        return params
    whole = agent.fetches_once
    return sharding.hold(agent.leaves[which], agent.mesh, whole=whole)(params)
