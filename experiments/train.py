"""`hiper train`: rollout, stack, update, write; from a warm start to a report.

`loop` reads top to bottom; what it calls is pure or lives above.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax

from hiper_jax import _store, workdir
from hiper_jax.act.rollout import Environments, Reader
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import (
    draws,
    folder,
    games,
    meeting,
    offline,
    panel,
    progress,
    setup,
    starts,
    trackers,
)
from hiper_jax.experiments import place as places
from hiper_jax.experiments.capacity import layout, precompile
from hiper_jax.experiments.meeting import check_skipped
from hiper_jax.experiments.place import default_folder
from hiper_jax.experiments.profiling import Profile
from hiper_jax.experiments.report import report, tables
from hiper_jax.hosts import HostError, Hosts
from hiper_jax.networks import assemble, placement
from hiper_jax.networks.agent import Agent, read_agent, read_weights, save_agent
from hiper_jax.update.state import TrainState
from hiper_jax.update.step import SKIPPED


@dataclasses.dataclass(frozen=True)
class Run:
    """What a training run is made of, beside its state."""

    config: configs.Train
    name: str  # of the preset
    folder: pathlib.Path  # where its files are written
    place: places.Place  # where they belong
    agent: Agent
    functions: setup.Functions
    reader: Reader
    train_games: tuple[str, ...]
    panels: dict[str, tuple[list[str], str]]  # split -> games, hash of the whole split
    log: trackers.Trackers  # (step, metrics), further places for metrics
    saver: workdir.Saver
    root_key: jax.Array
    hosts: Hosts
    stored: offline.Offline | None = None  # episodes that take a rollout's place

    def say(self, line: str) -> None:
        """Prints a line, once however many processes there are."""
        if self.hosts.writes:
            print(line)

    def bar(self, what: str) -> Callable[[int, int], Any]:
        """Progress of what this host plays, during which all may be asked to stop."""
        show = progress.bar(what) if self.hosts.writes else lambda done, total: None

        def on_turn(done: int, total: int) -> None:
            show(done, total)
            progress.stop_if_asked(self.hosts.asked)

        return on_turn


def train(config: configs.Train, name: str, hosts: Hosts | None = None) -> pathlib.Path:
    """Runs or resumes one training run.

    Args:
      config: what to do.
      name: of the preset, for the folder and the report.
      hosts: the processes that train together; None: this one alone.

    Returns:
      The run's folder; of a run in a store the copy, which is gone.

    Raises:
      ValueError, FileNotFoundError, OSError, ImportError: something in the settings
        cannot work.
    """
    folder.check_places(config)
    games.check_data(config.world)
    starts.check_model(config)
    setup.check_teacher(config)
    setup.check_strategies(config)
    if config.data:
        workdir.data.tfds()
    hosts = hosts or Hosts()
    setup.check_hosts(config, hosts.count)
    where = config.out or default_folder(config, name)
    workdir.check_writers(where, hosts)
    if not _store.is_remote(where):
        here = pathlib.Path(where)
        hosts.first("the run's folder", lambda: folder.check(here, config))
    with places.opened(hosts, where) as place:
        return _train(config, name, place, hosts)


def _train(
    config: configs.Train, name: str, place: places.Place, hosts: Hosts
) -> pathlib.Path:
    """`train` in a folder that is these processes' alone."""
    began = time.monotonic()
    run, state = prepare(config, name, place, hosts)
    with (
        progress.deferred(meeting.tell(hosts)) as guard,
        games.open_pool(config.world, max(config.slots // hosts.count, 1)) as pool,
        run.log,
        Profile(config, place.folder, place.told) as profile,
    ):
        state = loop(run, state, pool, guard, profile)
    if int(state.step) < config.num_updates:
        run.say(f"stopped after iteration {int(state.step)}; go on with --resume")
        return run.folder
    actor, critic = placement.fetched(assemble.merged(run.agent, state), hosts.writes)

    def finish() -> None:
        if hosts.count > 1:
            place.pull()  # the report shows the episodes of all
        model = starts.start_of(config)
        save_agent(run.folder / "model", run.agent, actor, critic, tokenizer=model)
        tables.write(run.folder)
        print(tables.render(run.folder))
        page = report.write_report(run.folder)
        place.push()
        print(f"report: {place.told(page)}")
        print(f"{(time.monotonic() - began) / 60:.1f} minutes in all")

    place.push()
    hosts.first("the model and the report", finish)
    return run.folder


def prepare(
    config: configs.Train, name: str, place: places.Place, hosts: Hosts
) -> tuple[Run, TrainState]:
    """Checks what is left to check, then makes or reads what the run begins with."""
    run_folder = place.folder
    # Again: now nobody else can begin there.
    with place.naming():
        hosts.first("the run's folder", lambda: folder.check(run_folder, config))
    model = starts.start_of(config)
    say = print if hosts.writes else lambda line: None
    layout.check(config, model, say)
    mesh = setup.mesh_for(model, config)
    meeting.make_games(hosts, config.world)
    numbers = config.eval_episodes, config.eval_seen_episodes
    train_games, panels = games.lists_of(config.world, *numbers, say)
    agent = read_agent(model, mesh=mesh, **setup.agent_settings(config))
    config = folder.dated(run_folder, config, agent.codec, hosts)
    functions = setup.build(config, agent, hosts=hosts.count)
    if config.precompile:
        precompile.precompile(config, agent, functions, say)
    actor, critic = read_weights(model, agent)
    root_key = jax.random.key(config.seed)
    state = functions.init_state(actor, critic, jax.random.key_data(root_key))
    run = Run(
        config=config,
        name=name,
        folder=run_folder,
        place=place,
        agent=agent,
        functions=functions,
        reader=setup.reader_of(agent, config.reading, config.world.environment),
        train_games=train_games,
        panels=panels,
        root_key=root_key,
        hosts=hosts,
        stored=offline.load(config, agent) if config.offline else None,
        saver=workdir.Saver(
            run_folder,
            {"name": name},
            keep=config.keep,
            hosts=hosts,
            check=place.check,
        ),
        # The last: what fails before leaves no tracker open.
        log=trackers.start(config, name, run_folder)
        if hosts.writes
        else trackers.Trackers([]),
    )
    newest = hosts.first("the checkpoints", lambda: workdir.latest_step(run_folder))
    if newest is None:
        packages = games.packages(config.world)

        def begin() -> None:
            folder.claim(run_folder, config, name, packages)
            place.push()

        hosts.first("config.json", begin)
        return run, state
    state, _ = workdir.restore_newest(run_folder, state, say=run.say, hosts=hosts)
    step = int(state.step)

    def go_on() -> None:
        folder.note_changes(run_folder, config, step)
        workdir.truncate_after(run_folder, step)
        place.push()

    hosts.first("what was written later", go_on)
    run.say(f"resuming after iteration {step}")
    return run, state


def loop(
    run: Run, state: TrainState, pool: Environments, guard, profile: Profile
) -> TrainState:
    """Iterations until the last, or the last of this call; returns the state."""
    config, functions = run.config, run.functions
    try:
        if int(state.step) == 0:
            examine(run, state, pool, "before", guard)
        first = int(state.step)
        clock = progress.Clock(config.num_updates - first)
        saved = time.monotonic()
        for step in range(first, config.num_updates):
            clock.start()
            profile.start(step + 1)
            meeting.agree(run, step)
            with meeting.together(run.hosts, guard, f"iteration {step + 1}"):
                drawn = draws.act(run, state, pool, step, guard)
                mine = meeting.stacked(run, drawn)
            batch, told, own = meeting.joined(run, drawn, mine)
            if run.stored is not None:
                told |= jax.device_get(run.stored.measure(state, batch))
            with guard():  # state and files change together
                clock.lap("other")
                meeting.compiled(run, state, batch)
                state, metrics, turns = functions.update(state, batch)
                metrics, turns = jax.device_get((metrics, turns))
                clock.lap("update")
                metrics = progress.in_format({**told, **metrics}, config.reading.format)
                turns = {name: values[own] for name, values in turns.items()}
                episodes = progress.with_credit(drawn.episodes, turns)
                timing = clock.stop(drawn.spent, episodes)
                if run.hosts.count > 1:  # of all of them; the seconds are the first's
                    timing["tokens"] = int(batch.length[batch.is_turn].sum())
                    timing["received"] = run.hosts.received  # bytes, since the start
                timing["programs"] = (
                    functions.make_policy.programs()
                    + functions.make_embed.programs()
                    + functions.update.programs()
                )
                meeting.write(run, step + 1, metrics, timing, episodes)
                done = step + 1 - first
                stop = step + 1 == config.num_updates or done == config.stop_after
                run.saver.check()
                waited = time.monotonic() - saved >= 60 * config.checkpoint_minutes
                waited = run.hosts.first(
                    "a checkpoint's time", lambda late=waited: late
                )
                if stop or waited or (step + 1) % config.checkpoint_every == 0:
                    keep(run, state)
                    saved = time.monotonic()
                if stop:
                    run.saver.wait()
            profile.stop(step + 1)
            if metrics[SKIPPED]:
                run.hosts.first(
                    "skipped steps", lambda told=metrics: check_skipped(run, told)
                )
            if stop:
                break
            if config.eval_every and (step + 1) % config.eval_every == 0:
                examine(run, state, pool, f"at-{step + 1:04d}", guard)
        if int(state.step) == config.num_updates:
            examine(run, state, pool, "after", guard)
    except BaseException as error:
        # With several hosts only what ended all of them at one place.
        if not guard.held and (run.hosts.count == 1 or guard.together):
            keep(run, state)
            run.saver.wait()
            run.say(f"\nstopped after iteration {int(state.step)}")
            run.say("nothing is lost: go on with --resume")
        elif not isinstance(error, HostError):
            # Another host that failed has done so, and nobody waits for it any more.
            run.saver.settle()
        raise
    return state


def examine(run: Run, state: TrainState, pool: Environments, tag: str, guard) -> None:
    """Plays every panel that has no record of that tag yet."""
    hosts, config = run.hosts, run.config
    for split, (chosen, digest) in run.panels.items():
        file, what = run.folder / "eval" / f"{tag}-{split}.json", f"{tag}, {split}"
        if hosts.first(what, file.is_file):
            continue
        begin, end = hosts.share(len(chosen))
        with meeting.together(hosts, guard, what):
            played = panel.play(
                pool,
                run.functions.make_policy,
                run.functions.policy(state),
                chosen[begin:end],
                run.reader,
                temperature=config.eval_temperature,
                seed=config.seed,
                max_turns=config.world.turns,
                max_dropped=config.max_dropped,
                waves=setup.waves_of(config),
                strategic=config.writes_strategies,
                on_turn=run.bar(f"evaluating {what}"),
                on_drop=progress.print_dropped,
                first=begin,
                shared=functools.partial(meeting.turn_by_turn, run),
            )
        said = hosts.gather(what, json.dumps(played).encode())
        record = panel.record(
            [one for part in said for one in json.loads(part)],
            tag=tag,
            split=split,
            step=int(state.step),
            temperature=config.eval_temperature,
            seed=config.seed,
            manifest_hash=digest,
        )

        def write(to=file, record=record) -> None:
            workdir.write_json(to, record)
            run.place.push()

        hosts.first(what, write)
        run.say(f"{tag} {tables.summary(record)}")


def keep(run: Run, state: TrainState) -> None:
    """Begins to write a checkpoint, unless the newest is of this step, or will be."""
    step = int(state.step)
    if run.saver.step == step:
        return
    newest = run.hosts.first("a checkpoint", lambda: workdir.latest_step(run.folder))
    if newest != step:
        run.saver.begin(step, state)
