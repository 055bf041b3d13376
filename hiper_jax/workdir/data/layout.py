"""What lies in a data set's folder, and how it grows without ever being half.

    pieces.json                            what was written, from which files
    dataset_info.json, features.json       what TFDS reads; follow from it
    hiper_episodes-SPLIT.array_record-00007    a shard

A piece is written apart and moved in; a shard that no piece names is not there. So the
folder is whole at any moment, and what is not in it yet can be added later.
"""

import contextlib
import json
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

from hiper_jax.workdir.atomic import PARTIAL, write_json
from hiper_jax.workdir.data.example import DESCRIPTION

NAME = "hiper_episodes"
VERSION = "1.0.0"  # of the features: the first number changes where readers must
PIECES = "pieces.json"
INFO = "dataset_info.json"
FEATURES = "features.json"
_SHARD = re.compile(rf"{NAME}-(\w+)\.array_record-(\d+)")


class Source(NamedTuple):
    """A file of episodes that went into a piece."""

    run: str
    iteration: int
    digest: str  # of the file; equal episodes, equal file


class Piece(NamedTuple):
    """What was added at once."""

    sources: tuple[Source, ...]
    # Split -> the lengths of the shards that it grew by, and their bytes together.
    shards: dict[str, tuple[tuple[int, ...], int]]


class Layout(NamedTuple):
    """All that a data set is, but for its shards."""

    credit: tuple[str, ...]  # names of credit, see `features`
    splits: str  # how episodes are divided, as whoever writes calls it
    pieces: tuple[Piece, ...] = ()

    @property
    def sources(self) -> list[Source]:
        """The files whose episodes are in it, in order."""
        return [source for piece in self.pieces for source in piece.sources]

    def lengths(self) -> dict[str, list[int]]:
        """The lengths of every split's shards."""
        found: dict[str, list[int]] = {}
        for piece in self.pieces:
            for split, (lengths, _) in piece.shards.items():
                found.setdefault(split, []).extend(lengths)
        return found


def read_layout(folder: pathlib.Path) -> Layout | None:
    """What is in a folder; None where no data set was begun.

    Raises:
      ValueError: it is damaged, of another version, or not one that can grow.
    """
    file = folder / PIECES
    if not file.is_file():
        if (folder / INFO).exists():
            raise ValueError(f"{folder} holds a data set that was not written here")
        return None
    try:
        record = json.loads(file.read_text())
        version = str(record["version"])
        layout = Layout(
            tuple(record["credit"]),
            str(record["splits"]),
            tuple(map(_piece, record["pieces"])),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}): remove {folder}"
        ) from None
    if version != VERSION:
        raise ValueError(
            f"{folder} is of version {version} and this is {VERSION}: name another "
            "folder"
        )
    return layout


def write_layout(folder: pathlib.Path, layout: Layout) -> None:
    """Makes a layout what the folder holds; its shards are there already."""
    pieces = [
        {
            "sources": [source._asdict() for source in piece.sources],
            "shards": {s: [list(n), size] for s, (n, size) in piece.shards.items()},
        }
        for piece in layout.pieces
    ]
    whole = {"version": VERSION, "credit": layout.credit, "splits": layout.splits}
    write_json(folder / PIECES, {**whole, "pieces": pieces})
    write_json(folder / INFO, _info(layout))


def prepare(folder: pathlib.Path, layout: Layout) -> None:
    """Takes away what a killed process left, so that the folder is its layout."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    lengths = layout.lengths()
    for file in folder.glob(f"{NAME}-*"):
        named = _SHARD.fullmatch(file.name)
        if named is None or int(named[2]) >= len(lengths.get(named[1], ())):
            file.unlink()
    if layout.pieces:
        write_json(folder / INFO, _info(layout))


def remove(folder: pathlib.Path) -> None:
    """Takes a data set away, its files alone; the record goes last."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    files = [folder / INFO, *folder.glob(f"{NAME}-*"), folder / FEATURES]
    for file in (*files, folder / "metadata.json", folder / PIECES):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()


def shard(folder: pathlib.Path, split: str, index: int) -> pathlib.Path:
    """The file of a shard, as TFDS names it."""
    return folder / f"{NAME}-{split}.array_record-{index:05d}"


def _piece(record: dict[str, Any]) -> Piece:
    return Piece(
        tuple(
            Source(str(s["run"]), int(s["iteration"]), str(s["digest"]))
            for s in record["sources"]
        ),
        {
            str(split): (tuple(map(int, lengths)), int(size))
            for split, (lengths, size) in record["shards"].items()
        },
    )


def _info(layout: Layout) -> dict[str, Any]:
    """What TFDS expects in dataset_info.json."""
    sizes: dict[str, int] = {}
    for piece in layout.pieces:
        for split, (_, size) in piece.shards.items():
            sizes[split] = sizes.get(split, 0) + size
    return {
        "name": NAME,
        "version": VERSION,
        "description": DESCRIPTION,
        "fileFormat": "array_record",
        "splits": [
            _split(name, lengths, sizes[name])
            for name, lengths in layout.lengths().items()
        ],
    }


def _split(name: str, lengths: Sequence[int], size: int) -> dict[str, Any]:
    return {
        "name": name,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
        "shardLengths": [str(length) for length in lengths],
        "numBytes": str(size),
    }
