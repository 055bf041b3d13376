"""`hiper credit`: what an estimator says of episodes that were played before.

Values come from a checkpoint, or are those that training wrote down. Credit compares
the episodes of an iteration, so those are taken together, as training took them.
"""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from hiper_jax import _store, workdir
from hiper_jax._disk import refuse_store
from hiper_jax.accept import Name, Whole, check_fields
from hiper_jax.act.episode import Episode
from hiper_jax.act.stack import Batch
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import folder, progress, recipes, setup, starts, texts
from hiper_jax.networks import placement
from hiper_jax.networks.acquire import find_model
from hiper_jax.networks.agent import Agent, read_agent
from hiper_jax.networks.passes import make_model
from hiper_jax.update import objective
from hiper_jax.update.chunks import rows_of
from hiper_jax.update.state import TrainState
from hiper_jax.update.step import measure, values_of_turns

# (batch, values [N, H] that are known, or None) -> what is said of turns, [B, T] each
Assign = Callable[[Batch, Any], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Credit:
    """Assigns credit to stored episodes, or to trajectories in a file of text."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = ""
    """A run's folder or a data set; empty with `--text`."""
    out: Name = "runs/credit"
    """Folder for the episodes with their credit, in a run's form; with `--text` a file
    of JSON lines."""
    text: str = ""
    """File of JSON lines: trajectories of any agent."""
    checkpoint: str = ""
    """Run or folder of weights whose critic gives the values; empty: the values that
    the episodes have."""
    step: Whole = 0
    """Which checkpoint of the run; 0: the newest."""
    estimator: configs.EstimatorName = "hae"
    """Which; where it is not named, that of the run."""
    learn: objective.Settings = configs.Learn()
    """The estimator's settings; what is not named is as the run has it, or the
    preset."""
    preset: str = "quickstart"
    """Whose settings hold where no run has any."""

    def __post_init__(self):
        check_fields(self)


def main(asked: Credit) -> None:
    """Assigns and writes.

    Raises:
      FileNotFoundError, ValueError: there is nothing to read, values are missing, or
        `out` is in use.
    """
    if bool(asked.text) == bool(asked.source):
        raise ValueError("name a folder of episodes, or a file with --text; not both")
    out = pathlib.Path(asked.out)
    refuse_store(out)
    if out.exists():
        raise ValueError(f"{out} is there already: name another --out")
    lines = texts.read_lines(asked.text) if asked.text else []
    config = settings(asked)
    agent, state = weights(asked, config)
    if asked.text:
        return _of_text(asked, config, agent, state, lines, out)
    number = 0
    stored = workdir.stored(asked.source)
    together = itertools.groupby(stored, key=lambda entry: (entry.run, entry.iteration))
    for n, (_, entries) in enumerate(together, start=1):
        episodes = [entry.episode for entry in entries]
        credited = assign(episodes, config, agent, state)
        workdir.write_episodes(out, n, credited)
        number += len(credited)
    print(f"{out}: {number} episodes with the credit of {config.estimator}")


def usual(places: Sequence[str], estimator: str, preset: str) -> configs.Train:
    """The settings of the first run among some folders, or else a preset's.

    Args:
      places: folders.
      estimator: which; empty: as it is there.
      preset: whose settings hold where no folder is a run's.
    """
    config = recipes.recipe(preset)
    for place in map(_settings_folder, filter(None, places)):
        if (place / "metrics.jsonl").is_file():
            config = folder.settings_of(place, config)
            break
    return configs.with_estimator(config, estimator or config.estimator)


def _settings_folder(place: str) -> pathlib.Path:
    """A folder, of a store's path a copy of what holds a run's settings."""
    if not _store.is_remote(place):
        return pathlib.Path(place)
    return workdir.here_if_run(place) or pathlib.Path(os.devnull)


def start(words: Sequence[str], estimator: str) -> Credit:
    """The defaults of a command line: those of a run that it names, or of its preset.

    Args:
      words: of the command line.
      estimator: that it names; empty: none.
    """
    at = words.index("--preset") + 1 if "--preset" in words else len(words)
    preset = words[at] if at < len(words) else Credit.preset
    config = usual(words, estimator, preset)
    return Credit(estimator=config.estimator, learn=config.learn)


def settings(asked: Credit) -> configs.Train:
    """The settings that are asked for, in the shapes of a run if there is one."""
    places = asked.source, asked.checkpoint
    config = usual(places, asked.estimator, asked.preset)
    return dataclasses.replace(config, learn=asked.learn)


def weights(asked: Credit, config: configs.Train) -> tuple[Agent, TrainState | None]:
    """The networks, and their weights where a checkpoint is named."""
    place = workdir.here_if_run(asked.checkpoint) or find_model(asked.checkpoint)
    nothing = dict.fromkeys(("step", "actor_opt", "critic_opt", "key"))
    if not asked.checkpoint:
        return read_agent(starts.start_of(config), **setup.agent_settings(config)), None
    if (place / "checkpoints").is_dir():
        agent = read_agent(starts.start_of(config), **setup.agent_settings(config))
        like = placement.abstract_state(agent, setup.build(config, agent).init)
        parts = ["actor", "reference"] + ["critic"] * config.has_critic
        state, _ = workdir.restore(place, like, asked.step or None, only=parts)
        return agent, state.replace(**nothing)
    if not (place / "config.json").is_file():
        raise FileNotFoundError(f"{place} is neither a run nor a folder of weights")
    agent, actor, critic = setup.load_for(place, config)
    parts = {"actor": actor, "critic": critic, "reference": actor}
    return agent, TrainState(**parts, **nothing)


def assign(
    episodes: Sequence[Episode],
    config: configs.Train,
    agent: Agent,
    state: TrainState | None = None,
) -> list[Episode]:
    """Episodes of one iteration, with their credit as the update would assign it.

    Args:
      episodes: which; without a state each has its values among its credit.
      config: settings of the estimator and of the shapes.
      agent: the networks.
      state: weights for the values; None: the episodes' own.

    Raises:
      ValueError: values are missing, or are needed at every token.
    """
    config = fitting(config, episodes)
    batch = setup.stacked(
        agent,
        episodes,
        config.reading,
        setup.run_shapes(config),
        max_turns=config.world.turns,
        num_episodes=config.episodes,
    )
    known = None if state is not None else known_values(episodes, batch, config)
    said = assigner(config, agent)(state, batch, known)
    return progress.with_credit(list(episodes), jax.device_get(said))


def fitting(config: configs.Train, episodes: Sequence[Episode]) -> configs.Train:
    """Settings whose shapes hold the episodes: the run's own where they do."""
    turns = [turn for episode in episodes for turn in episode.turns]
    prompts = [len(e.next_prompt) for e in episodes] + [len(t.prompt) for t in turns]
    reading = dataclasses.replace(
        config.reading,
        max_prompt=max(config.reading.max_prompt, *prompts),
        max_response=max(
            config.reading.max_response, *(len(turn.response) for turn in turns)
        ),
    )
    longest = max(len(episode.turns) for episode in episodes)
    if longest > config.world.turns:
        world = dataclasses.replace(config.world, max_turns=longest)
        config = dataclasses.replace(config, world=world)
    count = -(-len(episodes) // config.siblings) * config.siblings
    count = max(config.episodes, count)
    return dataclasses.replace(config, reading=reading, episodes=count)


def assigner(config: configs.Train, agent: Agent) -> Callable[..., dict[str, Any]]:
    """(state, batch, known values) -> what is said of turns; one of the two is None."""
    estimator = configs.estimator_of(config)
    model, shapes = make_model(agent, estimator.heads), setup.run_shapes(config)

    def said(state, batch, known):
        feeding = config.learn.chunk, config.learn.pack
        batch, rows = rows_of(batch, shapes.lengths, *feeding)
        if state is None:
            credit = estimator.assign(batch, known)
            return credit.turn | values_of_turns(batch, estimator.heads, known)
        networks = state.reference, state.actor, state.critic
        targets, credit = measure(
            model, estimator, config.learn, config.temperature, networks, batch, rows
        )
        return credit.turn | values_of_turns(batch, estimator.heads, targets.value)

    return jax.jit(said)


def known_values(
    episodes: Sequence[Episode], batch: Batch, config: configs.Train
) -> np.ndarray:
    """[N, H] values that the episodes have, on the rows of their turns.

    Raises:
      ValueError: they have none, or not all that the estimator reads.
    """
    estimator = configs.estimator_of(config)
    more = estimator.reads_reference or estimator.reads_teacher
    if more or (estimator.heads and estimator.read_at(batch) is None):
        raise ValueError(
            f"{config.estimator} reads more of the networks than one value a turn: "
            "give their --checkpoint"
        )
    values = np.zeros((len(batch.tokens), len(estimator.heads)), np.float32)
    for b, episode in enumerate(episodes):
        said, T = episode.credit or {}, len(episode.turns)
        for h, name in enumerate(estimator.heads):
            if f"value_{name}" not in said:
                raise ValueError(
                    f"{episode.game} has no values of the head {name}: give a "
                    "--checkpoint whose critic has"
                )
            values[batch.row[b, :T], h] = said[f"value_{name}"]
            if batch.next_row[b] >= 0:
                values[batch.next_row[b], h] = said.get(f"value_next_{name}", [0])[-1]
    return values


def _of_text(
    asked: Credit,
    config: configs.Train,
    agent: Agent,
    state: TrainState | None,
    lines: list[dict[str, Any]],
    out: pathlib.Path,
) -> None:
    reader = setup.reader_of(agent, config.reading, config.world.environment)
    episodes = texts.to_episodes(lines, reader)
    heads = configs.estimator_of(config).heads
    for n, (line, episode) in enumerate(zip(lines, episodes, strict=True)):
        given: dict[str, list[float]] = {}
        for name in heads:
            found = [turn.get("values", {}).get(name) for turn in line["turns"]]
            if state is None and None in found:
                raise ValueError(
                    f"{asked.text}, trajectory {n + 1}: turn {found.index(None)} has "
                    f"no value {name}: write it under values, or give a --checkpoint"
                )
            given[f"value_{name}"] = [x or 0.0 for x in found]
        episodes[n] = dataclasses.replace(episode, credit=given)
    credited = assign(episodes, config, agent, state)
    told = [{**li, "credit": e.credit} for li, e in zip(lines, credited, strict=True)]
    workdir.write_text(out, "".join(json.dumps(record) + "\n" for record in told))
    print(f"{out}: {len(told)} trajectories with the credit of {config.estimator}")
