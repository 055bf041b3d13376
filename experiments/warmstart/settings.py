"""The settings of a warm start, and a world's own."""

import dataclasses
from typing import Annotated

import tyro

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
from hiper_jax.act.envs.world import (
    DEFAULT,
    WORLDS,
    WorldSettings,
    load_world,
    settings_for,
)
from hiper_jax.experiments import recipes
from hiper_jax.experiments.config import Reading


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """How the warm start is made."""

    out: Name = "runs/warmstart"
    """Folder for the weights and the tokenizer."""
    source: Annotated[str, tyro.conf.arg(name="from")] = ""
    """Imitate what others played instead of the scripted player: the won episodes of a
    run or a data set, or trajectories that were published for the world. Neither
    mistakes nor haste are taught then."""
    world: WorldSettings = settings_for(DEFAULT)
    """Which games are imitated."""
    reading: Reading = Reading()
    """How prompts are written and responses read."""
    recipe: Name = "quickstart"
    """Whose penalties and discounts make the returns that the critic is fitted to."""
    practice_worlds: Count = 16
    """Sets of games that are played for demonstrations: made for them alone and each as
    large as the training set, or, where a world has no others, the training set."""
    noise: Share = 0.15
    """How often chance plays in a demonstration, and the expert has to recover."""
    mistakes: Share = 0.0
    """How often a turn teaches an action drawn at random."""
    haste: Share = 0.3
    """What there is to unlearn: how often a turn in which the world lets one rush
    teaches to do so, say to walk past a thing that should be taken."""
    strategies: Share = 0.0
    """Share of demonstrations that stand under a strategy and teach how steps are
    judged, and with `--reading.strategy-style taught` how one is written, too: what
    `--estimator strata` may begin with."""
    vocab_size: Count = 1024
    """Tokens at most."""
    width: Count = 128
    """Width of the model."""
    depth: Count = 3
    """Layers of the actor."""
    mlp_width: Count = 256
    """Inner width of its MLPs."""
    critic_depth: Count = 3
    """Layers of the critic, which start as the actor's first ones. To see that what the
    task names stands in the observation takes two at least."""
    steps: Count = 3000
    """Optimizer steps of imitation."""
    batch: Count = 32
    """Turns per step."""
    learning_rate: Positive = 3e-3
    """Adam's peak."""
    prompt_weight: NotNegative = 0.3
    """How much a token of a prompt counts against one of a response."""
    critic_rounds: Whole = 4
    """Rollouts that the critic is fitted to."""
    critic_lr: Positive = 1e-3
    """Adam's learning rate for the critic."""
    seed: Seed = 0
    """Of everything random."""

    def __post_init__(self):
        check_fields(self)
        if self.critic_depth > self.depth:
            raise SettingError(
                type(self),
                "critic_depth",
                f"must be 1 to {self.depth}, the actor's layers, got "
                f"{self.critic_depth}",
            )


def start(reference: str) -> WarmStart:
    """The settings of a world's warm start.

    Args:
      reference: which world, as `load_world` takes it.

    Raises:
      ValueError: there is no such world, or it has no scripted player.
    """
    world = load_world(reference)
    if world.expert is None:
        able = [name for name in WORLDS if load_world(name).expert is not None]
        raise ValueError(
            f"{reference} has no scripted player to learn from: give its World an "
            f"expert, or choose {' or '.join(able)}"
        )
    recipe = recipes.recipe(world.lesson.recipe)
    settings = recipe.world
    if settings.environment != reference:
        settings = settings_for(reference)
    return dataclasses.replace(
        WarmStart(world=settings, reading=recipe.reading, recipe=world.lesson.recipe),
        **world.lesson.changes,
    )
