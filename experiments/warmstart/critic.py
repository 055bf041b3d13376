"""A first critic: the imitator's own layers, fitted to what its episodes return."""

import dataclasses

import jax
import numpy as np
import optax

from hiper_jax import lm
from hiper_jax.act.pieces import piece_table
from hiper_jax.act.rollout import rollout
from hiper_jax.estimators import find_estimator
from hiper_jax.experiments import games as worlds
from hiper_jax.experiments import recipes, setup
from hiper_jax.experiments.config import Train, with_estimator
from hiper_jax.experiments.warmstart.settings import WarmStart
from hiper_jax.lm import value_heads as heads
from hiper_jax.networks import passes
from hiper_jax.networks.agent import Agent
from hiper_jax.networks.model import Model
from hiper_jax.update.state import Optimizers
from hiper_jax.update.step import compile_update, make_update


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
