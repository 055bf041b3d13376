"""A folder of weights -> an agent: the networks' shapes and places, and the tokenizer.

DIR/config.json, model.safetensors, tokenizer.json      the actor
DIR/critic/config.json, model.safetensors               its critic, if it has one
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from hiper_jax import lm
from hiper_jax._disk import guarded
from hiper_jax.act.auto_tokenizer import read_json
from hiper_jax.act.codec import Codec, load_codec
from hiper_jax.act.pieces import piece_table
from hiper_jax.lm import qwen_lora as lora
from hiper_jax.lm import sharding, weights
from hiper_jax.lm import value_heads as heads
from hiper_jax.lm.model_folder import how_to_get
from hiper_jax.lm.staged import staged
from hiper_jax.networks.acquire import find_model


@dataclasses.dataclass(frozen=True)
class Agent:
    """The networks' shapes and places, and the tokenizer; the weights travel apart."""

    config: lm.LMConfig
    critic_config: lm.LMConfig
    codec: Codec
    pieces: Any  # the tokenizer's piece table, for masks
    mesh: Any = None  # where weights and rows lie; None: on one device
    remat: str = "none"  # what gradients recompute, see `qwen.forward`
    # A network of its own, heads on the actor's trunk, or none at all.
    critic: Literal["separate", "shared", "none"] = "separate"
    trunk_gradient: float = 0.1  # of the value loss, into a shared trunk
    rank: int = 0  # of the adapters that are trained; 0: all weights are
    alpha: float = 16.0  # strength of the adapters
    known: Any = None  # [V] bool, ids that have a token; None: all have one
    fetch: Literal["chunk", "step"] = "chunk"  # how often a mesh's weights travel

    def __post_init__(self):
        if self.known is None and self.codec.tokenizer is not None:
            known = known_rows(self.codec.known_ids, self.config.vocab_size)
            object.__setattr__(self, "known", known)

    @property
    def leaves(self) -> tuple[Any, Any]:
        """Abstract trees of what is trained of the actor and of the critic."""
        actor = lm.abstract(self.config)
        if self.rank:
            actor = lora.abstract(self.config, self.rank)
        if self.critic == "none":
            return actor, None
        own = self.critic == "separate" and not self.rank
        critic = heads.abstract(self.critic_config, trunk=own)
        if self.rank and self.critic == "separate":
            critic["adapter"] = lora.abstract(self.config, self.rank)
        return actor, critic

    @property
    def fetches_once(self) -> bool:
        """Whether an update fetches weights once a step, where devices cut rows."""
        cut = self.mesh is not None and self.mesh.shape["tensor"] < self.mesh.size
        return cut and self.fetch == "step"

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


def load_agent(directory, **settings: Any) -> tuple[Agent, Any, Any]:
    """Reads an actor, its tokenizer and its critic.

    A directory without `critic/` gets a critic that starts from the actor's trunk;
    so does every critic that is adapters on it.

    Args:
      directory: see the module's text; or a model's name in Hugging Face's cache.
      **settings: see `read_agent`; weights are read straight to their places.

    Returns:
      The agent, the actor's weights and the critic's (None without a critic).

    Raises:
      FileNotFoundError, ValueError: something is missing or of another shape.
    """
    agent = read_agent(directory, **settings)
    return agent, *read_weights(directory, agent)


def read_weights(directory, agent: Agent) -> tuple[Any, Any]:
    """The weights of an agent that `read_agent` has read from the same directory.

    Returns:
      The actor's and the critic's (None without a critic), at their places.

    Raises:
      FileNotFoundError, ValueError: something is missing or of another shape.
    """
    directory = find_model(directory)
    places = None
    if agent.mesh is not None:
        places = sharding.shardings(lm.abstract(agent.config), agent.mesh)
    actor = weights.load(directory, agent.config, shardings=places)
    if agent.critic == "none":
        return actor, None
    return actor, _load_critic(pathlib.Path(directory) / "critic", agent, actor)


def read_agent(
    directory,
    *,
    mesh: Any = None,
    dtype: str = "float32",
    remat: str = "none",
    critic: Literal["separate", "shared", "none"] = "separate",
    trunk_gradient: float = 0.1,
    rank: int = 0,
    alpha: float = 16.0,
    fetch: Literal["chunk", "step"] = "chunk",
) -> Agent:
    """Reads all of an agent but its weights.

    Args:
      directory: see the module's text.
      mesh: where weights and rows lie; None: on one device.
      dtype: of what is computed; weights are float32.
      remat, critic, trunk_gradient, rank, alpha, fetch: see `Agent`.

    Raises:
      FileNotFoundError, ValueError: something is missing or of another shape.
    """
    folder = find_model(directory)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no model in {directory}: name a folder in Hugging Face's format"
            + how_to_get(directory)
        )
    directory = folder
    codec = load_codec(directory)
    config = weights.read_config(directory, dtype=dtype)
    if codec.known_ids[-1] >= config.vocab_size:
        raise ValueError(
            f"{directory}: the tokenizer knows {codec.known_ids[-1] + 1} tokens, the "
            f"model {config.vocab_size}; use the tokenizer that the model was trained "
            "with"
        )
    agent = Agent(
        config,
        config,
        codec,
        piece_table(codec.tokenizer, codec.end_ids, codec.unread),
        mesh=mesh,
        remat=remat,
        critic=critic,
        trunk_gradient=trunk_gradient,
        rank=rank,
        alpha=alpha,
        fetch=fetch,
    )
    if not _has_own_trunk(directory / "critic", agent):
        return agent
    of_critic = weights.read_config(directory / "critic", dtype=dtype)
    return dataclasses.replace(agent, critic_config=of_critic)


def known_rows(ids: Sequence[int], vocab_size: int) -> np.ndarray | None:
    """Which rows of a model have a token, if some have none.

    Published models have more rows than tokens; sampler and trainer leave these out of
    the distribution.

    Args:
      ids: those of the tokenizer's tokens.
      vocab_size: V, rows of the model.

    Returns:
      [V] bool, or None where all have one.
    """
    known = np.isin(np.arange(vocab_size), ids)
    return None if known.all() else known


def _whole_critic(agent: Agent) -> bool:
    """Whether the critic is a network; else it is read as heads only."""
    return agent.critic == "separate" and not agent.rank


def _has_own_trunk(source: pathlib.Path, agent: Agent) -> bool:
    return _whole_critic(agent) and source.is_dir() and weights.owns_trunk(source)


def _load_critic(source: pathlib.Path, agent: Agent, actor):
    """The critic's weights: its own, or heads, on a copy of the actor's trunk."""
    places = None
    if agent.mesh is not None:
        tree = heads.abstract(agent.critic_config)
        places = sharding.shardings(tree, agent.mesh)
    if _has_own_trunk(source, agent):
        return weights.load_critic(source, agent.critic_config, shardings=places)
    if places:
        places = {k: v for k, v in places.items() if k != "trunk"}
    if source.is_dir() and not weights.owns_trunk(source):
        critic = weights.load_critic(
            source, agent.config, shardings=places, trunk=False
        )
    else:
        critic = heads.init(agent.config, jax.random.key(0), trunk=False)
        critic = jax.device_put(critic, places or jax.devices()[0])
    if _whole_critic(agent):
        trunk = {k: v for k, v in actor.items() if k != "head"}
        critic["trunk"] = jax.tree.map(jax.numpy.copy, trunk)
    return critic


def save_agent(directory, agent: Agent, actor, critic, *, tokenizer=None) -> None:
    """Writes what `load_agent` reads, in float32; all of it appears at once.

    Args:
      directory: where to.
      agent: whose shapes.
      actor: weights.
      critic: weights; None writes none.
      tokenizer: folder whose tokenizer is copied, if one is named.
    """
    float32 = jax.numpy.float32
    new = staged(directory, replacing="model*.safetensors*")
    with guarded(directory), new as place:
        weights.save(place, actor, agent.config, dtype=float32, tokenizer=tokenizer)
        if critic is not None:
            weights.save(place / "critic", critic, agent.critic_config, dtype=float32)
        old = pathlib.Path(directory) / "generation_config.json"
        _write_ends(place / old.name, agent.codec, old)


def _write_ends(file: pathlib.Path, codec: Codec, old: pathlib.Path) -> None:
    """Has `transformers` stop where a response ends here; what is set stays."""
    record = read_json(file) or read_json(old)
    listed = record.get("eos_token_id")
    listed = listed if isinstance(listed, list) else [listed]
    if set(codec.end_ids) <= set(listed):
        return
    ends = list(codec.end_ids)
    record["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    record.setdefault("pad_token_id", codec.pad_id)
    weights.write_record(file, record)
