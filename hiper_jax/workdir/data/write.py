"""Episodes -> shards of a data set, one piece after another."""

import os
import pathlib
import shutil
from collections.abc import Callable, Iterable

from hiper_jax.workdir.atomic import PARTIAL, guarded
from hiper_jax.workdir.data import layout as layouts
from hiper_jax.workdir.data.example import Entry, features, tfds, to_example
from hiper_jax.workdir.data.layout import FEATURES, NAME, VERSION, Layout, Piece, Source

_TOGETHER = 64  # episodes handed to TFDS at once


def append(
    folder: pathlib.Path,
    layout: Layout,
    entries: Iterable[tuple[str, Entry]],
    sources: Callable[[], tuple[Source, ...]],
    *,
    shard_episodes: int,
) -> Layout:
    """Adds a piece to a data set; nothing of it is there before all of it is.

    Memory stays flat, however many episodes come.

    Args:
      folder: of the data set.
      layout: what is in it.
      entries: (split, episode).
      sources: called after the last episode: the files that they came from.
      shard_episodes: of a shard, at most.

    Returns:
      The layout with the piece.

    Raises:
      ImportError: the extra `data` is missing.
      OSError: the disk is full or may not be written.
    """
    with guarded(folder):
        apart = folder / PARTIAL
        shutil.rmtree(apart, ignore_errors=True)
        apart.mkdir(parents=True)
        try:
            written = _write(apart, layout.credit, entries, shard_episodes)
            have = layout.lengths()
            for split, (lengths, _) in written.items():
                first = len(have.get(split, ()))
                for i in range(len(lengths)):
                    os.replace(
                        layouts.shard(apart, split, i),
                        layouts.shard(folder, split, first + i),
                    )
            if (apart / FEATURES).exists():
                os.replace(apart / FEATURES, folder / FEATURES)
            piece = Piece(sources(), written)
            layout = layout._replace(pieces=(*layout.pieces, piece))
            layouts.write_layout(folder, layout)
        finally:
            shutil.rmtree(apart, ignore_errors=True)
    return layout


def _write(
    folder: pathlib.Path,
    credit: tuple[str, ...],
    entries: Iterable[tuple[str, Entry]],
    shard_episodes: int,
) -> dict[str, tuple[tuple[int, ...], int]]:
    """Writes a data set of its own; returns `Piece.shards`."""
    core = tfds().core
    info = core.DatasetInfo(
        builder=core.DatasetIdentity(
            name=NAME,
            version=core.Version(VERSION),
            data_dir=str(folder),
            module_name="",
        ),
        features=features(credit),
    )
    writer = core.SequentialWriter(
        ds_info=info,
        max_examples_per_shard=shard_episodes,
        file_format="array_record",
    )
    examples: dict[str, list] = {}

    def flush():
        writer.initialize_splits(list(examples), fail_if_exists=False)
        writer.add_examples(examples)
        examples.clear()

    for n, (split, entry) in enumerate(entries, start=1):
        examples.setdefault(split, []).append(to_example(entry, credit))
        if n % _TOGETHER == 0:
            flush()
    flush()
    writer.close_all()
    return {
        name: (tuple(map(int, split.shard_lengths)), int(split.num_bytes))
        for name, split in info.splits.items()
    }
