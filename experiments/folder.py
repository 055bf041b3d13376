"""A run's folder: who may begin or go on in it, and by which settings.

config.json holds the settings that a run began with. Whoever goes on must name the
same, but for those that change no result; other ones only with `--accept-changes`,
which writes them down beside the iteration from which they hold.
"""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hiper_jax import _store, workdir
from hiper_jax.act.codec import Codec
from hiper_jax.experiments import games
from hiper_jax.experiments.config import Train
from hiper_jax.experiments.provenance import provenance
from hiper_jax.experiments.settings import filled
from hiper_jax.hosts import Hosts

# What changes no bit of a run: where and how often things are written, and in which
# processes the same episodes are played.
FREE = frozenset(
    {
        "accept_changes",
        "checkpoint_every",
        "checkpoint_minutes",
        "data",
        "keep",
        "mesh.serving",
        "out",
        "precompile",
        "profile_steps",
        "resume",
        "stop_after",
        "project",
        "trackio",
        "wandb",
        "world.cache",
        "world.in_process",
        "world.workers",
    }
)
CLOCK = "reading.clock"
APART = ("provenance", "changes")  # of config.json, beside the settings


class Change(NamedTuple):
    """A setting that is not what the run began with."""

    name: str  # dotted path
    before: Any
    now: Any


def check(run: pathlib.Path, config: Train) -> None:
    """Refuses, before anything expensive, a folder that this run cannot use.

    Raises:
      FileNotFoundError, ValueError: there is nothing to resume, a run to overwrite, or
        the settings are others than the run's.
    """
    begun = workdir.latest_step(run) is not None
    file = run / "config.json"
    if config.resume and not begun and not file.exists():
        raise FileNotFoundError(
            f"{run} holds no run to resume; start it without --resume"
        )
    if not config.resume and begun:
        raise ValueError(
            f"{run} holds a run already; go on with --resume or name another --out"
        )
    if not file.exists():
        return
    found = changes(read(run), config)
    if found and not config.accept_changes:
        raise ValueError(
            f"{run} was begun with other settings ({told(found)}): give the same, name "
            "another --out, or go on with these by --resume --accept-changes"
        )


def check_places(config: Train) -> None:
    """Refuses a path of a store that cannot be reached.

    Raises:
      ValueError, ImportError, OSError: naming the setting, and what to do.
    """
    world = config.world
    data, cache = (str(getattr(world, name, "")) for name in ("data", "cache"))
    if _store.is_remote(cache):
        raise ValueError(
            f"--world.cache {cache}: games are made on a disk; name a folder"
        )
    places = {"out": config.out, "model": config.model, "world.data": data}
    for name, place in places.items():
        if _store.is_remote(place):
            try:
                _store.check(place)
            except (ValueError, ImportError, OSError) as error:
                raise type(error)(f"--{name} {error}") from None


def read(run: pathlib.Path) -> dict[str, Any]:
    """The record of config.json.

    Raises:
      ValueError: it is damaged.
    """
    file = run / "config.json"
    try:
        record = json.loads(file.read_text())
        if not isinstance(record, dict):
            raise ValueError("no mapping")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({error}); put it back, or name another --out"
        ) from None
    return record


def changes(record: Mapping[str, Any], config: Train) -> list[Change]:
    """The settings in which a run would differ from its record, but for free ones.

    What a record does not name, because it is older, was at its default.
    """
    usual = dataclasses.replace(
        Train(),
        estimator=config.estimator,
        learn=type(config.learn)(),
        world=type(config.world)(),
    )
    now, before = dict(flat(_plain(config))), dict(flat(_plain(usual)))
    before |= dict(flat(record))
    return [
        Change(name, before.get(name), value)
        for name, value in now.items()
        if name not in FREE
        and before.get(name) != value
        and not (name == CLOCK and not value)  # the run's own is meant
    ]


def bound(config: Train) -> dict[str, Any]:
    """The settings that decide a run's numbers, by dotted path."""
    settings = flat(_plain(config))
    return {name: value for name, value in settings if name not in FREE}


def settings_of(
    run: pathlib.Path, like: Train, record: Mapping[str, Any] | None = None
) -> Train:
    """The settings of a run, by its record.

    Args:
      run: the run's folder.
      like: settings of the same kind, which hold where the record is silent.
      record: see `read`; None: it is read.

    Raises:
      ValueError: naming the record, where it is damaged.
    """
    file, record = run / "config.json", read(run) if record is None else record
    settings = {name: value for name, value in record.items() if name not in APART}
    try:
        settings["world"] = games.recorded(settings["world"])
    except (LookupError, TypeError, AttributeError, ValueError, ImportError) as error:
        raise ValueError(
            f"{file} names no world that is here ({type(error).__name__}: {error}); "
            "put the file back, or install what its world needs"
        ) from None
    return filled(like, settings, file)


def dated(run: pathlib.Path, config: Train, codec: Codec, hosts: Hosts) -> Train:
    """The settings with the day on which the run began, if its prompts tell a day."""
    reading = config.reading
    if reading.clock or codec.template is None or not codec.template.asks_for_time:
        return config

    def day() -> str:
        record = read(run) if (run / "config.json").exists() else {}
        return dict(flat(record)).get(CLOCK) or today()

    clock = hosts.first("the run's day", day)
    return dataclasses.replace(
        config, reading=dataclasses.replace(reading, clock=clock)
    )


def today() -> str:
    """The day, as ISO 8601 writes it."""
    return datetime.date.today().isoformat()


def told(found: Sequence[Change]) -> str:
    """Settings that differ, in words."""
    return "; ".join(
        f"{name} {_short(before)} there, {_short(now)} here"
        for name, before, now in found
    )


def claim(run: pathlib.Path, config: Train, name: str, packages) -> None:
    """Writes config.json, once nothing in the settings can fail any more.

    A run that was stopped before its first checkpoint leaves its metrics behind: they
    go, for it begins again; what it evaluated before training stays.
    """
    if (run / "config.json").exists():
        print(f"{run} was stopped before its first checkpoint: beginning again")
        workdir.truncate_after(run, 0)
    record = _plain(config)
    record["provenance"] = provenance(name, config.seed, packages)
    workdir.write_json(run / "config.json", record)


def note_changes(run: pathlib.Path, config: Train, step: int) -> None:
    """Writes down what a resumed run changes from iteration `step` on, if anything."""
    old = read(run)
    found = changes(old, config)
    if not found:
        return
    for name, before, now in found:
        print(f"accepted: {name} is {_short(now)} from here on, not {_short(before)}")
    kept = {name: old[name] for name in APART if name in old}
    line = {"after_step": step, "settings": {n: [b, v] for n, b, v in found}}
    kept["changes"] = [*kept.get("changes", []), line]
    workdir.write_json(run / "config.json", _plain(config) | kept)


def _plain(config: Train) -> dict[str, Any]:
    """The settings as JSON holds them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flat(record: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a record, each by its dotted path."""
    for name, value in record.items():
        if not path and name in APART:
            continue
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
