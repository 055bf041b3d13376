"""One run of a comparison and its folder: how far it is, and the rest of it."""

import dataclasses
import pathlib
import tempfile
from typing import Literal

from hiper_jax import workdir
from hiper_jax.act.chat_template import CLOCK
from hiper_jax.experiments import folder, games
from hiper_jax.experiments.compare import kept
from hiper_jax.experiments.compare.plan import Planned
from hiper_jax.experiments.eval import evaluate_checkpoint
from hiper_jax.experiments.report import tables
from hiper_jax.experiments.train import train

AFTER = "after"  # what a run calls its last evaluations
State = Literal["absent", "begun", "trained", "finished"]


def state_of(planned: Planned, kept_in: str = "") -> State:
    """How far a run is; "trained" is one that has not played the further split.

    Args:
      planned: the run.
      kept_in: a folder of records; a run that is absent is unpacked from its record.

    Raises:
      ValueError: its folder holds something else, or a run with other settings.
    """
    place, config = planned.folder, planned.config
    if kept_in and not place.exists():
        file = kept.file_of(kept_in, place)
        if file.is_file():
            kept.unpack(file, place)
    metrics = workdir.read_lines(place / "metrics.jsonl")
    if not (place / "config.json").is_file():
        if metrics or workdir.latest_step(place) is not None:
            raise ValueError(
                f"{place} holds a run without its config.json: delete it, or name "
                "another --out"
            )
        return "absent"
    if found := folder.changes(folder.read(place), config):
        raise ValueError(
            f"{place} holds a run with other settings ({folder.told(found[:3])}): "
            "delete it, or name another --out"
        )
    done = metrics[-1]["step"] if metrics else 0
    played = tables.evaluations(place).get(AFTER, {}).keys()
    panels = games.panels(config.world, config.eval_episodes, config.eval_seen_episodes)
    if done != config.num_updates or not played >= panels.keys():
        return "begun"
    further = planned.split and planned.split not in played
    return "trained" if further else "finished"


def carry_out(planned: Planned, name: str) -> None:
    """Trains a run to its end, from where it stands, and plays the further split.

    Args:
      planned: the run.
      name: for its report.
    """
    state, config = state_of(planned), planned.config
    if state in ("absent", "begun"):
        # The days on which they begin would tell the runs of a comparison apart.
        clock = config.reading.clock or CLOCK
        reading = dataclasses.replace(config.reading, clock=clock)
        resume = state == "begun"
        train(dataclasses.replace(config, reading=reading, resume=resume), name)
    if state_of(planned) == "trained":
        play_further(planned)


def play_further(planned: Planned) -> None:
    """Plays all games of the further split, as a run plays its own at the end."""
    config, split = planned.config, planned.split
    with tempfile.TemporaryDirectory() as elsewhere:
        record = evaluate_checkpoint(
            str(planned.folder),
            split=split,
            episodes=0,
            temperature=config.eval_temperature,
            seed=config.seed,
            slots=config.slots,
            data="",
            out=str(pathlib.Path(elsewhere) / "record.json"),
        )
    file = planned.folder / "eval" / f"{AFTER}-{split}.json"
    workdir.write_json(file, record | {"tag": AFTER})
