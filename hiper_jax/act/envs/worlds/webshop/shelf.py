"""A catalogue as flat arrays: built once from the data files, then shared.

All that grows with the catalogue lies in numpy arrays. A small catalogue is built in
memory; a large one is written to a folder once per host and mapped from there by every
process, so that its pages are in memory once, whatever the number of workers.
"""

import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from hiper_jax._disk import cache_folder, guarded, made
from hiper_jax.act.envs.worlds.webshop import files, goals, search
from hiper_jax.act.envs.worlds.webshop.catalogue import Product, make_product

FORMAT = 1
SMALL = 64 << 20  # bytes of data files up to which a catalogue is built in memory


class Store(NamedTuple):
    """A catalogue of P products and V search terms."""

    about: dict[str, Any]  # what is small: format, source, counts
    records: np.ndarray  # uint8 [bytes]; the products as JSON, one behind the other
    starts: np.ndarray  # int64 [P + 1]; where each record begins
    asins: np.ndarray  # bytes [P]; in the catalogue's order
    order: np.ndarray  # int32 [P]; sorts the asins
    synthetic: np.ndarray  # int64 [P + 1]; synthetic goals before each product
    human: np.ndarray  # int64 [P + 1]; human goals before each product
    terms: np.ndarray  # uint8 [bytes]; the search terms, sorted
    term_starts: np.ndarray  # int64 [V + 1]
    posting_starts: np.ndarray  # int64 [V + 1]
    posting_products: np.ndarray  # int32 [N]
    posting_scores: np.ndarray  # float32 [N]


def open_store(sources: files.Files) -> Store:
    """The catalogue of these files; built if need be.

    A large one is kept in the folder `.hiper` beside the files or, where that cannot be
    written, under `$HIPER_CACHE` (`~/.cache/hiper_jax`).
    """
    paths = [path for path in sources if path is not None]
    source = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    if sum(size for _, size, _ in source) <= SMALL:
        return build(sources)
    key = hashlib.sha256(repr((FORMAT, source)).encode()).hexdigest()[:16]
    folder = _cache(sources.items.parent) / f"{sources.items.stem}-{key}"
    return read(made(folder, lambda place: save(build(sources), place)))


def build(sources: files.Files) -> Store:
    """Reads the data files into arrays."""
    instructions = _by_asin(sources.instructions)
    human = _by_asin(sources.human) if sources.human else {}
    index = search.Builder()
    records, starts, asins = bytearray(), [0], {}
    synthetic, annotated = [0], [0]
    attribute_goals: dict[str, int] = {}
    digest = hashlib.sha256()
    for number, item in enumerate(files.read_array(sources.items)):
        try:
            asin = item["asin"]
            if not isinstance(asin, str) or asin == "nan" or len(asin) > 10:
                continue
            if asin in asins:
                continue
            product = make_product(
                item,
                json.loads(instructions.get(asin, "{}")),
                json.loads(human.get(asin, "[]")),
            )
            index.add(product)
            asin.encode()  # half a character (a surrogate) is found here, not below
            synthetic.append(synthetic[-1] + goals.count_synthetic(product))
            annotated.append(annotated[-1] + goals.count_human(product))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"{sources.items}: entry {number} is broken ({reason}); download or "
                "make the file again."
            ) from error
        asins[asin] = len(asins)
        for attribute in product.instruction_attributes:
            attribute_goals[attribute] = (
                attribute_goals.get(attribute, 0) + synthetic[-1] - synthetic[-2]
            )
        record = json.dumps(product, separators=(",", ":")).encode()
        digest.update(record)
        records += record
        starts.append(len(records))
    if not asins:
        raise ValueError(f"{sources.items} holds no product: make a shop again.")
    names = np.array([asin.encode() for asin in asins])
    about = {
        "format": FORMAT,
        "name": sources.items.name,
        "products": len(asins),
        "hash": digest.hexdigest(),
        "attribute_goals": attribute_goals,
    }
    return Store(
        about,
        np.frombuffer(records, np.uint8),
        np.array(starts, np.int64),
        names,
        np.argsort(names, kind="stable").astype(np.int32),
        np.array(synthetic, np.int64),
        np.array(annotated, np.int64),
        *index.finish(),
    )


def save(store: Store, folder: pathlib.Path) -> None:
    """Writes a store to a new folder."""
    folder.mkdir()
    for name, array in zip(Store._fields[1:], store[1:], strict=True):
        np.save(folder / f"{name}.npy", array)
    (folder / "about.json").write_text(json.dumps(store.about))


def read(folder: pathlib.Path) -> Store:
    """Maps a store that `save` has written."""
    try:
        about = json.loads((folder / "about.json").read_text())
        arrays = [
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in Store._fields[1:]
        ]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} is damaged ({error}): delete it; it is made again."
        ) from error
    return Store(about, *arrays)


def product(store: Store, place: int) -> Product:
    """The product at a place of the catalogue."""
    record = store.records[store.starts[place] : store.starts[place + 1]]
    return Product(*json.loads(record.tobytes()))


def find(store: Store, asin: str) -> int:
    """The place of a product; -1 if there is none of that asin."""
    name = asin.encode("utf-8", "replace")
    rank = int(np.searchsorted(store.asins, np.bytes_(name), sorter=store.order))
    if rank < len(store.order) and store.asins[place := store.order[rank]] == name:
        return int(place)
    return -1


def _by_asin(path) -> dict[str, str]:
    """Asin -> what the file says of it, still as JSON: a third of the memory."""
    return {asin: json.dumps(value) for asin, value in files.read_object(path)}


def _cache(beside: pathlib.Path) -> pathlib.Path:
    folder = beside / ".hiper"
    try:
        folder.mkdir(exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    folder = cache_folder() / "webshop"
    with guarded(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
