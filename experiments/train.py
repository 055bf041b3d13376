"""`hiper train`: rollout, stack, update, write; from a warm start to a report.

`loop` reads top to bottom; what it calls is pure or lives above.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax

from hiper_jax import workdir
from hiper_jax.act.rollout import Dropped, Environments, Reader, rollout
from hiper_jax.credit.strata import StrataSettings
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import (
    export,
    folder,
    games,
    offline,
    progress,
    redraw,
    setup,
    trackers,
)
from hiper_jax.experiments.follow import follow
from hiper_jax.experiments.panel import evaluate
from hiper_jax.experiments.report import report, tables
from hiper_jax.networks import assemble
from hiper_jax.networks.agent import Agent, save_agent
from hiper_jax.update.state import TrainState
from hiper_jax.update.step import SKIPPED

MAX_SKIPPED = 10  # iterations in a row with a gradient that is not finite


@dataclasses.dataclass(frozen=True)
class Run:
    """What a training run is made of, beside its state."""

    config: configs.Train
    name: str  # of the preset
    folder: pathlib.Path
    agent: Agent
    functions: setup.Functions
    reader: Reader
    train_games: tuple[str, ...]
    panels: dict[str, tuple[list[str], str]]  # split -> games, hash of the whole split
    log: trackers.Trackers  # (step, metrics), further places for metrics
    root_key: jax.Array
    stored: offline.Offline | None = None  # episodes that take a rollout's place


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
    games.check_data(config.world)
    configs.check_model(config)
    setup.check_teacher(config)
    setup.check_strategies(config)
    if config.data:
        workdir.data.tfds()
    place = pathlib.Path(config.out or default_folder(config, name))
    folder.check(place, config)
    with workdir.locked(place):
        return _train(config, name, place)


def _train(config: configs.Train, name: str, place: pathlib.Path) -> pathlib.Path:
    """`train` in a folder that is this process's alone."""
    began = time.monotonic()
    run, state = prepare(config, name, place)
    with (
        progress.deferred() as guard,
        games.open_pool(config.world, config.slots) as pool,
        run.log,
    ):
        state = loop(run, state, pool, guard)
    if int(state.step) < config.num_updates:
        print(f"stopped after iteration {int(state.step)}; go on with --resume")
        return run.folder
    actor, critic = assemble.merged(run.agent, state)
    model = configs.start_of(config)
    save_agent(run.folder / "model", run.agent, actor, critic, tokenizer=model)
    tables.write(run.folder)
    print(tables.render(run.folder))
    print(f"report: {report.write_report(run.folder)}")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes in all")
    return run.folder


def prepare(
    config: configs.Train, name: str, place: pathlib.Path
) -> tuple[Run, TrainState]:
    """Checks what is left to check, then makes or reads what the run begins with."""
    folder.check(place, config)  # again: now nobody else can begin there
    model = configs.start_of(config)
    mesh = setup.mesh_for(model, config)
    train_games, panels = lists_of(config)
    agent, actor, critic = setup.load_for(model, config, mesh)
    root_key = jax.random.key(config.seed)
    functions = setup.build(config, agent)
    state = functions.init_state(actor, critic, jax.random.key_data(root_key))
    run = Run(
        config=config,
        name=name,
        folder=place,
        agent=agent,
        functions=functions,
        reader=setup.reader_of(agent, config.reading, config.world.environment),
        train_games=train_games,
        panels=panels,
        log=trackers.start(config, name, place),
        root_key=root_key,
        stored=offline.load(config, agent) if config.offline else None,
    )
    if workdir.latest_step(place) is None:
        folder.claim(place, config, name, games.packages(config.world))
        return run, state
    state, _ = workdir.restore_newest(place, state, say=print)
    folder.note_changes(place, config, int(state.step))
    workdir.truncate_after(place, int(state.step))
    print(f"resuming after iteration {int(state.step)}")
    return run, state


def default_folder(config: configs.Train, name: str) -> str:
    """Where a run goes that names no folder."""
    other = "" if config.estimator == "hae" else f"-{config.estimator}"
    other += "" if config.reading.format == "plan" else "-flat"
    return f"runs/{name}{other}-{config.seed}"


def lists_of(config: configs.Train):
    """The games to train on, and of each split to examine: games and its hash."""
    games.games_folder(config.world)
    train_games = games.training_manifest(config.world).ids
    panels = {}
    for split, number in games.panels(
        config.world, config.eval_episodes, config.eval_seen_episodes
    ).items():
        listed = games.manifest(config.world, split)
        chosen = games.evenly_spaced(listed.ids, number)
        panels[split] = chosen, listed.hash
        if leaked := len(set(chosen) & set(train_games)):
            print(f"note: {leaked} of {len(chosen)} {split} games are trained on too")
    return train_games, panels


def loop(run: Run, state: TrainState, pool: Environments, guard) -> TrainState:
    """Iterations until the last, or the last of this call; returns the state."""
    config, functions = run.config, run.functions
    try:
        if int(state.step) == 0:
            examine(run, state, pool, "before")
        first = int(state.step)
        clock = progress.Clock(config.num_updates - first)
        saved = time.monotonic()
        for step in range(first, config.num_updates):
            clock.start()
            drawn = act(run, state, pool, step)
            episodes, spent = drawn.episodes, drawn.spent
            batch = setup.stacked(
                run.agent,
                episodes,
                config.reading,
                functions.shapes,
                max_turns=config.world.turns,
                num_episodes=config.episodes,
            )
            batch = setup.with_teacher(batch, drawn, config, run.agent, run.reader)
            if run.stored is not None:
                drawn.metrics.update(jax.device_get(run.stored.measure(state, batch)))
            with guard():  # state and files change together
                clock.lap("other")
                state, metrics, turns = functions.update(state, batch)
                metrics, turns = jax.device_get((metrics, turns))
                clock.lap("update")
                told = progress.rollout_metrics(drawn.first)
                metrics = {**told, **drawn.metrics, **metrics}
                metrics = progress.in_format(metrics, config.reading.format)
                episodes = progress.with_credit(episodes, turns)
                timing = clock.stop(spent, episodes)
                timing["programs"] = (
                    functions.make_policy.programs()
                    + functions.make_embed.programs()
                    + functions.update.programs()
                )
                workdir.append_metrics(run.folder, step + 1, metrics, timing)
                run.log(step + 1, metrics)
                workdir.write_episodes(run.folder, step + 1, episodes)
                if config.data:
                    export.publish_run(run.folder)
                progress.print_iteration(step + 1, config.num_updates, metrics, timing)
                done = step + 1 - first
                stop = step + 1 == config.num_updates or done == config.stop_after
                waited = time.monotonic() - saved >= 60 * config.checkpoint_minutes
                if stop or waited or (step + 1) % config.checkpoint_every == 0:
                    keep(run, state)
                    saved = time.monotonic()
            check_skipped(run, metrics)
            if stop:
                break
            if config.eval_every and (step + 1) % config.eval_every == 0:
                examine(run, state, pool, f"at-{step + 1:04d}")
        if int(state.step) == config.num_updates:
            examine(run, state, pool, "after")
    except BaseException:
        if not guard.held:
            keep(run, state)
            print(f"\nstopped after iteration {int(state.step)}", flush=True)
            print("nothing is lost: go on with --resume", flush=True)
        raise
    return state


def act(run: Run, state: TrainState, pool: Environments, step: int) -> redraw.Drawn:
    """One iteration's episodes."""
    config = run.config
    if run.stored is not None:
        return offline.draw(run.stored, step, config)
    chosen = games.training_games(
        run.train_games, step, config.episodes, config.seed, config.siblings
    )
    key = jax.random.fold_in(run.root_key, step)
    weights = assemble.policy(run.agent, state)
    dropped: list[Dropped] = []
    tasks: dict[str, str] = {}
    told: dict[str, float] = {}

    def play(names, attempt: int):
        gone: list[Dropped] = []
        noise = jax.random.fold_in(key, attempt) if attempt else key
        again = f", try {attempt}" if attempt else ""
        policy = functools.partial(run.functions.make_policy, weights, noise)
        options = {
            "max_turns": config.world.turns,
            "on_turn": progress.bar(f"iteration {step + 1}: rollout{again}"),
            "on_drop": lambda one: (gone.append(one), progress.print_dropped(one)),
            "max_dropped": config.max_dropped,
        }
        if isinstance(config.learn, StrataSettings):
            episodes, spent, seen = follow(
                pool,
                policy,
                run.functions.make_embed(weights),
                names,
                run.reader,
                config.learn,
                temperature=config.temperature,
                first=attempt * config.strategies,
                **options,
            )
            told.update({} if attempt else seen)
        else:
            sample = policy(config.temperature)
            episodes, spent = rollout(pool, sample, names, run.reader, **options)
        missing = {one.index for one in gone}
        left = [name for i, name in enumerate(names) if i not in missing]
        tasks.update((e.game, name) for e, name in zip(episodes, left, strict=True))
        dropped.extend(gone)
        return episodes, spent

    def others(number: int, attempt: int):
        return redraw.other_games(
            run.train_games, step, number, config.seed, config.siblings, attempt
        )

    drawn = redraw.draw(
        play, chosen, others, siblings=config.siblings, tries=config.redraw
    )
    metrics = {**told, **drawn.metrics, "rollout/dropped": float(len(dropped))}
    return drawn._replace(metrics=metrics, tasks=tasks)


def examine(run: Run, state: TrainState, pool: Environments, tag: str) -> None:
    """Plays every panel that has no record of that tag yet."""
    for split, (chosen, digest) in run.panels.items():
        file = run.folder / "eval" / f"{tag}-{split}.json"
        if file.is_file():
            continue
        record = evaluate(
            pool,
            run.functions.make_policy,
            assemble.policy(run.agent, state),
            chosen,
            run.reader,
            tag=tag,
            split=split,
            step=int(state.step),
            temperature=run.config.eval_temperature,
            seed=run.config.seed,
            max_turns=run.config.world.turns,
            manifest_hash=digest,
            max_dropped=run.config.max_dropped,
            strategic=run.config.writes_strategies,
            on_turn=progress.bar(f"evaluating {tag}, {split}"),
            on_drop=progress.print_dropped,
        )
        workdir.write_json(file, record)
        print(f"{tag} {tables.summary(record)}")


def keep(run: Run, state: TrainState) -> None:
    """Writes a checkpoint, unless the newest is of this step."""
    step = int(state.step)
    if workdir.latest_step(run.folder) != step:
        workdir.save(run.folder, step, state, {"name": run.name}, keep=run.config.keep)


def check_skipped(run: Run, metrics: dict[str, Any]) -> None:
    """Stops a run that has not learned for a while.

    Raises:
      ValueError: in each of the last iterations a gradient was not finite.
    """
    if not metrics[SKIPPED]:
        return
    recent = workdir.read_lines(run.folder / "metrics.jsonl")[-MAX_SKIPPED:]
    if len(recent) == MAX_SKIPPED and all(line.get(SKIPPED) for line in recent):
        raise ValueError(
            f"gradients were not finite in {MAX_SKIPPED} iterations in a row, and "
            "those steps were skipped: lower the learning rates, or see in "
            "metrics.jsonl which number is null first"
        )
