"""Tasks that are seeds: for games that draw themselves, as the adapters' do."""

import contextlib
import dataclasses
import random
from collections.abc import Iterator

import numpy as np

from hiper_jax.accept import Several
from hiper_jax.act.envs.world import Splits, Tasks, WorldSettings, named_tasks

SPLITS = Splits(panels={"valid_unseen": "eval_episodes"})


@dataclasses.dataclass(frozen=True)
class SeedSettings(WorldSettings):
    """Which games are played."""

    train: Several = 400
    """Games to train on, a seed each."""
    unseen: Several = 100
    """Games of other seeds, for validation."""


def seeds(settings: SeedSettings, split: str, name: str) -> Tasks:
    """The tasks of a split: `NAME SEED`, the seeds of both splits disjoint.

    Raises:
      ValueError: there is no such split.
    """
    numbers = {"train": settings.train, "valid_unseen": settings.unseen}
    if split not in numbers:
        raise ValueError(f"Unknown split {split!r}: give one of {', '.join(numbers)}.")
    # Even seeds are for training and odd ones are not, whatever the numbers of games.
    first = 2_000_000 * settings.seed + (split != "train")
    return named_tasks(f"{name} {first + 2 * i}" for i in range(numbers[split]))


def seed_of(task: str) -> int:
    """The seed that a task names.

    Raises:
      ValueError: it names none.
    """
    seed = task.rpartition(" ")[2]
    if not seed.isdecimal():
        raise ValueError(f"{task!r} is no task of this world: it ends in no seed.")
    return int(seed)


class Chance:
    """Own generators for code that draws from Python's and numpy's global ones.

    Games that share a process then do not disturb one another, and the same seed and
    moves give the same game wherever it is played.
    """

    def __init__(self, seed: int):
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.RandomState(seed % 2**32).get_state()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Puts these generators in the place of the global ones for a while."""
        python, numpy = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()
            random.setstate(python)
            np.random.set_state(numpy)
