"""The settings of a run -> the functions it is made of."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hiper_jax.act import teach
from hiper_jax.act.chat_template import CLOCK, THINKING
from hiper_jax.act.envs.world import load_world, world_of
from hiper_jax.act.episode import Episode
from hiper_jax.act.rollout import Reader, make_reader
from hiper_jax.act.stack import Batch, stack
from hiper_jax.experiments.config import Reading, Train, estimator_of
from hiper_jax.experiments.redraw import Drawn
from hiper_jax.networks import assemble, placement
from hiper_jax.networks.agent import Agent, load_agent
from hiper_jax.networks.passes import make_model
from hiper_jax.networks.sampler import make_sampler, served_here
from hiper_jax.networks.shapes import Shapes, shapes_of
from hiper_jax.networks.states import make_embedder
from hiper_jax.update.state import Optimizers, TrainState
from hiper_jax.update.step import compile_update, make_update


class Functions(NamedTuple):
    """What a run calls; nothing is compiled yet."""

    update: Callable  # (state, batch) -> state, metrics, turns; jitted
    make_policy: Callable  # (params, key, temperature) -> a rollout's sampler
    policy: Callable[[TrainState], Any]  # what `make_policy` is given
    make_embed: Callable  # (weights to sample with) -> tells strategies apart
    init_state: Callable[..., TrainState]  # (actor, critic, key) -> placed state
    init: Callable[..., TrainState]  # the same as a pure function, for its shapes
    shapes: Shapes
    here: Shapes  # of what one host plays and stacks; all, if it is alone


def build(
    config: Train, agent: Agent, shapes: Shapes | None = None, hosts: int = 1
) -> Functions:
    """The update, the sampler and a state at step 0, in the shapes of a run."""
    shapes = shapes or run_shapes(config)
    here = shapes if hosts == 1 else run_shapes(config, hosts)
    estimator = estimator_of(config)
    init, update = make_update(
        make_model(agent, estimator.heads),
        estimator,
        optimizers(config),
        config.learn,
        shapes.lengths,
        schedule=schedule_of(config),
        temperature=config.temperature,
    )
    update = compile_update(update, places=placement.update_places(agent, init))

    def init_state(actor, critic, key) -> TrainState:
        return placement.init_state(agent, init, actor, critic, key)

    serving = config.mesh.serving if hosts > 1 else "host"
    played = here if serving == "host" else shapes
    heads = sampled_heads(config)
    make_policy = sampler_of(agent, config.reading, played, serving, heads)
    policy = functools.partial(assemble.policy, agent, valued=bool(heads))
    local = served_here(agent) if serving == "host" else agent
    make_embed = make_embedder(local, rows=here.slots[-1], length=shapes.lengths[-1])
    return Functions(
        update, make_policy, policy, make_embed, init_state, init, shapes, here
    )


def sampled_heads(config: Train) -> tuple[str, ...]:
    """The value heads that are read while sampling: the estimator's, or none.

    A shared trunk's states are at hand then. The sampler's and the trainer's differ by
    rounding: in float32 values agree within 1e-5; under 16 bits they do not, and are
    read by a pass of their own. Episodes from disk have none.
    """
    here = config.critic == "shared" and not config.offline
    return estimator_of(config).heads if here and config.dtype == "float32" else ()


def run_shapes(config: Train, hosts: int = 1, *, platform: str | None = None) -> Shapes:
    """The buckets that a run is compiled for; of one host's share of it.

    `platform` names devices that may not be here.
    """
    return shapes_of(
        max_prompt=config.reading.max_prompt,
        max_response=config.reading.max_response,
        episodes=config.episodes // hosts,
        max_turns=config.world.turns,
        slots=-(-max(config.slots // hosts, 1) // waves_of(config, platform)),
        strategies=config.strategies,
        platform=platform,
    )


def waves_of(config: Train, platform: str | None = None) -> int:
    """How many groups of slots take turns, on devices here or of a platform."""
    if config.waves or config.mesh.serving == "all" or config.slots == 1:
        return config.waves or 1
    return 1 if (platform or jax.default_backend()) == "cpu" else 2


def load_for(directory, config: Train, mesh: Any = None) -> tuple[Agent, Any, Any]:
    """`load_agent` with the settings of a run."""
    return load_agent(directory, mesh=mesh, **agent_settings(config))


def agent_settings(config: Train) -> dict[str, Any]:
    """What a run asks of its networks, see `load_agent`."""
    return {
        "dtype": config.dtype,
        "remat": config.remat,
        "critic": config.critic if config.has_critic else "none",
        "trunk_gradient": config.trunk_gradient,
        "rank": config.lora_rank,
        "alpha": config.lora_alpha,
        "fetch": config.mesh.fetch,
    }


def mesh_for(directory: pathlib.Path, config: Train) -> Any:
    """The mesh of a run whose model lies in `directory`; None for one device."""
    return placement.make_mesh(
        directory,
        data=config.mesh.data,
        fsdp=config.mesh.fsdp,
        tensor=config.mesh.tensor,
        chunk=config.learn.chunk,
        rows=run_shapes(config).rows[0],
    )


def reader_of(agent: Agent, reading: Reading, environment: str) -> Reader:
    """How this agent's prompts are written and its responses read."""
    thinking, clock = THINKING[reading.enable_thinking], reading.clock or CLOCK
    return make_reader(
        load_world(environment),
        agent.codec.set_template(thinking, clock),
        style=reading.style,
        max_prompt=reading.max_prompt,
        history_length=reading.history_length,
        mode=reading.mode,
        keep_copies=reading.keep_copies,
        format=reading.format,
        strategy_style=reading.strategy_style,
        show_turn=reading.show_turn,
    )


def stacked(
    agent: Agent,
    episodes: Sequence[Episode],
    reading: Reading,
    shapes: Shapes,
    *,
    max_turns: int,
    num_episodes: int,
) -> Batch:
    """The Batch of some episodes, in the one shape that a run's update takes."""
    return stack(
        episodes,
        agent.pieces,
        max_turns=max_turns,
        max_response=reading.max_response,
        pad_id=agent.codec.pad_id,
        mode=reading.mode,
        format=reading.format,
        row_buckets=shapes.rows,
        length_buckets=shapes.lengths[-1:],
        num_episodes=num_episodes,
    )


def with_teacher(
    batch: Batch, drawn: Drawn, config: Train, agent: Agent, reader: Reader
) -> Batch:
    """The batch with a teacher's rows, where the estimator reads a teacher."""
    if not estimator_of(config).reads_teacher:
        return batch
    solution = world_of(config.world).solution
    assert solution is not None  # `check_teacher` has looked
    known = {game: solution(config.world, task) for game, task in drawn.tasks.items()}
    longest = config.reading.max_teacher_prompt
    episodes = drawn.episodes
    prompts = teach.teacher_prompts(
        episodes, [known[e.game] for e in episodes], reader, longest
    )
    pad = agent.codec.pad_id
    return teach.with_teacher(batch, prompts, max_prompt=longest, pad_id=pad)


def check_hosts(config: Train, hosts: int) -> None:
    """Refuses what several hosts cannot share out, before anything is loaded.

    Raises:
      ValueError: one line that says what to set.
    """
    if hosts == 1:
        return
    tasks, devices = config.episodes // config.siblings, jax.device_count()
    if tasks % hosts:
        raise ValueError(
            f"{tasks} tasks of {config.siblings} episodes are no equal share for each "
            f"of {hosts} hosts: set --episodes to a multiple of "
            f"{config.siblings * hosts}"
        )
    if config.mesh.size != devices:
        raise ValueError(
            f"{hosts} hosts have {devices} devices in all, the mesh is "
            f"{config.mesh.data} x {config.mesh.fsdp} x {config.mesh.tensor}: set "
            "--mesh.data, --mesh.fsdp and --mesh.tensor to a product of that many"
        )
    if config.writes_strategies and config.mesh.serving == "all":
        raise ValueError(
            f"{config.estimator} compares strategies by the weights that a host has "
            "to sample with, which no host has with --mesh.serving all: set host"
        )


def check_teacher(config: Train) -> None:
    """Raises ValueError where a teacher is needed and nobody knows the solution."""
    if estimator_of(config).reads_teacher and not world_of(config.world).solution:
        raise ValueError(
            f"{config.estimator} shows a teacher the solution of a task, which "
            f"{config.world.environment} does not know: give its World a `solution`, "
            "or choose another estimator"
        )


def check_strategies(config: Train) -> None:
    """Raises ValueError where strategies are needed and no wording speaks of them."""
    known = load_world(config.world.environment).strategies
    style = config.reading.strategy_style or config.reading.style
    if config.writes_strategies and style not in known:
        raise ValueError(
            f"{config.estimator} writes strategies, which the prompt style "
            f"{style!r} of {config.world.environment} has no wording "
            "for: give its World one under `strategies`, or choose another style"
        )


def sampler_of(
    agent: Agent,
    reading: Reading,
    shapes: Shapes,
    serving: Literal["host", "all"] = "host",
    heads: tuple[str, ...] = (),
):
    """`make_sampler` with the shapes of a run."""
    return make_sampler(
        agent,
        max_response=reading.max_response,
        slot_buckets=shapes.slots,
        prompt_buckets=shapes.prompts,
        serving=serving,
        heads=heads,
    )


def schedule_of(config: Train) -> Callable[[jax.Array], jax.Array]:
    """Iteration -> factor on the actor's steps: nought, rising, then falling."""
    first = config.critic_first if config.has_critic else 0

    def schedule(step):
        rising = (step + 1 - first) / max(config.lr_warmup, 1)
        fallen = 1 - (1 - config.lr_end) * step / config.num_updates
        return jnp.clip(rising, 0.0, 1.0) * fallen

    return schedule


def optimizers(config: Train) -> Optimizers:
    """Adam for each network, gradients clipped by their global norm."""
    rates = [config.actor_lr] + [config.critic_lr] * config.has_critic
    return Optimizers(
        *(
            optax.chain(
                optax.clip_by_global_norm(config.max_grad_norm), optax.adam(rate)
            )
            for rate in rates
        )
    )
