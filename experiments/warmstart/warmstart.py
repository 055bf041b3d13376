"""`hiper warmstart`: the small agents that reinforcement learning starts from.

Games -> the expert's demonstrations -> tokenizer -> imitation -> a critic fitted to the
imitator's own episodes. Everything follows from the settings and the seed.
"""

import dataclasses
import pathlib
import random
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import jax
import numpy as np
import optax
import tyro

from hiper_jax import lm
from hiper_jax._disk import guarded, one_at_a_time
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
from hiper_jax.act.codec import load_codec
from hiper_jax.act.envs.demo import Demo
from hiper_jax.act.envs.world import (
    DEFAULT,
    WORLDS,
    Practice,
    World,
    WorldSettings,
    load_world,
    settings_for,
    world_of,
)
from hiper_jax.act.pieces import piece_table
from hiper_jax.act.prompt import template_of
from hiper_jax.act.rollout import rollout
from hiper_jax.estimators import find_estimator
from hiper_jax.experiments import games as worlds
from hiper_jax.experiments import progress, recipes, setup
from hiper_jax.experiments.config import Reading, Train, with_estimator
from hiper_jax.experiments.warmstart import demonstrations, given
from hiper_jax.experiments.warmstart.imitate import imitate
from hiper_jax.experiments.warmstart.tokenizer import train_tokenizer
from hiper_jax.lm import value_heads as heads
from hiper_jax.networks import passes
from hiper_jax.networks.agent import Agent, save_agent
from hiper_jax.networks.model import Model
from hiper_jax.networks.shapes import shapes_of
from hiper_jax.update.state import Optimizers
from hiper_jax.update.step import compile_update, make_update


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


def warmstart(config: WarmStart) -> pathlib.Path:
    """Makes a warm start.

    Returns:
      The folder with the actor, its tokenizer and its critic.

    Raises:
      ValueError: the folder holds a model, or a setting cannot work.
      TimeoutError: another process makes one there.
    """
    out = pathlib.Path(config.out)
    partial = out.with_name(out.name + ".partial")
    began = time.monotonic()
    with guarded(out.parent), one_at_a_time(partial, wait=0):
        if (out / "config.json").exists():
            raise ValueError(f"{out} holds a model already; name another --out")
        _make(config, partial)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    print(f"{out}: {(time.monotonic() - began) / 60:.1f} minutes in all")
    return out


def _make(config: WarmStart, partial: pathlib.Path) -> None:
    """Makes a warm start in a folder, whatever another one has left there."""
    world = world_of(config.world)
    worlds.games_folder(config.world)
    demos = practise(config)
    shutil.rmtree(partial, ignore_errors=True)
    train_tokenizer(
        _texts(demos, world, config.reading),
        partial,
        vocab_size=config.vocab_size,
        phrases=world.lesson.phrases,
        names=world.lesson.names(config.world),
        format=config.reading.format,
    )
    codec = load_codec(partial)
    rows = demonstrations.rows(
        demos,
        world,
        codec,
        style=config.reading.style,
        max_prompt=config.reading.max_prompt,
        history_length=config.reading.history_length,
        mistakes=0.0 if config.source else config.mistakes,
        haste=0.0 if config.source else config.haste,
        seed=config.seed,
        format=config.reading.format,
        strategies=config.strategies,
        strategy_style=config.reading.strategy_style,
    )
    rows = [r for r in rows if len(r.response) <= config.reading.max_response]
    shape = lm.tiny(
        codec.vocab_size,
        width=config.width,
        depth=config.depth,
        mlp_width=config.mlp_width,
        head_dim=config.width // 4,
    )
    prompts = np.mean([len(row.prompt) for row in rows])
    responses = np.mean([len(row.response) for row in rows])
    print(
        f"{len(rows)} turns of {prompts:.0f} + {responses:.0f} tokens; "
        f"{codec.vocab_size} in the vocabulary; {lm.num_params(shape):,} weights"
    )
    key = jax.random.key(config.seed)
    actor = imitate(
        lm.init(shape, key),
        shape,
        rows,
        steps=config.steps,
        batch=config.batch,
        learning_rate=config.learning_rate,
        prompt_weight=config.prompt_weight,
        length_buckets=shapes_of(
            max_prompt=config.reading.max_prompt,
            max_response=config.reading.max_response,
            episodes=1,
            max_turns=1,
        ).lengths,
        seed=config.seed,
        report=_imitation_report(config.steps),
    )
    agent, critic = first_critic(config, shape, codec, actor)
    # Whatever happens to the critic, the actor is on disk.
    save_agent(partial, agent, actor, critic)
    critic = fit_critic(config, agent, actor, critic)
    save_agent(partial, agent, actor, critic)


def _imitation_report(steps: int) -> Callable[[int, dict[str, float]], None]:
    """What shows how imitation goes, and how long it will take."""
    started = time.monotonic()

    def report(step: int, metrics: dict[str, float]) -> None:
        left = (time.monotonic() - started) / step * (steps - step)
        print(
            f"imitation {step}/{steps}  loss {metrics['loss']:.3f}"
            f"  accuracy {metrics['accuracy']:.3f}"
            f"  {metrics['tokens_per_second']:,.0f} tokens/s  {left / 60:.1f} min left",
            flush=True,
        )

    return report


def practise(config: WarmStart) -> list[Demo]:
    """The expert plays what its world lets it practise on; or others have played."""
    if config.source:
        return given.read(config.source, config.world, print)
    practice = world_of(config.world).lesson.practice
    if practice is None:
        games = worlds.training_manifest(config.world).ids
        return _demonstrations(config, Practice(games * config.practice_worlds))
    return _demonstrations(
        config, practice(config.world, config.practice_worlds, print)
    )


def _demonstrations(config: WarmStart, practice: Practice) -> list[Demo]:
    """Plays the games; leaves out the episodes that the practice does not keep."""
    demos, won, left_out = [], 0, 0
    show = progress.bar("demonstrations", unit="games")
    played = demonstrations.play(
        practice.tasks,
        dataclasses.replace(config.world, max_turns=config.world.max_turns + 20),
        noise=config.noise,
        seed=config.seed,
        workers=config.world.workers,
    )
    for n, demo in enumerate(played, start=1):
        show(n, len(practice.tasks))
        if not practice.keep(demo):
            left_out += 1
            continue
        demos.append(demo)
        won += demo.won
    print(
        f"{len(demos)} demonstrations, {won} won"
        + (f"; {left_out} left out, too like unseen games" if left_out else "")
    )
    return demos


def first_critic(config: WarmStart, shape: lm.LMConfig, codec, actor):
    """A critic with the actor's first layers and heads of zero."""
    critic_shape = dataclasses.replace(shape, depth=config.critic_depth)
    critic = heads.init(critic_shape, jax.random.key(config.seed))
    trunk = {k: v for k, v in actor.items() if k != "head"}
    trunk["layers"] = jax.tree.map(lambda w: w[: config.critic_depth], trunk["layers"])
    critic["trunk"] = jax.tree.map(jax.numpy.copy, trunk)
    agent = Agent(shape, critic_shape, codec, piece_table(codec.tokenizer))
    return agent, critic


def unscored(params, tokens, start, targets, temperature):
    """A score that costs nothing: while the critic is fitted the actor stands still."""
    del params, tokens, start, temperature
    zero = jax.numpy.zeros(targets.shape)
    return zero, zero


def fit_critic(config: WarmStart, agent: Agent, actor, critic):
    """Regresses the heads on the returns of the imitator's own episodes.

    The three of HiPER; without a plan that of turn GAE, which the others then equal.
    """
    if not config.critic_rounds:
        return critic
    flat = config.reading.format == "flat"
    recipe = recipes.recipe(config.recipe)
    like = with_estimator(recipe, "gae_turn" if flat else "hae")
    train = Train(
        world=config.world,
        reading=config.reading,
        estimator=like.estimator,
        learn=like.learn,
    )
    shapes = setup.run_shapes(train)
    games = worlds.training_manifest(config.world).ids
    settings = dataclasses.replace(like.learn, epochs=3, value_clip=1e3, kl_coef=0.0)
    estimator = find_estimator(like.estimator)[1](settings)
    init, update = make_update(
        Model(unscored, passes.values(agent, estimator.heads)),
        estimator,
        Optimizers(optax.set_to_zero(), optax.adam(config.critic_lr)),
        settings,
        shapes.lengths,
    )
    update = compile_update(update, donate=False)
    make_policy = setup.sampler_of(agent, config.reading, shapes)
    reader = setup.reader_of(agent, config.reading, config.world.environment)
    root = jax.random.key(config.seed)
    state = init(actor, critic, jax.random.key_data(root))
    with worlds.open_pool(config.world, train.slots) as pool:
        for step in range(config.critic_rounds):
            episodes, _ = rollout(
                pool,
                make_policy(actor, jax.random.fold_in(root, step), 1.0),
                worlds.training_games(games, step, train.episodes, config.seed),
                reader,
                max_turns=config.world.turns,
            )
            batch = setup.stacked(
                agent,
                episodes,
                config.reading,
                shapes,
                max_turns=config.world.turns,
                num_episodes=train.episodes,
            )
            state, metrics, _ = update(state, batch)
            won = np.mean([e.won for e in episodes])
            fit = metrics["loss/value_high" if flat else "value/explained_variance"]
            print(
                f"critic {step + 1}/{config.critic_rounds}: episodes won {won:.2f},"
                f" {'value loss' if flat else 'explained variance'} {fit:.2f}",
                flush=True,
            )
    if not flat:
        return state.critic
    # Other estimators read other heads; "high" is the first.
    first = {name: state.critic[name][..., :1] for name in ("value", "value_bias")}
    return state.critic | {
        name: jax.numpy.broadcast_to(head, state.critic[name].shape)
        for name, head in first.items()
    }


def _texts(demos: Sequence[Demo], world: World, reading: Reading):
    rng = random.Random(0)
    template = template_of(world, reading.style, reading.format)
    for demo in demos:
        for prompt, response in demonstrations.texts(
            demo,
            world,
            style=reading.style,
            mistakes=0.0,
            haste=0.0,
            rng=rng,
            format=reading.format,
        ):
            yield template(*prompt, history_length=2) + response
