"""Episodes from wherever they are: a run's folder, or a data set of any runs."""

import pathlib
from collections.abc import Iterator

from hiper_jax.workdir import data
from hiper_jax.workdir.copies import here
from hiper_jax.workdir.data.example import Entry
from hiper_jax.workdir.data.layout import INFO
from hiper_jax.workdir.episodes import episode_files, read_episodes


def is_stored(path) -> bool:
    """Whether a folder holds episodes that `stored` yields."""
    path = pathlib.Path(path)
    return bool(episode_files(path)) or any(path.glob(INFO)) or _by_process(path)


def stored(path, split: str | None = None) -> Iterator[Entry]:
    """Yields the episodes of a run's folder, or of a data set, in order.

    Args:
      path: the folder, or its path in a store, of which a copy is made.
      split: of a data set; None: all of them.

    Raises:
      FileNotFoundError: it holds neither.
      ValueError: a file is damaged, or there is no such split.
      ImportError: it is a data set, and the extra `data` is missing.
    """
    path = here(path, _holds_episodes)
    if not is_stored(path):
        raise FileNotFoundError(
            f"{path} holds no episodes: name a run's folder, or a data set that `hiper "
            "data export` made"
        )
    files = episode_files(path)
    if not files:
        return data.entries(path, split)
    if split is not None:
        raise ValueError(f"{path} is a run's folder and has no splits: leave them out")
    return _of_run(path.resolve().name, files)


def _of_run(name: str, files: dict[int, pathlib.Path]) -> Iterator[Entry]:
    for step, file in files.items():
        for index, episode in enumerate(read_episodes(file)):
            yield Entry(episode, name, step, index)


def _by_process(path: pathlib.Path) -> bool:
    return any(path.glob(f"process-*/{INFO}"))


def _holds_episodes(name: str) -> bool:
    """Whether a file of a run, or of a data set, is what episodes are read from."""
    first, _, rest = name.partition("/")
    return not rest or first == "episodes" or first.startswith("process-")
