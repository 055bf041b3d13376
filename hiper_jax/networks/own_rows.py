"""Weights fetched once a step: whole on each device, but for what tensor cuts."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import PartitionSpec

from hiper_jax import lm
from hiper_jax.lm import sharding, sharding_rows
from hiper_jax.lm.params import ParamSpec
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.model import OwnRows


def own_rows(agent: Agent) -> OwnRows | None:
    """`Model.own_rows` of an agent; None where weights are fetched for every chunk."""
    if not agent.fetches_once:
        return None
    of_actor, of_critic = agent.leaves
    specs = lm.abstract(agent.config), of_actor, of_critic

    def fetch(*networks: Any) -> tuple[Any, ...]:
        return tuple(
            None if params is None else whole(agent, spec, params)
            for spec, params in zip(specs, networks, strict=True)
        )

    def run(fn: Callable[..., Any], *args: Any) -> Any:
        return sharding_rows.by_rows(fn, agent.mesh)(*args)

    def summed(fn: Callable[..., Any], leaves: Any, *args: Any) -> Any:
        def total(*args: Any) -> Any:
            gradients, metrics, worst = fn(*args)
            gradients = sharding_rows.added_up(leaves, gradients)
            metrics = jax.lax.psum(metrics, sharding.ROWS)
            return gradients, metrics, jax.lax.pmax(worst, sharding.ROWS)

        everywhere = PartitionSpec()
        places = sharding_rows.parts(leaves), everywhere, everywhere
        return sharding_rows.by_rows(total, agent.mesh, places)(*args)

    share, join = sharding_rows.own_rows, sharding_rows.all_rows
    return OwnRows(fetch, run, summed, share, join, agent.leaves)


def whole(agent: Agent, specs: Any, params: Any) -> Any:
    """Weights on every device, those that are multiplied in the compute type.

    A chunk would make the same numbers of them. Tables travel so, too, but are float32
    again where they arrive: in bfloat16 gradients of a frequent token would not add up.
    Small weights, and adapters, which are scaled in float32, travel as they are.
    """
    travel = jax.tree.map(
        lambda spec, leaf: (
            leaf.astype(agent.config.dtype)
            if _multiplied(spec) and not agent.rank
            else leaf
        ),
        specs,
        params,
    )
    assert agent.mesh is not None
    arrived = sharding.hold(specs, agent.mesh, whole=True)(travel)

    def back(spec: ParamSpec, leaf: Array, was: Array) -> Array:
        return leaf.astype(was.dtype) if "vocab" in spec.axes else leaf

    return jax.tree.map(back, specs, arrived, params)


def _multiplied(spec: ParamSpec) -> bool:
    """Whether it is a matrix: of a layer, or a table."""
    return "vocab" in spec.axes or (spec.axes[0] == "layer" and len(spec.axes) > 2)
