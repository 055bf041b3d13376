"""A data set on disk -> episodes, one after another."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from hiper_jax.act.episode import Episode
from hiper_jax.workdir.copies import here
from hiper_jax.workdir.data.example import Entry, from_example, tfds
from hiper_jax.workdir.data.layout import INFO, NAME, VERSION

# Fields of a turn that a table has no column for.
_WIDE = ("prompt", "response", "log_prob", "admissible")


def folders(path) -> list[pathlib.Path]:
    """The data sets in a folder: itself, or one for each process that wrote.

    Raises:
      FileNotFoundError: there is none.
    """
    path = here(path, lambda name: "/" not in name or name.startswith("process-"))
    found = [path] if (path / INFO).is_file() else sorted(path.glob("process-*"))
    found = [folder for folder in found if (folder / INFO).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{path} holds no data set of episodes: make one with `hiper data export "
            "RUN --out DIR`"
        )
    return found


def sources(path, split: str | None = None) -> list[Any]:
    """Data sources of TFDS, which are sequences of examples.

    Args:
      path: of the data set.
      split: which; None: all of them.

    Raises:
      FileNotFoundError, ValueError: there is no data set, or no such split; or it is
        none of ours.
      ImportError: the extra `data` is missing.
    """
    found, known = [], set()
    for folder in folders(path):
        _check(folder)
        builder = tfds().builder_from_directory(str(folder))
        known |= set(builder.info.splits)
        for name in builder.info.splits:
            if split in (None, name):
                found.append(builder.as_data_source(split=name))
    if split is not None and split not in known:
        has = ", ".join(sorted(known)) or "none"
        raise ValueError(f"{path} has no split {split!r}; it has {has}")
    return found


def entries(path, split: str | None = None) -> Iterator[Entry]:
    """Yields the episodes of a data set with where they come from; see `sources`.

    Raises:
      ValueError: a record is damaged; and what `sources` raises.
    """
    for source in sources(path, split):
        for i in range(len(source)):
            try:
                entry = from_example(source[i])
            except Exception as error:  # whatever TFDS makes of damaged bytes
                raise ValueError(
                    f"{path} is damaged: record {i} of a split cannot be read "
                    f"({type(error).__name__}); export it again"
                ) from error
            yield entry


def episodes(path, split: str | None = None) -> Iterator[Episode]:
    """Yields the episodes of a data set, equal to those written; see `sources`."""
    return (entry.episode for entry in entries(path, split))


def turns(path, split: str | None = None) -> Iterator[dict[str, Any]]:
    """Yields a flat record for each turn: for tables, pandas and Hugging Face.

    Numbers of an estimator stand under their own names; token ids are left out.
    """
    for entry in entries(path, split):
        yield from turns_of(entry)


def turns_of(entry: Entry) -> Iterator[dict[str, Any]]:
    """Yields a flat record for each turn of one episode."""
    episode, segment = entry.episode, -1
    whole = {
        "run": entry.run,
        "iteration": entry.iteration,
        "episode": entry.index,
        "game": episode.game,
        "task": episode.task,
        "task_type": episode.task_type,
        "won": episode.won,
        "score": episode.score,
    }
    for t, turn in enumerate(episode.turns):
        segment += turn.switch or t == 0
        fields = {k: v for k, v in vars(turn).items() if k not in _WIDE}
        said = {name: x[t] for name, x in (episode.credit or {}).items()}
        tokens = {"tokens": len(turn.response), "prompt_tokens": len(turn.prompt)}
        yield {**whole, "turn": t, "segment": segment, **fields, **tokens, **said}


def _check(folder: pathlib.Path) -> None:
    """Raises ValueError where a folder holds another kind of data set."""
    try:
        record = json.loads((folder / INFO).read_text())
        name, version = record["name"], str(record["version"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{folder / INFO} is damaged ({type(error).__name__}): export it again"
        ) from None
    if name != NAME or version.split(".")[0] != VERSION.split(".")[0]:
        raise ValueError(
            f"{folder} holds {name} {version}, not {NAME} {VERSION}: read it with the "
            "version that wrote it"
        )
