"""The episodes of runs -> a data set that others can load."""

import functools
import hashlib
import pathlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from hiper_jax.workdir.copies import here
from hiper_jax.workdir.data import layout as layouts
from hiper_jax.workdir.data.example import Entry, tfds
from hiper_jax.workdir.data.layout import Layout, Source
from hiper_jax.workdir.data.write import append
from hiper_jax.workdir.episodes import episode_files, read_episodes

Splits = Literal["train", "iteration", "train-eval"]
TRAIN, EVAL = "train", "eval"
_BLOCK = 1 << 20


class Plan(NamedTuple):
    """How episodes are divided."""

    splits: Splits = "train"  # one split; one an iteration; or whole games held out
    eval_share: float = 0.1  # of the games, with "train-eval"
    shard_episodes: int = 1024  # of a shard, at most
    part: tuple[int, int] = (0, 1)  # which of how many processes takes its share

    def split(self, entry: Entry) -> str:
        """The split of an episode; equal games are in one, whatever run they are of."""
        if self.splits == "iteration":
            return f"iteration_{entry.iteration:06d}"
        if self.splits == "train-eval":
            digest = hashlib.sha256(entry.episode.game.encode(errors="replace"))
            drawn = int.from_bytes(digest.digest()[:6]) / 2**48
            return EVAL if drawn < self.eval_share else TRAIN
        return TRAIN

    def told(self) -> str:
        """What must stay as it is while a data set grows."""
        more = f" {self.eval_share}" if self.splits == "train-eval" else ""
        return f"{self.splits}{more}, part {self.part[0]} of {self.part[1]}"


ALL = Plan()


class _File(NamedTuple):
    """One iteration's episodes on disk."""

    run: str
    iteration: int
    path: pathlib.Path


def publish(
    out,
    runs: Sequence[Any],
    plan: Plan = ALL,
    *,
    restart: bool = False,
    say: Callable[[str], Any] = lambda line: None,
) -> int:
    """Makes a data set of all that some runs have played, or brings it up to date.

    What an earlier call wrote stays and is not written again; if one was killed, the
    next goes on after its last whole piece. Memory stays flat.

    Args:
      out: folder of the data set.
      runs: folders of runs, or their paths in a store.
      plan: how episodes are divided.
      restart: begin again where `out` holds something else, rather than refuse it.
      say: is told of each piece.

    Returns:
      The number of episodes in the data set.

    Raises:
      FileNotFoundError, ValueError: a run has no episodes, or `out` is something else.
      ImportError: the extra `data` is missing.
    """
    tfds()
    out = pathlib.Path(out)
    files = _files(runs)
    layout = _begun(out, files, plan, restart)
    layouts.prepare(out, layout)
    todo = files[len(layout.sources) :]
    while todo:
        layout, count = _add(out, layout, todo, plan)
        todo = todo[count:]
        number = sum(sum(lengths) for lengths in layout.lengths().values())
        done = len(files) - len(todo)
        say(f"{done}/{len(files)} iterations, {number} episodes")
    return sum(sum(lengths) for lengths in layout.lengths().values())


def _files(runs: Sequence[Any]) -> list[_File]:
    paths = [here(run, lambda name: name.startswith("episodes/")) for run in runs]
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"a run is named twice: {', '.join(names)}")
    found = []
    for name, path in zip(names, paths, strict=True):
        files = episode_files(path)
        if not files:
            raise FileNotFoundError(f"{path} is no run with episodes to export")
        found += [_File(name, step, file) for step, file in files.items()]
    return found


def _begun(
    out: pathlib.Path, files: Sequence[_File], plan: Plan, restart: bool
) -> Layout:
    """What `out` holds of these files already; an empty layout to begin with."""
    layout = layouts.read_layout(out)
    if layout is not None:
        done, old = layout.sources, [_source(file) for file in files]
        new = files[len(done) :]
        if layout.splits != plan.told() or done != old[: len(done)]:
            if not restart:
                raise ValueError(
                    f"{out} holds a data set of other episodes or splits: name another "
                    "--out, or remove it"
                )
        elif _credit(new) <= set(layout.credit):
            return layout
        layouts.remove(out)  # what one can make again need not grow in its old form
    out.mkdir(parents=True, exist_ok=True)
    return Layout(tuple(sorted(_credit(files))), plan.told())


def _credit(files: Sequence[_File]) -> set[str]:
    """Names of credit, from the first episode of each file."""
    found: set[str] = set()
    for file in files:
        first = next(read_episodes(file.path), None)
        found |= set((first and first.credit) or {})
    return found


def _add(
    out: pathlib.Path, layout: Layout, todo: Sequence[_File], plan: Plan
) -> tuple[Layout, int]:
    """Adds a piece: files of one run until a shard is full; says how many."""
    taken: list[_File] = []
    index, count = plan.part

    def entries() -> Iterator[tuple[str, Entry]]:
        number = 0
        for file in todo:
            if number >= plan.shard_episodes or file.run != todo[0].run:
                return
            taken.append(file)
            for i, episode in enumerate(read_episodes(file.path)):
                number += 1
                if i % count == index:
                    entry = Entry(episode, file.run, file.iteration, i)
                    yield plan.split(entry), entry

    def sources() -> tuple[Source, ...]:
        return tuple(map(_source, taken))

    layout = append(out, layout, entries(), sources, shard_episodes=plan.shard_episodes)
    return layout, len(taken)


def _source(file: _File) -> Source:
    now = file.path.stat()
    digest = _digest(file.path.resolve(), now.st_size, now.st_mtime_ns, now.st_ino)
    return Source(file.run, file.iteration, f"{now.st_size}-{digest:08x}")


@functools.lru_cache(maxsize=1 << 16)
def _digest(path: pathlib.Path, *state: int) -> int:
    """Of a file's bytes; a run asks after every iteration for those of all before."""
    del state  # size, time and inode: another file is read again
    digest = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest = zlib.crc32(block, digest)
    return digest
