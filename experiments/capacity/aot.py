"""The real programs of a run, lowered from shapes alone: nothing is allocated."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from hiper_jax.act.codec import Codec
from hiper_jax.act.stack import Batch
from hiper_jax.experiments import config as configs
from hiper_jax.experiments.setup import Functions, build, run_shapes, sampled_heads
from hiper_jax.lm import LMConfig, sharding
from hiper_jax.networks import placement
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.sampler import served, server
from hiper_jax.networks.shapes import Shapes


def bare_agent(model: LMConfig, config: configs.Train, mesh: Any) -> Agent:
    """An agent of a shape that has no weights and no tokenizer."""
    model = dataclasses.replace(model, dtype=config.dtype)
    return Agent(
        model,
        model,
        Codec(None, eos_id=1, pad_id=0, chat=False),  # all that generation asks
        None,
        mesh=mesh,
        remat=config.remat,
        critic=config.critic if config.has_critic else "none",
        trunk_gradient=config.trunk_gradient,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        fetch=config.mesh.fetch,
    )


def lower_update(agent: Agent, config: configs.Train, *, longest: bool = False) -> Any:
    """Lowers the update of a run, for the devices of the agent's mesh.

    Args:
      agent: whose networks, on a mesh.
      config: the run's.
      longest: feeds every chunk at the longest length. Shorter buckets are branches of
        the same loop: they add code, and on a TPU memory, see `memory.update`.

    Returns:
      A `jax.stages.Lowered`.
    """
    shapes = run_shapes(config, platform=agent.mesh.devices.flat[0].platform)
    if longest:
        shapes = shapes._replace(lengths=shapes.lengths[-1:])
    functions = _functions(config, agent, shapes)
    state = placement.abstract_state(agent, functions.init)
    state = sharding.placed(state, placement.state_places(agent, state))
    batch = abstract_batch(shapes, config)
    return functions.update.lower(state, sharding.placed(batch, _everywhere(agent)))


def lower_generation(agent: Agent, config: configs.Train) -> Any:
    """Lowers sampling for all slots at the longest prompt."""
    shapes = run_shapes(config, platform=agent.mesh.devices.flat[0].platform)
    functions = _functions(config, agent, shapes)
    heads = sampled_heads(config)
    tree = served(agent, heads)
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "float32"), tree
    )
    weights = jax.eval_shape(server(agent, heads), params)
    places = sharding.serving_shardings(tree, agent.mesh)
    weights = sharding.placed(weights, places)
    rows, width = config.slots, functions.shapes.prompts[-1]
    everywhere = _everywhere(agent)
    others = (
        jax.ShapeDtypeStruct((rows, width), jnp.int32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
        jax.eval_shape(functools.partial(jax.random.key, 0)),
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )
    return functions.make_policy.lower(weights, *sharding.placed(others, everywhere))


def _functions(config: configs.Train, agent: Agent, shapes: Shapes) -> Functions:
    """Those of a run that samples on the whole mesh: no host of it is here."""
    together = dataclasses.replace(config.mesh, serving="all")
    config = dataclasses.replace(config, mesh=together)
    return build(config, agent, shapes, hosts=2)


def abstract_batch(shapes: Shapes, config: configs.Train) -> Batch:
    """Shapes of a stacked batch of a run."""
    B, T = config.episodes, config.world.turns
    N, L, R = shapes.rows[0], shapes.lengths[-1], config.reading.max_response
    sizes = {
        (N, L): {"tokens": "int32"},
        (N,): {
            **dict.fromkeys(("start", "length", "value_low_at"), "int32"),
            "is_turn": "bool",
        },
        (N, R): {
            "response": "int32",
            "old_log_prob": "float32",
            **dict.fromkeys(
                ("response_mask", "action_mask", "subgoal_mask", "switch_mask"), "bool"
            ),
        },
        (): dict.fromkeys(("num_rows", "num_turns"), "int32"),
        (B,): {"next_row": "int32", "group": "int32", "won": "bool"},
        (B, T): {
            **dict.fromkeys(
                ("row", "segment", "subgoal_id", "anchor", "action"), "int32"
            ),
            "reward": "float32",
            **dict.fromkeys(
                (
                    "valid",
                    "said_switch",
                    "terminated",
                    "format_valid",
                    "action_valid",
                    "has_action",
                    "has_subgoal",
                    "has_switch",
                ),
                "bool",
            ),
        },
    }
    if heads := sampled_heads(config):
        sizes |= {(N, R, len(heads)): {"sampled_value": "float32"}}
        sizes[N,] |= {"is_valued": "bool"}
    if configs.estimator_of(config).reads_teacher:
        longest = config.reading.max_teacher_prompt + R
        sizes |= {(N, longest): {"teacher_tokens": "int32"}}
        sizes[N,] |= dict.fromkeys(("teacher_start", "teacher_length"), "int32")
    if config.writes_strategies:
        sizes[B,] |= dict.fromkeys(("strategy", "strategy_row"), "int32")
        sizes[B, T] |= {"flagged": "bool"}
    return Batch(
        **{
            name: jax.ShapeDtypeStruct(shape, dtype)
            for shape, fields in sizes.items()
            for name, dtype in fields.items()
        }
    )


def _everywhere(agent: Agent) -> NamedSharding:
    return NamedSharding(agent.mesh, PartitionSpec())
