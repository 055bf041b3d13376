"""BM25 over a catalogue: built by bm25s, looked up in its arrays.

A product's text is that of the original's index: title, description, first bullet point
and options. Scores are Lucene's BM25 with k1 = 0.9 and b = 0.4, as the original's
search has them; unlike Lucene's, lengths of texts are exact, not rounded to one byte.
Equal scores keep the catalogue's order.

Only building needs bm25s. A look-up adds the columns of the query's terms, so that
workers import nothing heavy and can map the arrays.
"""

import contextlib
import logging
import sys
from typing import Any

import numpy as np

from hiper_jax.act.envs.worlds.webshop import scanner
from hiper_jax.act.envs.worlds.webshop.catalogue import Product

HITS = 50
K1, B = 0.9, 0.4


def text(product: Product) -> str:
    """What the search knows of a product."""
    options = ", and ".join(
        f"{name}: {', '.join(values)}" for name, values in product.options.items()
    )
    first = product.bullets[0] if product.bullets else ""
    return " ".join([product.title, product.description, first, options]).lower()


class Builder:
    """Takes products in and gives the index."""

    def __init__(self):
        self._ids: dict[str, int] = {}  # term -> number
        self._known: dict[str, int] = {}  # word -> its term's number, -1 for none
        self._texts: list[list[int]] = []

    def add(self, product: Product) -> None:
        numbers = []
        for word in scanner.words(text(product)):
            number = self._known.get(word)
            if number is None:
                term = scanner.term(word)
                number = self._ids.setdefault(term, len(self._ids)) if term else -1
                self._known[word] = number
            if number >= 0:
                numbers.append(number)
        self._texts.append(numbers)

    def finish(self) -> tuple[np.ndarray, ...]:
        """The last five arrays of a Store, terms sorted."""
        names = [term.encode("utf-8", "surrogatepass") for term in self._ids]
        if not names:
            raise ValueError("The catalogue has no word to search for.")
        scores, products, starts = self._score()
        # Sorting the terms takes their columns along.
        order = np.array(sorted(range(len(names)), key=names.__getitem__))
        counts = np.diff(starts)[order]
        new_starts = np.concatenate([[0], np.cumsum(counts)])
        shift = np.repeat(starts[:-1][order] - new_starts[:-1], counts)
        gather = np.arange(new_starts[-1]) + shift
        names = [names[i] for i in order]
        return (
            np.frombuffer(b"".join(names), np.uint8),
            np.cumsum([0] + [len(name) for name in names], dtype=np.int64),
            new_starts.astype(np.int64),
            products[gather].astype(np.int32),
            scores[gather].astype(np.float32),
        )

    def _score(self):
        with _hidden("jax", "jax.lax", "numba"):
            import bm25s
        from bm25s.tokenization import Tokenized

        logging.getLogger("bm25s").setLevel(logging.WARNING)

        index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
        tokens = Tokenized(ids=self._texts, vocab=self._ids)
        index.index(tokens, create_empty_token=False, show_progress=False)
        found = index.scores
        starts = np.asarray(found["indptr"], np.int64)[: len(self._ids) + 1]
        return np.asarray(found["data"]), np.asarray(found["indices"]), starts


@contextlib.contextmanager
def _hidden(*names: str):
    """Hides modules from an import.

    bm25s takes what it finds: it runs a jax operation when it is imported, which would
    start jax and take the accelerator in a worker, or before the processes of a pod
    have found each other; and numba costs a second that nothing here needs.
    """
    kept = {name: sys.modules.get(name) for name in names}
    modules: Any = sys.modules
    modules.update(dict.fromkeys(names))
    try:
        yield
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def rank(store, words: str, hits: int = HITS) -> list[int]:
    """The places of the products that fit the words best, best first."""
    scores = np.zeros(len(store.asins), np.float32)
    for term in scanner.terms(words):
        column = _column(store, term.encode("utf-8", "surrogatepass"))
        if column is not None:
            scores[store.posting_products[column]] += store.posting_scores[column]
    found = np.flatnonzero(scores)
    if len(found) > hits:
        values = scores[found]
        least = np.partition(values, len(values) - hits)[-hits]
        above = found[values > least]
        level = found[values == least][: hits - len(above)]
        found = np.concatenate([above, level])
    order = np.lexsort((found, -scores[found]))
    return found[order].tolist()


def _column(store, term: bytes) -> slice | None:
    """Where a term's postings are, by bisection of the sorted terms."""
    starts = store.term_starts
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        found = store.terms[starts[middle] : starts[middle + 1]].tobytes()
        if found == term:
            postings = store.posting_starts
            return slice(int(postings[middle]), int(postings[middle + 1]))
        if found < term:
            low = middle + 1
        else:
            high = middle
    return None
