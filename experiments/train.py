"""`hiper train`: rollout, stack, update, write; from a warm start to a report.

The loop is `train` and reads top to bottom; what it calls is pure or lives above.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable

import jax
import optax

from hiper_jax import workdir
from hiper_jax.act.rollout import rollout
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import games as worlds
from hiper_jax.experiments import progress as watch
from hiper_jax.experiments.panel import evaluate
from hiper_jax.experiments.provenance import provenance
from hiper_jax.experiments.report import report, tables
from hiper_jax.networks import agent as agents
from hiper_jax.networks import assemble as trained
from hiper_jax.networks import placement
from hiper_jax.networks.shapes import Shapes, shapes_of
from hiper_jax.update import step as learning


def train(config: configs.Train, name: str) -> pathlib.Path:
    """Runs or resumes one training run.

    Args:
      config: what to do.
      name: of the preset, for the folder and the report.

    Returns:
      The run's folder.

    Raises:
      ValueError, FileNotFoundError: something in the settings cannot work.
    """
    began = time.monotonic()
    worlds.check_data(config.world)
    configs.check(config)
    model = configs.start_of(config)
    mesh = placement.lay_out(model, config)
    run = pathlib.Path(config.out or f"runs/{name}-{config.seed}")
    check_folder(run, config)
    folder = worlds.games_folder(config.world)
    train_games = worlds.manifest(config.world, folder, "train").games
    panels = {
        split: (worlds.spread(listed.games, number), listed.hash)
        for split, number in worlds.panels(
            config.world, config.eval_episodes, config.eval_seen_episodes
        ).items()
        for listed in [worlds.manifest(config.world, folder, split)]
    }
    for split, (games, _) in panels.items():
        if leaked := len(set(games) & set(train_games)):
            print(f"note: {leaked} of {len(games)} {split} games are trained on too")
    agent, actor, critic = agents.load_for(model, config, mesh)
    reader = agents.reader_of(agent, config.reading, config.world.environment)
    update, bind, fresh, shapes = build(config, agent)
    root_key = jax.random.key(config.seed)
    state = fresh(actor, critic, jax.random.key_data(root_key))
    del actor, critic
    log = watch.logger(config, name)
    if not config.resume:
        claim(run, config, name)
    else:
        state, _ = workdir.restore(run, state)
        workdir.truncate_after(run, int(state.step))
        print(f"resuming after iteration {int(state.step)}")

    with (
        worlds.open_pool(config.world, config.slots) as pool,
        watch.deferred() as guard,
    ):

        def examine(tag: str):
            for split, (games, digest) in panels.items():
                file = run / "eval" / f"{tag}-{split}.json"
                if file.is_file():
                    continue
                record = evaluate(
                    pool,
                    bind,
                    trained.policy(agent, state),
                    games,
                    reader,
                    tag=tag,
                    split=split,
                    step=int(state.step),
                    temperature=config.eval_temperature,
                    seed=config.seed,
                    max_turns=config.world.max_turns,
                    manifest_hash=digest,
                    on_turn=watch.progress(f"evaluating {tag}, {split}"),
                )
                workdir.write_json(file, record)
                print(f"{tag} {tables.summary(record)}")

        def keep():
            if workdir.latest_step(run) != int(state.step):
                workdir.save(
                    run, int(state.step), state, {"name": name}, keep=config.keep
                )

        try:
            if int(state.step) == 0:
                examine("before")
            first = int(state.step)
            clock = watch.Clock(config.num_updates - first)
            for step in range(first, config.num_updates):
                key = jax.random.fold_in(root_key, step)
                clock.start()
                games = worlds.training_games(
                    train_games, step, config.episodes, config.seed
                )
                episodes, spent = rollout(
                    pool,
                    bind(trained.policy(agent, state), key, config.temperature),
                    games,
                    reader,
                    max_turns=config.world.max_turns,
                    on_turn=watch.progress(f"iteration {step + 1}: rollout"),
                )
                batch = agents.stacked(
                    agent,
                    episodes,
                    config.reading,
                    shapes,
                    max_turns=config.world.max_turns,
                )
                with guard():  # state and files change together
                    clock.lap("other")
                    state, metrics, credit = update(state, batch)
                    metrics = jax.device_get(metrics)
                    clock.lap("update")
                    metrics = {**watch.rollout_metrics(episodes), **metrics}
                    episodes = watch.with_credit(episodes, jax.device_get(credit))
                    timing = clock.stop(spent, episodes)
                    timing["programs"] = bind.programs() + update._cache_size()
                    workdir.append_metrics(run, step + 1, metrics, timing)
                    log(step + 1, metrics)
                    workdir.write_episodes(run, step + 1, episodes)
                    watch.say(step + 1, config.num_updates, metrics, timing)
                    done = step + 1 - first
                    last = step + 1 == config.num_updates
                    stop = last or done == config.stop_after
                    if stop or (step + 1) % config.checkpoint_every == 0:
                        keep()
                if stop:
                    break
                if config.eval_every and (step + 1) % config.eval_every == 0:
                    examine(f"at-{step + 1:04d}")
            if int(state.step) == config.num_updates:
                examine("after")
        except BaseException:
            if not guard.held:
                keep()
                print(f"\nstopped after iteration {int(state.step)}", flush=True)
                print("nothing is lost: go on with --resume", flush=True)
            raise
    if int(state.step) < config.num_updates:
        print(f"stopped after iteration {int(state.step)}; go on with --resume")
        return run
    agents.save(
        run / "model",
        agent,
        *trained.merged(agent, state),
        tokenizer=model,
    )
    tables.write(run)
    print(tables.render(run))
    print(f"report: {report.write_report(run)}")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes in all")
    return run


def build(config: configs.Train, agent: agents.Agent, shapes: Shapes | None = None):
    """Compiles nothing yet: the update, the sampler, a fresh state, the shapes."""
    shapes = shapes or shapes_of(
        config.reading, config.episodes, config.world.max_turns, config.slots
    )
    txs = optimizers(config)

    settings = dataclasses.replace(config.learn, temperature=config.temperature)
    update = placement.compiled_update(
        agent,
        *txs,
        settings,
        length_buckets=shapes.lengths,
        schedule=schedule_of(config),
    )
    bind = agents.sampler_of(agent, config.reading, shapes)

    def fresh(actor, critic, key) -> learning.TrainState:
        return placement.fresh_state(agent, actor, critic, *txs, key)

    return update, bind, fresh, shapes


def schedule_of(config: configs.Train) -> Callable:
    """Iteration -> factor on the actor's steps: nought, rising, then falling."""

    def schedule(step):
        rising = (step + 1 - config.critic_first) / max(config.lr_warmup, 1)
        fallen = 1 - (1 - config.lr_end) * step / config.num_updates
        return jax.numpy.clip(rising, 0.0, 1.0) * fallen

    return schedule


def optimizers(config: configs.Train) -> list[optax.GradientTransformation]:
    """The actor's and the critic's."""
    return [
        optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(rate))
        for rate in (config.actor_lr, config.critic_lr)
    ]


def check_folder(run: pathlib.Path, config: configs.Train) -> None:
    """Refuses, before anything expensive, a folder that this run cannot use.

    Raises:
      FileNotFoundError, ValueError: there is nothing to resume, or a run to overwrite.
    """
    begun = workdir.latest_step(run) is not None
    if config.resume and not begun:
        raise FileNotFoundError(
            f"{run} holds no checkpoint to resume from; start it without --resume"
        )
    if not config.resume and (begun or (run / "config.json").exists()):
        raise ValueError(
            f"{run} holds a run already; "
            + ("go on with --resume or " if begun else "delete it or ")
            + "name another --out"
        )


def claim(run: pathlib.Path, config: configs.Train, name: str) -> None:
    """Opens a fresh run's folder, once nothing in its settings can fail any more."""
    run.mkdir(parents=True, exist_ok=True)
    record = dataclasses.asdict(config)
    workdir.write_json(
        run / "config.json", {**record, "provenance": provenance(name, config.seed)}
    )
