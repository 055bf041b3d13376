"""`--precompile`: every program of a run, before weights are read and games played.

What is compiled is what the run then calls, function by function and place by place,
so that the call finds it in memory; a test holds the run to that.
"""

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from hiper_jax.experiments.capacity.aot import abstract_batch
from hiper_jax.experiments.config import Train
from hiper_jax.experiments.setup import Functions, sampled_heads
from hiper_jax.lm import sharding
from hiper_jax.networks import placement
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.sampler import served


def precompile(
    config: Train, agent: Agent, functions: Functions, say: Callable[[str], None]
) -> None:
    """Compiles all that a run will call, several at once, and says how long it took.

    Args:
      config: the run's.
      agent: whose networks; their weights need not be there.
      functions: those that the run goes on with.
      say: told the names and the seconds.

    Raises:
      ValueError: there are several processes.
    """
    if jax.process_count() > 1:
        raise ValueError(
            "--precompile is for one process: leave it out where there are several; "
            "what is compiled is kept for the next start"
        )
    began = time.monotonic()
    programs = lowered(config, agent, functions)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda program: program.compile(), programs.values()))
    seconds = time.monotonic() - began
    say(f"compiled {len(programs)} programs in {seconds:.1f} s: {', '.join(programs)}")


def lowered(config: Train, agent: Agent, functions: Functions) -> dict[str, Any]:
    """The update, the sampler at every shape, and what hands weights to it.

    Returns:
      `jax.stages.Lowered` by name.
    """
    state = placement.abstract_state(agent, functions.init)
    policy = jax.eval_shape(functions.policy, state)
    if agent.mesh is None:
        here = SingleDeviceSharding(jax.devices()[0])
        state, policy = sharding.placed(state, here), sharding.placed(policy, here)
    else:
        state = sharding.placed(state, placement.state_places(agent, state))
        given = served(agent, sampled_heads(config))
        policy = sharding.placed(policy, sharding.shardings(given, agent.mesh))
    batch = abstract_batch(functions.shapes, config)
    return {
        "update": functions.update.lower(state, batch),
        **functions.make_policy.lower_all(policy),
    }
