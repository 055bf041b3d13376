"""Where the hosts of a run meet: what ends one of them ends all, at one place.

A host plays at its own pace and says nothing meanwhile. What is raised while it plays
is told to the others where they next wait for each other, so that all of them save the
same state. With one host nothing is told, and what is raised is raised.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

import hiper_jax
from hiper_jax import workdir
from hiper_jax.act.envs.world import WorldSettings
from hiper_jax.act.rollout import Reader, Sampled, Sampler
from hiper_jax.act.stack import Batch, rows_needed
from hiper_jax.act.together import framed, packed, unframed, unpacked
from hiper_jax.experiments import export, folder, games, progress, setup
from hiper_jax.experiments.config import Train
from hiper_jax.experiments.offline import Offline
from hiper_jax.experiments.place import Place
from hiper_jax.experiments.redraw import Drawn
from hiper_jax.hosts import HostError, Hosts
from hiper_jax.networks.agent import Agent
from hiper_jax.update.step import SKIPPED

MAX_SKIPPED = 10  # iterations in a row with a gradient that is not finite


class Run(Protocol):
    """What is read here of `train.Run`."""

    @property
    def config(self) -> Train: ...
    @property
    def agent(self) -> Agent: ...
    @property
    def functions(self) -> setup.Functions: ...
    @property
    def train_games(self) -> tuple[str, ...]: ...
    @property
    def panels(self) -> dict[str, tuple[list[str], str]]: ...
    @property
    def folder(self) -> pathlib.Path: ...
    @property
    def place(self) -> Place: ...
    @property
    def reader(self) -> Reader: ...
    @property
    def log(self) -> Callable[[int, dict], Any]: ...
    @property
    def root_key(self) -> jax.Array: ...
    @property
    def hosts(self) -> Hosts: ...
    @property
    def stored(self) -> Offline | None: ...
    def bar(self, what: str) -> Callable[[int, int], Any]: ...


def agree(run: Run, step: int) -> None:
    """Compares what decides an iteration's numbers over all hosts, before it begins.

    Raises:
      HostError: a host is about to do something else; it and what differs are named.
    """
    if run.hosts.count == 1:
        return
    facts = {
        "set of settings": folder.bound(run.config),
        "step": step,
        "set of shapes": [run.functions.shapes, run.functions.here],
        "key": jax.random.key_data(run.root_key).tolist(),
        "list of games": [run.train_games, run.panels],
        "model": str(run.agent.config),
        "set of stored episodes": run.stored.digest if run.stored else "",
        "version": [jax.__version__, hiper_jax.__version__],
    }
    run.hosts.agree(f"iteration {step + 1}", facts)


def stacked(run: Run, drawn: Drawn) -> Batch | list[bytes]:
    """What this host played; where there are several, packed, a part for each run."""
    config = run.config

    def batch_of(episodes, shapes, number: int) -> Batch:
        batch = setup.stacked(
            run.agent,
            episodes,
            config.reading,
            shapes,
            max_turns=config.world.turns,
            num_episodes=number,
        )
        part = drawn._replace(episodes=episodes)
        return setup.with_teacher(batch, part, config, run.agent, run.reader)

    shapes = run.functions.shapes
    if run.hosts.count == 1:
        return batch_of(drawn.episodes, shapes, config.episodes)
    reading, parts, begin = config.reading, [], 0
    how = {"mode": reading.mode, "format": reading.format}
    for size in _own(run, drawn):
        part, begin = drawn.episodes[begin : begin + size], begin + size
        exact = shapes._replace(rows=(rows_needed(part),))  # padding does not travel
        parts.append(packed(batch_of(part, exact, 0), part, run.agent.pieces, **how))
    return parts


def _own(run: Run, drawn: Drawn) -> list[int]:
    """How many episodes each of this host's runs has."""
    if not drawn.runs:
        return [len(drawn.episodes)]
    return [size for host, size in drawn.runs if host == run.hosts.index]


def write(run: Run, step: int, metrics, timing, episodes) -> None:
    """What an iteration leaves on disk: numbers once, episodes by whoever played."""
    hosts = run.hosts

    def once() -> None:
        workdir.append_metrics(run.folder, step, metrics, timing)
        run.log(step, metrics)

    hosts.first("metrics.jsonl", once)
    workdir.write_episodes(run.folder, step, episodes, hosts=hosts)
    run.place.push()
    if run.config.data:
        hosts.exchange("the episodes of all hosts", step)  # each reads them all
        if hosts.count > 1:
            run.place.pull()
        export.publish_run(run.folder)
        run.place.push()
    if hosts.writes:
        progress.print_iteration(step, run.config.num_updates, metrics, timing)


def joined(
    run: Run, drawn: Drawn, mine: Batch | list[bytes]
) -> tuple[Batch, dict[str, float], np.ndarray]:
    """What all hosts played, given what this one did.

    Args:
      run: what it is a part of.
      drawn: this host's episodes.
      mine: those, from `stacked`.

    Returns:
      The Batch and the rollout's metrics of all, and the places of this host's
      episodes in it.
    """
    told = progress.rollout_metrics(drawn.first)
    if isinstance(mine, Batch):
        return mine, {**told, **drawn.metrics}, np.arange(len(drawn.episodes))
    hosts = run.hosts
    boxes = [iter(unframed(box)) for box in hosts.gather("rows", framed(mine))]
    order = [host for host, _ in drawn.runs] or list(range(hosts.count))
    batch, counts = unpacked(
        [next(boxes[host]) for host in order],
        rows=run.functions.shapes.rows[0],
        trajectories=run.config.episodes,
        pad_id=run.agent.codec.pad_id,
    )
    turns = sum(len(episode.turns) for episode in drawn.first)
    said = [told, len(drawn.first), turns, drawn.metrics]
    metrics = progress.of_all(hosts.exchange("metrics", said))
    owner = np.repeat(order, counts)
    return batch, metrics, np.flatnonzero(owner == hosts.index)


def compiled(run: Run, state: Any, batch: Batch) -> None:
    """Has every host compile the update before any of them begins it.

    Hosts do not compile equally fast, one may find the program on its disk; and those
    that begin a program wait for the others as long as the device's collectives do:
    30 seconds with gloo.
    """
    if run.hosts.count > 1 and not run.functions.update.programs():
        run.functions.update.lower(state, batch).compile()
        run.hosts.exchange("the compiled update", None)


@contextlib.contextmanager
def together(hosts: Hosts, guard: Any, what: str) -> Iterator[None]:
    """Waits at the end of the block for all hosts; raises if one of them did inside.

    Raises:
      HostError: another host failed, or none is to be waited for any longer.
      KeyboardInterrupt: some host was told to stop; `guard.together` is true then.
    """
    if hosts.count == 1:
        yield
        return
    line, error = "", None
    try:
        yield
    except KeyboardInterrupt:
        pass  # hosts.asked says so
    except Exception as caught:
        line, error = " ".join(str(caught).split()) or type(caught).__name__, caught
    heard = hosts.exchange(what, [line, hosts.asked])
    failed = [(i, line) for i, (line, _) in enumerate(heard) if line]
    asked = next((name for _, name in heard if name), "")
    guard.together = bool(failed or asked)
    if error is not None:
        raise error
    if failed:
        raise HostError(f"{hosts.name(failed[0][0])}: {failed[0][1]}")
    progress.stop_if_asked(asked)


@contextlib.contextmanager
def turn_by_turn(run: Run, sample: Sampler) -> Iterator[Sampler]:
    """Yields the sampler of a rollout; where all hosts sample together, one that waits.

    It asks for all hosts' prompts at once and hands on this host's answers. A host
    whose episodes are over goes on asking, for nothing, until all are.
    """
    hosts = run.hosts
    if hosts.count == 1 or run.config.mesh.serving == "host":
        yield sample
        return

    def ask(prompts, index, turn) -> Sampled | None:
        mine = [[p.tolist() for p in prompts], np.asarray(index).tolist()]
        said = hosts.gather(
            "a turn", json.dumps([*mine, list(map(int, turn))]).encode()
        )
        asked = [json.loads(part) for part in said]
        before = sum(len(part[0]) for part in asked[: hosts.index])
        every = [np.array(p, np.int32) for part in asked for p in part[0]]
        if not every:
            return None
        places, turns = (
            np.array([x for part in asked for x in part[i]], np.int32) for i in (1, 2)
        )
        answers = sample(every, places, turns)
        end = before + len(prompts)
        values = answers.values and answers.values[before:end]
        return Sampled(answers.tokens[before:end], answers.log_prob[before:end], values)

    def answer(prompts, index, turn) -> Sampled:
        found = ask(prompts, index, turn)
        assert found is not None  # whoever asks has a prompt
        return found

    def go_on() -> None:
        while ask([], [], []) is not None:
            pass

    try:
        yield answer
    except (HostError, jax.errors.JaxRuntimeError):
        raise  # the others cannot be asked any more
    except BaseException:
        go_on()
        raise
    go_on()


def tell(hosts: Hosts) -> Callable[[str], None] | None:
    """What a signal does where there are several hosts; see `progress.deferred`."""
    if hosts.count == 1:
        return None

    def note(name: str) -> None:
        hosts.asked = hosts.asked or name

    return note


def make_games(hosts: Hosts, world: WorldSettings) -> None:
    """Makes the games of a world if need be, once on each disk.

    The first host goes first, then the first of each machine, which finds them there if
    the machines share a disk, then the others.
    """
    here = hosts.names.index(hosts.names[hosts.index]) if hosts.count > 1 else 0
    mine = 0 if hosts.writes else 1 if here == hosts.index else 2
    for turn in range(3 if hosts.count > 1 else 1):
        if turn == mine:
            games.games_folder(world, print if hosts.writes else lambda line: None)
        hosts.exchange("the games", None)


def check_skipped(run: Run, metrics: Mapping[str, Any]) -> None:
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
