"""A directory of weights -> the functions that rollout and update are given.

DIR/config.json, model.safetensors, tokenizer.json      the actor
DIR/critic/config.json, model.safetensors               its critic, if it has one
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax

from hiper_jax import lm
from hiper_jax.act.codec import Codec, load_codec
from hiper_jax.act.generate import make_generate, respond
from hiper_jax.act.pieces import piece_table
from hiper_jax.act.rollout import Reader, Sampled
from hiper_jax.act.stack import stack
from hiper_jax.experiments import config as configs
from hiper_jax.experiments.config import Reading
from hiper_jax.lm import qwen_lora as lora
from hiper_jax.lm import sharding, weights
from hiper_jax.lm import value_heads as heads
from hiper_jax.networks.shapes import Shapes


@dataclasses.dataclass(frozen=True)
class Agent:
    """The networks' shapes and places, and the tokenizer; the weights travel apart."""

    config: lm.LMConfig
    critic_config: lm.LMConfig
    codec: Codec
    pieces: Any  # the tokenizer's piece table, for masks
    mesh: Any = None  # where weights and rows lie; None: on one device
    remat: str = "none"  # what gradients recompute, see `qwen.forward`
    shared: bool = False  # the critic is heads on the actor's trunk
    trunk_gradient: float = 0.1  # of the value loss, into a shared trunk
    rank: int = 0  # of the adapters that are trained; 0: all weights are
    alpha: float = 16.0  # strength of the adapters

    @property
    def leaves(self) -> tuple[Any, Any]:
        """Abstract trees of what is trained of the actor and of the critic."""
        own = not self.shared and not self.rank
        critic = heads.abstract(self.critic_config, trunk=own)
        if not self.rank:
            return lm.abstract(self.config), critic
        if not self.shared:
            critic["adapter"] = lora.abstract(self.config, self.rank)
        return lora.abstract(self.config, self.rank), critic

    @property
    def served(self) -> Any:
        """Abstract tree of the weights to sample with."""
        tree = lm.abstract(self.config)
        adapter = lora.abstract(self.config, self.rank) if self.rank else {}
        return tree | {"layers": tree["layers"] | adapter}

    def on_mesh(self) -> dict[str, Any]:
        """What the model's functions are given to place activations by."""
        if self.mesh is None:
            return {}
        return {
            "constrain": sharding.constrain(self.mesh),
            "attention": sharding.attention(self.mesh),
        }


def load(
    directory,
    *,
    mesh: Any = None,
    dtype: str = "float32",
    remat: str = "none",
    shared: bool = False,
    trunk_gradient: float = 0.1,
    rank: int = 0,
    alpha: float = 16.0,
) -> tuple[Agent, Any, Any]:
    """Reads an actor, its tokenizer and its critic.

    A directory without `critic/` gets a critic that starts from the actor's trunk;
    so does every critic that is adapters on it.

    Args:
      directory: see above.
      mesh: weights are read straight to their places on it; None: one device.
      dtype: of what is computed; weights are float32.
      remat, shared, trunk_gradient, rank, alpha: see `Agent`.

    Returns:
      The agent, the actor's weights and the critic's.

    Raises:
      FileNotFoundError, ValueError: something is missing or of another shape.
    """
    directory = pathlib.Path(directory)
    codec = load_codec(directory)
    config = weights.read_config(directory, dtype=dtype)
    if codec.vocab_size > config.vocab_size:
        raise ValueError(
            f"{directory}: the tokenizer knows {codec.vocab_size} tokens, the model "
            f"{config.vocab_size}; use the tokenizer that the model was trained with"
        )
    source = directory / "critic"
    known = source.is_dir()
    bare = shared or rank > 0  # the critic is read as heads only
    own = known and weights.owns_trunk(source) and not bare
    critic_config = weights.read_config(source, dtype=dtype) if own else config
    agent = Agent(
        config,
        critic_config,
        codec,
        piece_table(codec.tokenizer),
        mesh=mesh,
        remat=remat,
        shared=shared,
        trunk_gradient=trunk_gradient,
        rank=rank,
        alpha=alpha,
    )
    places = critic_places = None
    if mesh is not None:
        places = sharding.shardings(lm.abstract(config), mesh)
        critic_places = sharding.shardings(heads.abstract(critic_config), mesh)
    actor = weights.load(directory, config, shardings=places)
    if own:
        critic = weights.load_critic(source, critic_config, shardings=critic_places)
        return agent, actor, critic
    if critic_places:
        critic_places = {k: v for k, v in critic_places.items() if k != "trunk"}
    if known and not weights.owns_trunk(source):
        critic = weights.load_critic(
            source, config, shardings=critic_places, trunk=False
        )
    else:
        critic = heads.init(config, jax.random.key(0), trunk=False)
        critic = jax.device_put(critic, critic_places or jax.devices()[0])
    if not bare:
        trunk = {k: v for k, v in actor.items() if k != "head"}
        critic["trunk"] = jax.tree.map(jax.numpy.copy, trunk)
    return agent, actor, critic


def load_for(
    directory, config: configs.Train, mesh: Any = None
) -> tuple[Agent, Any, Any]:
    """`load` with the settings of a run."""
    return load(
        directory,
        mesh=mesh,
        dtype=config.dtype,
        remat=config.remat,
        shared=config.critic == "shared",
        trunk_gradient=config.trunk_gradient,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
    )


def save(directory, agent: Agent, actor, critic, *, tokenizer=None) -> None:
    """Writes what `load` reads, in float32; copies the tokenizer, if one is named."""
    directory = pathlib.Path(directory)
    float32 = jax.numpy.float32
    weights.save(directory, actor, agent.config, dtype=float32, tokenizer=tokenizer)
    weights.save(directory / "critic", critic, agent.critic_config, dtype=float32)
    if not (directory / "generation_config.json").is_file():
        # Without it `transformers` would not stop at the end of a message.
        ends = {"eos_token_id": agent.codec.eos_id, "pad_token_id": agent.codec.pad_id}
        weights.write_json(directory / "generation_config.json", ends)


def reader_of(agent: Agent, reading: Reading, environment: str) -> Reader:
    """How this agent's prompts are written and its responses read."""
    return Reader(
        codec=agent.codec,
        style=reading.style,
        max_prompt=reading.max_prompt,
        history_length=reading.history_length,
        environment=environment,
        mode=reading.mode,
        keep_copies=reading.keep_copies,
    )


def stacked(agent: Agent, episodes, reading: Reading, shapes: Shapes, *, max_turns):
    """The Batch of some episodes, in the one shape that a run's update takes."""
    return stack(
        episodes,
        agent.pieces,
        max_turns=max_turns,
        max_response=reading.max_response,
        pad_id=agent.codec.pad_id,
        mode=reading.mode,
        row_buckets=shapes.rows,
        length_buckets=shapes.lengths[-1:],
    )


def sampler_of(agent: Agent, reading: Reading, shapes: Shapes):
    """`sampler` with the shapes of a run."""
    return sampler(
        agent,
        max_response=reading.max_response,
        slot_buckets=_divisible(shapes.slots, agent.mesh),
        prompt_buckets=shapes.prompts,
    )


def _divisible(slots: tuple[int, ...], mesh) -> tuple[int, ...]:
    """Row counts of which every device holds the same number."""
    ways = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    return tuple(sorted({-(-s // ways) * ways for s in slots}))


def score(agent: Agent):
    """The update's `Score`: log-probs and entropies of responses."""
    read = states_of(agent)

    def apply(params, tokens, start, targets, temperature):
        states = read(params, tokens, start, targets.shape[1])
        return lm.log_prob_and_entropy(
            params,
            agent.config,
            states,
            targets,
            temperature=temperature,
            constrain=agent.on_mesh().get("constrain"),
        )

    return apply


def read_values(agent: Agent):
    """The update's `ReadValues`: three heads at every response token."""

    def apply(params, tokens, start, num_tokens):
        return heads.values(
            params,
            agent.critic_config,
            *on_rows(agent, tokens, start),
            num_tokens,
            remat=agent.remat,
            **agent.on_mesh(),
        )

    return apply


def joint(agent: Agent):
    """The update's `Joint`: one pass of a shared trunk; None where there are two."""
    if not agent.shared:
        return None
    read = states_of(agent)
    flows = agent.trunk_gradient

    def apply(actor, critic, tokens, start, targets, temperature):
        states = read(actor, tokens, start, targets.shape[1])
        log_prob, entropy = lm.log_prob_and_entropy(
            actor,
            agent.config,
            states,
            targets,
            temperature=temperature,
            constrain=agent.on_mesh().get("constrain"),
        )
        # The same states, through which `flows` of the gradient passes.
        still = jax.lax.stop_gradient(states)
        valued = still + flows * (states - still) if flows else still
        return log_prob, entropy, heads.read_values(critic, valued)

    return apply


def states_of(agent: Agent):
    """(params, tokens, start, R) -> the states [C, R, D] before response tokens."""

    def apply(params, tokens, start, num_tokens):
        tokens, start = on_rows(agent, tokens, start)
        hidden = lm.forward(
            params, agent.config, tokens, remat=agent.remat, **agent.on_mesh()
        )
        return lm.response_hidden(hidden, start, num_tokens)

    return apply


def on_rows(agent: Agent, *arrays):
    """Chunk arrays [C, ...], cut along their rows on a mesh."""
    if agent.mesh is None:
        return arrays
    place = sharding.rows(agent.mesh)
    return tuple(jax.lax.with_sharding_constraint(a, place) for a in arrays)


def sampler(
    agent: Agent,
    *,
    max_response: int,
    slot_buckets: tuple[int, ...],
    prompt_buckets: tuple[int, ...],
):
    """Compiles generation once; the result samples with given weights and key.

    Returns:
      sample(params, key, temperature) -> a rollout's `Sampler`, whose rows draw from
      (key, episode index, turn) alone. `sample.programs()` counts what was compiled.
    """
    generate = make_generate(
        *generation(agent),
        max_new=max_response,
        eos_id=agent.codec.eos_id,
        pad_id=agent.codec.pad_id,
    )

    serve = server(agent)

    def bind(params, key, temperature):
        weights = serve(params)

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
            return Sampled([ids for ids, _ in answers], [lp for _, lp in answers])

        return sample

    bind.programs = generate.programs
    bind.lower = generate.lower
    return bind


def generation(agent: Agent):
    """`prefill` and `decode_step` of the actor, placed."""
    config, placed = agent.config, agent.on_mesh()
    placing = {k: v for k, v in placed.items() if k == "constrain"}

    def prefill(params, tokens, lengths, room):
        return lm.prefill(params, config, tokens, lengths, room, **placed)

    def decode_step(params, token, cache):
        return lm.decode_step(params, config, token, cache, **placing)

    return prefill, decode_step


def server(agent: Agent):
    """Training weights -> weights to sample with, of the type that is computed in."""
    dtype = None if agent.config.dtype == "float32" else agent.config.dtype
    if agent.mesh is None and dtype is None:
        return lm.serving
    places = None
    if agent.mesh is not None:
        places = sharding.serving_shardings(agent.served, agent.mesh)
    serve = functools.partial(lm.serving, dtype=dtype)
    return jax.jit(serve, out_shardings=places)
