"""A directory of weights -> the functions that rollout and update are given.

DIR/config.json, model.safetensors, tokenizer.json      the actor
DIR/critic/config.json, model.safetensors               its critic, if it has one
"""

import dataclasses
import pathlib
from typing import Any

import jax

from hiper_jax import lm
from hiper_jax.act.codec import Codec, load_codec
from hiper_jax.act.generate import make_generate, respond
from hiper_jax.act.pieces import piece_table
from hiper_jax.act.rollout import Reader, Sampled
from hiper_jax.experiments.config import Reading
from hiper_jax.experiments.shapes import Shapes
from hiper_jax.lm import heads, weights


@dataclasses.dataclass(frozen=True)
class Agent:
    """The networks' shapes and the tokenizer; the weights travel apart."""

    config: lm.LMConfig
    critic_config: lm.LMConfig
    codec: Codec
    pieces: Any  # the tokenizer's piece table, for masks


def load(directory, *, seed: int = 0) -> tuple[Agent, Any, Any]:
    """Reads an actor, its tokenizer and its critic.

    A directory without `critic/` gets a critic that starts from the actor's trunk.

    Returns:
      The agent, the actor's weights and the critic's.

    Raises:
      FileNotFoundError, ValueError: something is missing or of another shape.
    """
    directory = pathlib.Path(directory)
    codec = load_codec(directory)
    config = weights.read_config(directory)
    actor = weights.load(directory, config)
    if codec.vocab_size > config.vocab_size:
        raise ValueError(
            f"{directory}: the tokenizer knows {codec.vocab_size} tokens, the model "
            f"{config.vocab_size}; use the tokenizer that the model was trained with"
        )
    if (directory / "critic").is_dir():
        critic_config = weights.read_config(directory / "critic")
        critic = weights.load_critic(directory / "critic", critic_config)
    else:
        critic_config = config
        critic = heads.init(config, jax.random.key(seed))
        critic["trunk"] = jax.tree.map(
            jax.numpy.copy, {k: v for k, v in actor.items() if k != "head"}
        )
    agent = Agent(config, critic_config, codec, piece_table(codec.tokenizer))
    return agent, actor, critic


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


def sampler_of(agent: Agent, reading: Reading, shapes: Shapes):
    """`sampler` with the shapes of a run."""
    return sampler(
        agent,
        max_response=reading.max_response,
        slot_buckets=shapes.slots,
        prompt_buckets=shapes.prompts,
    )


def score(agent: Agent, remat: str = "none"):
    """The update's `Score`: log-probs and entropies of responses."""

    def apply(params, tokens, start, targets, temperature):
        hidden = lm.forward(params, agent.config, tokens, remat=remat)
        states = lm.response_hidden(hidden, start, targets.shape[1])
        return lm.log_prob_and_entropy(
            params, agent.config, states, targets, temperature=temperature
        )

    return apply


def read_values(agent: Agent, remat: str = "none"):
    """The update's `ReadValues`: three heads at every response token."""

    def apply(params, tokens, start, num_tokens):
        return heads.values(
            params, agent.critic_config, tokens, start, num_tokens, remat=remat
        )

    return apply


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
    config = agent.config
    generate = make_generate(
        lambda params, tokens, lengths, room: lm.prefill(
            params, config, tokens, lengths, room
        ),
        lambda params, token, cache: lm.decode_step(params, config, token, cache),
        max_new=max_response,
        eos_id=agent.codec.eos_id,
        pad_id=agent.codec.pad_id,
    )

    def bind(params, key, temperature):
        weights = lm.serving(params)

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
    return bind
