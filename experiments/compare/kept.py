"""Finished runs as one small file each, from which a comparison can go on elsewhere.

    SLUG-SEED.json.gz    settings, metrics, seconds, evaluations; no weights, no texts

A repository can hold these where it cannot hold runs. An unpacked one counts as a
finished run: it is compared, but cannot be played or resumed.
"""

import gzip
import json
import pathlib
import zlib
from typing import Any

from hiper_jax import workdir

LARGEST = 64 * 2**20  # bytes of an unpacked file
_LINES = ("metrics.jsonl", "timing.jsonl")


def file_of(kept: str, folder: pathlib.Path) -> pathlib.Path:
    """Where a run's record stands."""
    return pathlib.Path(kept) / f"{folder.name}.json.gz"


def pack(folder: pathlib.Path, file: pathlib.Path) -> None:
    """Writes a finished run's record, if it is not there.

    Args:
      folder: the run's.
      file: the record, of `file_of`.
    """
    if file.exists():
        return
    config = json.loads((folder / "config.json").read_text())
    # Where it stood is of one machine, and nothing to anybody else.
    record: dict[str, Any] = {"config": config | {"out": folder.name}}
    record |= {name: workdir.read_lines(folder / name) for name in _LINES}
    record["eval"] = {
        path.name: json.loads(path.read_text())
        for path in sorted((folder / "eval").glob("*.json"))
    }
    text = json.dumps(record, separators=(",", ":"), sort_keys=True)
    workdir.write_bytes(file, gzip.compress(text.encode(), mtime=0))


def unpack(file: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the files that a comparison reads of a run; config.json comes last.

    Raises:
      ValueError: the record is damaged; nothing was written.
    """
    config, lines, evaluations = _read(file)
    for name, records in lines.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        workdir.write_text(folder / name, text)
    for name, evaluation in evaluations.items():
        workdir.write_json(folder / "eval" / name, evaluation)
    workdir.write_json(folder / "config.json", config)


def _read(file: pathlib.Path):
    try:
        with gzip.open(file) as packed:
            data = packed.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        record = json.loads(data)
        config, evaluations = record["config"], record["eval"]
        lines = {name: record[name] for name in _LINES}
        whole = isinstance(config, dict) and all(
            isinstance(line, dict) for records in lines.values() for line in records
        )
        for name, evaluation in evaluations.items():
            whole = whole and isinstance(evaluation, dict)
            if pathlib.PurePath(name).name != name or not name.endswith(".json"):
                raise ValueError(f"{name!r} is no evaluation's name")
        if not whole:
            raise ValueError("no record of a run")
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        zlib.error,
    ) as error:
        raise ValueError(
            f"{file} is damaged ({error}): delete it, and the run is made again"
        ) from None
    return config, lines, evaluations
