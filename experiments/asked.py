"""What the smaller commands are asked: their flags, with what each accepts."""

import dataclasses
from typing import Annotated, Literal

import tyro

from hiper_jax.accept import (
    Count,
    Name,
    NotNegative,
    Seed,
    SettingError,
    Whole,
    check_fields,
)
from hiper_jax.act.envs.world import WORLDS


@dataclasses.dataclass(frozen=True)
class Eval:
    """Plays a fixed panel of games, each once."""

    run: Annotated[Name, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run (its newest checkpoint or its model), or of weights."""
    split: str = ""
    """Of the world's games; empty: the first that its runs are examined on."""
    episodes: Whole = 0
    """Games; 0 plays all of the split."""
    temperature: NotNegative = 0.4
    """Of sampling; 0 takes the likeliest token."""
    seed: Seed = 0
    """Of sampling."""
    slots: Count = 64
    """Environments played at once."""
    data: str = ""
    """Folder with games; empty: the games of the run the checkpoint belongs to."""
    out: str = ""
    """File for the record; empty: eval-SPLIT.json in the current folder."""
    preset: str = "quickstart"
    """Whose settings a folder of weights is played with; a run has its own."""
    format: Literal["plan", "flat"] = "plan"
    """Of a folder of weights' responses; a run has its own."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Play:
    """A person plays a game in the terminal."""

    game: Annotated[Name, tyro.conf.Positional, tyro.conf.arg(metavar="GAME")]
    """A file, a folder or a text that some world takes for a game; or a world."""
    goal: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GOAL")] = ""
    """Which of the tasks, where there are several; empty: the first for validation."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes report.html of a run, or of several on one page."""

    run: Annotated[Name, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    others: Annotated[
        tuple[Name, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")
    ] = ()
    """Folders of further runs, to be set beside it."""
    out: Name = "runs/report"
    """Folder for the page of several runs, with their curves as CSV and SVG."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Runs:
    """Lists the runs in a folder: status, success, hours."""

    folder: Annotated[Name, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = (
        "runs"
    )
    """Where they lie."""
    csv: str = ""
    """File for the list as CSV; - prints it, instead of the table."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class ImportModel:
    """Turns a GGUF file into a directory in Hugging Face's format."""

    source: Annotated[Name, tyro.conf.Positional, tyro.conf.arg(metavar="GGUF")]
    """A GGUF file, or an installed package that holds one."""
    target: Annotated[Name, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder to write."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class BenchHae:
    """Times HAE against plain loops in torch (extra `parity`)."""

    out: Name = "runs/bench-hae"
    """Folder for bench_hae.json and bench_hae.png."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class BenchRollout:
    """Times a world's environments without a model."""

    env: Name
    """Which world."""
    out: str = ""
    """Folder for bench_WORLD.json; empty: runs/bench-WORLD."""

    def __post_init__(self):
        check_fields(self)
        if self.env not in WORLDS:
            fault = f"must be {' or '.join(WORLDS)}, got {self.env!r}"
            raise SettingError(type(self), "env", fault)


@dataclasses.dataclass(frozen=True)
class Variance:
    """The variance of HAE's gradient, exactly and by sampling."""

    out: Name = "runs/variance"
    """Folder for variance.csv, variance.md and variance.png."""

    def __post_init__(self):
        check_fields(self)
