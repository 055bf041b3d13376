"""An agent's weights -> the function that a rollout samples with."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hiper_jax import lm
from hiper_jax.act.generate import Generate, make_generate, respond
from hiper_jax.act.rollout import Sampled
from hiper_jax.lm import sharding, value_heads
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.passes import select

# Tokens of room for a response from which on batches shrink, see `narrower`.
LONG = 128


def make_sampler(
    agent: Agent,
    *,
    max_response: int,
    slot_buckets: tuple[int, ...],
    prompt_buckets: tuple[int, ...],
    serving: Literal["host", "all"] = "host",
    heads: tuple[str, ...] = (),
):
    """Compiles generation once; the result samples with given weights and key.

    Args:
      agent: the networks' shapes and places.
      max_response: tokens, the end of message included. With `LONG` or more a batch
        shrinks to the rows that go on, see `narrower`.
      slot_buckets: allowed numbers of rows; rounded up to what the mesh divides.
      prompt_buckets: allowed lengths of prompts.
      serving: on each host's own devices, or on the whole mesh: all hosts then call
        with the same rows, and get all answers.
      heads: names of value heads on the actor's trunk that are read while sampling, in
        the estimator's order; params then hold them, see `assemble.policy`.

    Returns:
      make_policy(params, key, temperature) -> a rollout's `Sampler`, whose rows draw
      from (key, episode index, turn) alone. `make_policy.programs()` counts what was
      compiled. It is `make_policy.of(make_policy.lay_out(params), key, temperature)`:
      all hosts lay out together, then each samples as often as it likes.
    """
    local = served_here(agent) if serving == "host" else agent
    everywhere = None
    if serving == "all" and agent.mesh is not None:
        everywhere = NamedSharding(agent.mesh, PartitionSpec())
    generate = make_generate(
        *generation(local, heads),
        max_new=max_response,
        eos_id=agent.codec.end_ids,
        pad_id=agent.codec.pad_id,
        known=agent.known,
        narrow=narrower(slot_buckets, max_response, local.mesh),
        take_rows=lm.take_rows,
        places=everywhere,
    )
    serve = server(agent, heads)
    slot_buckets = divisible(slot_buckets, local.mesh)

    def lay_out(params):
        weights = serve(params)
        return taken_over(weights, local.mesh) if serving == "host" else weights

    def policy_of(weights, key, temperature):
        def sample(prompts, index, turn):
            # An episode has far fewer turns than 4096: no two rows share a name.
            answers = respond(
                generate,
                weights,
                prompts,
                index * 4096 + turn,
                key,
                temperature,
                rows=slot_buckets,
                tokens=prompt_buckets,
            )
            return Sampled(*map(list, zip(*answers, strict=True)))

        return sample

    def make_policy(params, key, temperature):
        return policy_of(lay_out(params), key, temperature)

    make_policy.lay_out, make_policy.of = lay_out, policy_of
    make_policy.programs = generate.programs
    make_policy.lower = generate.lower
    make_policy.lower_all = functools.partial(
        lower_all,
        local,
        serve,
        generate,
        slots=slot_buckets,
        prompts=prompt_buckets,
        heads=heads,
    )
    return make_policy


def served_here(agent: Agent) -> Agent:
    """The agent on this host's part of the mesh, where its episodes are sampled.

    Each host has a copy of the weights to sample with, cut along tensor as those that
    are trained. On one host it is the mesh itself.

    Raises:
      ValueError: a host has not all of a copy.
    """
    if agent.mesh is None:
        return agent
    local = agent.mesh.local_mesh
    if local.shape["tensor"] != agent.mesh.shape["tensor"]:
        raise ValueError(
            f"a copy of the weights is cut in {agent.mesh.shape['tensor']} along "
            f"tensor, of which one host has {local.shape['tensor']} parts: set "
            "--mesh.tensor to a divisor of a host's devices, or --mesh.serving all"
        )
    return dataclasses.replace(agent, mesh=local)


def taken_over(weights: Any, mesh: Mesh | None) -> Any:
    """This host's copy of weights that are repeated on all hosts; nothing travels."""
    if mesh is None or all(x.is_fully_addressable for x in jax.tree.leaves(weights)):
        return weights

    def local(leaf: jax.Array) -> jax.Array:
        assert isinstance(leaf.sharding, NamedSharding)
        return jax.make_array_from_single_device_arrays(
            leaf.shape,
            NamedSharding(mesh, leaf.sharding.spec),
            [shard.data for shard in leaf.addressable_shards],
        )

    return jax.tree.map(local, weights)


def lower_all(
    agent: Agent,
    serve: Callable,
    generate: Generate,
    params: Any,
    *,
    slots: tuple[int, ...],
    prompts: tuple[int, ...],
    heads: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Every program that sampling may call, of shapes alone.

    Args:
      agent: the networks' shapes and places.
      serve: see `server`.
      generate: see `make_generate`.
      params: shapes of the weights, with their places.
      slots, prompts: the buckets.
      heads: see `make_sampler`.

    Returns:
      `jax.stages.Lowered` by name.
    """
    found = {"serve": serve.lower(params)} if hasattr(serve, "lower") else {}
    weights = jax.eval_shape(serve, params)
    places: Any = jax.tree.leaves(params)[0].sharding
    if agent.mesh is not None:
        places = sharding.serving_shardings(served(agent, heads), agent.mesh)
    weights = sharding.placed(weights, places)
    key = jax.eval_shape(functools.partial(jax.random.key, 0))
    for S, P in itertools.product(slots, prompts):
        rows = jax.ShapeDtypeStruct((S,), "int32")
        others = jax.ShapeDtypeStruct((S, P), "int32"), rows, key
        heat = jax.ShapeDtypeStruct((), "float32")
        found[f"sample {S} x {P}"] = generate.lower(weights, *others, heat, rows)
    return found


def narrower(
    slots: tuple[int, ...], max_response: int, mesh: Mesh | None
) -> tuple[int, ...]:
    """Row counts that a batch may shrink to while it is answered, or none.

    Responses of less room end within few steps of each other, and every count is one
    more loop to compile. Rows on several devices would have to travel between them.
    """
    return slots if max_response >= LONG and ways_of(mesh) == 1 else ()


def ways_of(mesh: Mesh | None) -> int:
    """How many devices have rows of their own."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def divisible(slots: tuple[int, ...], mesh) -> tuple[int, ...]:
    """Row counts of which every device holds the same number."""
    ways = ways_of(mesh)
    return tuple(sorted({-(-s // ways) * ways for s in slots}))


def generation(agent: Agent, heads: tuple[str, ...] = ()) -> tuple[Callable, Callable]:
    """`prefill` and `decode_step` of the actor, placed; with value heads, if any."""
    config, placed = agent.config, agent.on_mesh()
    placing = {k: v for k, v in placed.items() if k == "constrain"}

    def read(params, hidden):
        logits = lm.next_logits(params, config, hidden, **placing)
        if not heads:
            return logits
        return logits, select(value_heads.head_values(params, hidden), heads)

    def prefill(params, tokens, lengths, room):
        hidden, cache = lm.read_prompts(params, config, tokens, lengths, room, **placed)
        return read(params, hidden), cache

    def decode_step(params, token, cache):
        hidden, cache = lm.read_token(params, config, token, cache, **placing)
        return read(params, hidden), cache

    return prefill, decode_step


def served(agent: Agent, heads: tuple[str, ...] = ()) -> Any:
    """Abstract tree of what a sampler with these value heads is given."""
    if not heads:
        return agent.served
    return agent.served | value_heads.abstract(agent.config, trunk=False)


def server(agent: Agent, heads: tuple[str, ...] = ()) -> Callable:
    """Training weights -> weights to sample with, of the type that is computed in."""
    dtype = None if agent.config.dtype == "float32" else agent.config.dtype
    if agent.mesh is None and dtype is None:
        return lm.unstack_layers
    places = None
    if agent.mesh is not None:
        places = sharding.serving_shardings(served(agent, heads), agent.mesh)
    serve = functools.partial(lm.unstack_layers, dtype=dtype)
    return jax.jit(serve, out_shardings=places)
