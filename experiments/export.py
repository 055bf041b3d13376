"""`hiper data export`: the episodes of runs as a TFDS data set."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from hiper_jax import workdir
from hiper_jax.accept import Count, Name, Share, check_fields
from hiper_jax.workdir.publish import Splits


@dataclasses.dataclass(frozen=True)
class Export:
    """Writes the episodes of runs as a TFDS data set (extra `data`)."""

    runs: Annotated[
        tuple[Name, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")
    ]
    """Folders of runs."""
    out: Name
    """Folder of the data set; what is there already is not written again."""
    splits: Splits = "train"
    """`train`: one split; `iteration`: one for each iteration; `train-eval`: whole
    games are held out in a split `eval`."""
    eval_share: Share = 0.1
    """Share of the games that are held out with `--splits train-eval`."""
    shard_episodes: Count = 1024
    """Episodes of a file, at most."""

    def __post_init__(self):
        check_fields(self)


def main(asked: Export) -> None:
    """Exports.

    Raises:
      FileNotFoundError, ValueError, ImportError: see `workdir.publish`.
    """
    plan = workdir.Plan(asked.splits, asked.eval_share, asked.shard_episodes)
    out = pathlib.Path(asked.out)
    with workdir.locked(out):
        number = workdir.publish(out, asked.runs, plan, say=print)
    print(f"{out}: {number} episodes; read them with hj.data.episodes({str(out)!r})")


def publish_run(run: pathlib.Path) -> None:
    """Brings the data set in a run's folder up to date; each process writes its share.

    What is there of iterations that the run has since gone back behind goes.
    """
    import jax

    index, count = jax.process_index(), jax.process_count()
    out = run / "data"
    if count > 1:
        out /= f"process-{index:05d}-of-{count:05d}"
    plan = workdir.Plan(part=(index, count))
    workdir.publish(out, [run], plan, restart=True)
