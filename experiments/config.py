"""What a run is: frozen dataclasses that check themselves."""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any, Literal

from hiper_jax.accept import (
    Count,
    Name,
    NotNegative,
    Positive,
    Seed,
    SettingError,
    Share,
    Whole,
    check_fields,
)
from hiper_jax.act.envs.world import DEFAULT, WorldSettings, settings_for
from hiper_jax.credit import hiper
from hiper_jax.credit.strata import StrataSettings
from hiper_jax.estimators import (
    COMPARES_SIBLINGS,
    WRITES_STRATEGIES,
    check_plan,
    find_estimator,
)
from hiper_jax.experiments.settings import profiled_steps
from hiper_jax.update import objective

SIBLINGS = 8  # trajectories of a task, where an estimator compares them; published

EstimatorName = Literal[
    "hae",
    "hae_group",
    "gae_turn",
    "gae_token",
    "gae_bilevel",
    "vetta",
    "grpo",
    "drgrpo",
    "rloo",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "gigpo",
    "hgpo",
    "g2po",
    "graphgpo",
    "crbc",
    "gear",
    "strata",
]
# What is part of a method, but not of its credit: the loss that it was published with.
_LOSSES: Mapping[str, Mapping[str, Any]] = {
    "drgrpo": {"aggregation": "seq-mean-token-sum-norm"}
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """How prompts are written and responses read."""

    style: Literal["full", "terse"] = "terse"
    """Wording of the prompt: `full` for pretrained models, `terse` for tiny ones."""
    strategy_style: Literal["", "full", "terse", "taught"] = ""
    """Wording around strategies; empty: that of `style`. `taught` asks small models,
    which must have been taught to answer (strata)."""
    max_prompt: Count = 256
    """Tokens; longer prompts lose history first, then observation."""
    max_teacher_prompt: Count = 384
    """Tokens where a teacher is shown the solution, too (gear)."""
    max_response: Count = 28
    """Tokens, the end of message included."""
    history_length: Whole = 2
    """Observation/action pairs shown."""
    show_turn: bool = False
    """The number of the turn stands at the head of a prompt."""
    mode: Literal["corrected", "paper"] = "corrected"
    """How broken responses are read; `paper` as the published code does."""
    keep_copies: bool = False
    """On KEEP the old subgoal stays, whatever was written."""
    format: Literal["plan", "flat"] = "plan"
    """Of responses: `plan` has a switch, a subgoal and an action, as published; `flat`
    has reasoning and an action, and its prompts say nothing of subgoals."""
    enable_thinking: Literal["default", "always", "never"] = "default"
    """Told to a chat template that asks for it; `default`: it is left to itself."""
    clock: str = ""
    """Told to a chat template that asks for the time: a date, or a date with a time;
    empty: the day on which the run began, which its config.json names."""

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
    serving: Literal["host", "all"] = "host"
    """Where several hosts sample: each on its own devices, from a copy of the weights,
    at its own pace; or all together on the whole mesh, turn by turn, where a copy does
    not fit one host."""
    fetch: Literal["chunk", "step"] = "chunk"
    """How often an update sends weights to the devices that cut rows, and adds up their
    gradients: for every chunk, or once an optimizer step, which sends far less and
    holds a whole network's weights and gradients, cut along tensor alone."""

    def __post_init__(self):
        check_fields(self)

    @property
    def size(self) -> int:
        return self.data * self.fsdp * self.tensor

    @property
    def sizes(self) -> dict[str, int]:
        """Devices by axis."""
        return {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}


@dataclasses.dataclass(frozen=True)
class Learn(objective.Settings, hiper.Settings):
    """How an update learns: the estimator's settings and the loss's."""


@functools.cache
def learning(estimator: str) -> type[objective.Settings]:
    """The class of `Train.learn` for an estimator: its settings and the loss's.

    Raises:
      ValueError: no estimator has that name.
    """
    if estimator == "hae":
        return Learn
    kind, _ = find_estimator(estimator)
    types = {field.name: field.type for field in dataclasses.fields(objective.Settings)}
    losses = _LOSSES.get(estimator, {})
    # The loss's own check looks at every field; an estimator's may compare some.
    own = {"__post_init__": kind.__post_init__}
    return dataclasses.make_dataclass(
        f"Learn{kind.__name__}",
        [(name, types[name], value) for name, value in losses.items()],
        bases=(objective.Settings, kind),
        namespace=own | {"__doc__": Learn.__doc__, "__module__": __name__},
        frozen=True,
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """One training run."""

    model: str = ""
    """Folder with weights and tokenizer, a finished run's, or the name of a model in
    Hugging Face's cache; empty: the warm start that comes with us for this world, or
    for the default world where it has none."""
    world: WorldSettings = settings_for(DEFAULT)
    """Which games are played."""
    reading: Reading = Reading()
    """How prompts are written and responses read."""
    estimator: EstimatorName = "hae"
    """How credit is assigned; its settings stand under `learn`."""
    learn: objective.Settings = Learn()
    """How credit is assigned and what an update does with it."""
    mesh: Mesh = Mesh()
    """How devices are laid out."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the networks compute in; trained weights stay float32."""
    critic: Literal["separate", "shared"] = "separate"
    """A network of its own, as published, or heads on the actor's trunk, which
    saves about half of the memory. An estimator that reads no values has none."""
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
    samples: Whole = 0
    """Trajectories of one task in an iteration; 0: 8 where the estimator compares
    them, else 1. Strategies have their own numbers, under `learn`."""
    redraw: Whole = 0
    """DAPO's filter: how often in an iteration tasks whose trajectories all have one
    return make room for others; published 10."""
    slots: Count = 64
    """Environments played at once."""
    waves: Whole = 0
    """Groups of slots that take turns: while the devices answer one, the host reads and
    steps the other. 1 or 2; 0: 1 on CPUs, which have nothing else to compute with, and
    where all hosts sample together, else 2. Episodes are the same."""
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
    max_dropped: Share = 0.5
    """Share of an iteration's episodes that may be dropped because their environment
    gave an answer that cannot be used; above it the run stops."""
    precompile: bool = False
    """Compile every program before weights are read and games played."""
    profile_steps: str = ""
    """Iterations that are traced into the run's folder, for xprof: 3:5 are the third to
    the fifth."""
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
    checkpoint_minutes: Positive = 10.0
    """Minutes after which there is a checkpoint all the same."""
    keep: Count = 2
    """Checkpoints kept."""
    out: str = ""
    """Folder of the run; empty: runs/PRESET-SEED."""
    resume: bool = False
    """Go on from the last checkpoint in `out`."""
    accept_changes: bool = False
    """Go on with other settings than the run began with; they are written down."""
    stop_after: Whole = 0
    """Stop after this many iterations of this call; 0: go on to the end."""
    offline: str = ""
    """Folder of episodes, a run's or a data set: updates are made from them, in an
    order drawn anew each time round, and nothing is played but evaluations."""
    data: bool = False
    """Also write the episodes as a TFDS data set into `data` in the run's folder (the
    extra `data`)."""
    wandb: bool = False
    """Also log to Weights & Biases (the extra `wandb`); a resumed run goes on there."""
    trackio: bool = False
    """Also log to trackio (the extra `trackio`), on this machine."""
    project: Name = "hiper_jax"
    """Of Weights & Biases and of trackio."""

    def __post_init__(self):
        check_fields(self)
        if not isinstance(self.learn, learning(self.estimator)):
            raise SettingError(
                type(self),
                "learn",
                f"must be settings of {self.estimator}, got a "
                f"{type(self.learn).__name__}: change both with with_estimator",
            )
        try:
            check_plan(self.estimator, self.reading.format)
        except ValueError as error:
            raise SettingError(type(self), "estimator", str(error)) from None
        if self.writes_strategies and self.samples not in (0, self.siblings):
            raise SettingError(
                type(self),
                "samples",
                f"must be left out with {self.estimator}, got {self.samples}: set "
                "learn.strategies and learn.trajectories, whose product they are",
            )
        if self.episodes % self.siblings:
            raise SettingError(
                type(self),
                "episodes",
                f"must be a multiple of the {self.siblings} samples of a task, got "
                f"{self.episodes}: change it, or set {self._sized_by}",
            )
        if self.waves > 2 or self.waves > self.slots:
            raise SettingError(
                type(self),
                "waves",
                f"must be 0, 1 or 2, and no more than the slots, got {self.waves}",
            )
        if self.waves > 1 and self.mesh.serving == "all":
            raise SettingError(
                type(self),
                "waves",
                "must be 0 or 1 with mesh.serving all: hosts then sample turn by turn",
            )
        if self.redraw and self.offline:
            raise SettingError(type(self), "redraw", "needs rollouts: not with offline")
        try:
            traced = profiled_steps(self.profile_steps)
            if traced and traced[-1] > self.num_updates:
                raise ValueError(f"ends after the run's {self.num_updates} iterations")
        except ValueError as error:
            raise SettingError(type(self), "profile_steps", str(error)) from None
        if self.redraw and self.siblings == 1:
            raise SettingError(
                type(self), "redraw", "compares samples of a task: set samples, too"
            )

    @property
    def siblings(self) -> int:
        """Trajectories of one task in an iteration."""
        if isinstance(self.learn, StrataSettings):
            return self.learn.strategies * self.learn.trajectories
        if self.samples:
            return self.samples
        return SIBLINGS if self.estimator in COMPARES_SIBLINGS else 1

    @property
    def _sized_by(self) -> str:
        own = "learn.strategies or learn.trajectories"
        return own if self.writes_strategies else "samples"

    @property
    def writes_strategies(self) -> bool:
        """Whether episodes follow strategies that are drawn before them."""
        return self.estimator in WRITES_STRATEGIES

    @property
    def strategies(self) -> int:
        """Strategies that the episodes of one iteration follow."""
        if not isinstance(self.learn, StrataSettings):
            return 0
        return self.episodes // self.learn.trajectories

    @property
    def has_critic(self) -> bool:
        """Whether the estimator reads value heads."""
        return bool(estimator_of(self).heads)

    def adapted_to(self, values: Mapping[str, Any]) -> "Train":
        """With the estimator that values from a file name, before they go in."""
        name = values.get("estimator", self.estimator)
        if not isinstance(name, str):
            return self  # refused where the settings are made
        counts = {k: values[k] for k in ("episodes", "samples") if k in values}
        # What samples are counted by goes in along with the episodes, or neither fits.
        learn = values.get("learn")
        sizes = learn if isinstance(learn, dict) else {}
        known = ("candidates", "strategies", "trajectories")
        sizes = {k: sizes[k] for k in known if k in sizes and name == "strata"}
        return with_estimator(self, name, sizes, **counts)


def estimator_of(config: Train) -> Any:
    """The estimator of a run, a `credit.estimator.Estimator`."""
    return find_estimator(config.estimator)[1](config.learn)


def with_estimator(
    config: Train, name: str, sizes: Mapping[str, Any] | None = None, **changes: Any
) -> Train:
    """The same run with another estimator, and what else is changed along with it.

    Settings under `learn` that both know, the loss's among them, are taken over where
    they differ from their own defaults; those in `sizes` are as they are there.

    Raises:
      ValueError: no estimator has that name, or its default number of samples does not
        divide the episodes.
    """
    if name == config.estimator:
        return config
    if name not in typing.get_args(EstimatorName):
        known = ", ".join(typing.get_args(EstimatorName))
        raise ValueError(f"estimator must be one of {known}; got {name!r}")
    kind, old = learning(name), config.learn
    usual = type(old)()
    taken = {
        field.name: getattr(old, field.name)
        for field in dataclasses.fields(kind)
        if getattr(old, field.name, None) != getattr(usual, field.name, None)
    }
    try:
        learn = kind(**{**taken, **(sizes or {})})
    except SettingError as error:
        raise error.within("learn") from None
    return dataclasses.replace(config, estimator=name, learn=learn, **changes)
