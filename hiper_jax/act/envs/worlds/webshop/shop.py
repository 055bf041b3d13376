"""A shop: a catalogue with its prices, goals and search."""

import functools
import os
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hiper_jax.act.envs.worlds.webshop import files, goals, search
from hiper_jax.act.envs.worlds.webshop import shelf as store
from hiper_jax.act.envs.worlds.webshop.catalogue import Product
from hiper_jax.act.envs.worlds.webshop.nouns import light_nouns
from hiper_jax.act.envs.worlds.webshop.score import Nouns, score

Search = Callable[[str], Sequence[str]]
SHUFFLE_SEED = 233  # of the original's one list of goals


def load(
    directory: str | os.PathLike,
    human_goals: bool = False,
    search: Search | None = None,
    nouns: Nouns | None = None,
    prices: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    items: str | None = None,
) -> "Shop":
    """Opens the shop whose data files lie in a folder.

    Args:
      directory: holds items_shuffle*.json, items_ins_v2*.json and, for human goals,
        items_human_ins.json: WebShop's own, or those that `make_shop` has written.
      human_goals: the annotated goals instead of the synthetic ones.
      search: the words of a search -> asins, best first; BM25 by default.
      nouns: text -> its nouns; the light finder by default.
      prices: asin -> dollars; drawn from `seed` by default and where an asin is
        missing.
      seed: of the prices between two amounts and of the goals' price bounds.
      items: the product file's name, where the folder holds several.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is broken.
    """
    found = files.find_files(directory, items)
    if human_goals and found.human is None:
        raise FileNotFoundError(
            f"{directory} holds no items_human_ins.json, which human goals are made "
            "from: add the file, or ask for synthetic goals."
        )
    return Shop(
        store.open_store(found),
        human_goals=human_goals,
        search=search,
        nouns=nouns or light_nouns,
        prices=prices or {},
        seed=seed,
    )


@functools.lru_cache(maxsize=4)
def shared(
    directory: str, human_goals: bool = False, seed: int = 0, items: str | None = None
) -> "Shop":
    """`load`, once per process: the environments of a worker share one shop."""
    return load(directory, human_goals, seed=seed, items=items)


class Shop:
    """A catalogue, its prices, goals and search; see `load`.

    A shop does not change, so that any number of environments can share one.
    """

    def __init__(self, catalogue, *, human_goals, search, nouns, prices, seed):
        self.store, self.human_goals, self.seed = catalogue, human_goals, seed
        self.nouns, self._prices = nouns, prices
        self._first = catalogue.human if human_goals else catalogue.synthetic
        self._find = search or self._rank
        # Bounded, so that a walk through a large catalogue does not fill the memory.
        self.product = functools.lru_cache(maxsize=4096)(self._product)
        self._nouns = functools.lru_cache(maxsize=4096)(
            lambda text: tuple(self.nouns(text))
        )
        self._hits = functools.lru_cache(maxsize=4096)(self._search)

    @property
    def num_products(self) -> int:
        return len(self.store.asins)

    @property
    def num_goals(self) -> int:
        return int(self._first[-1])

    @property
    def hash(self) -> str:
        """Of the products and all that goals are made from, in hexadecimal."""
        return self.store.about["hash"]

    def search(self, words: str) -> tuple[str, ...]:
        """The asins of at most 50 products that fit the words, best first."""
        return self._hits(words)

    def price(self, asin: str) -> float:
        """What a product costs, in dollars."""
        price = self._prices.get(asin)
        return (
            goals.draw_price(self.product(asin), self.seed) if price is None else price
        )

    def score(self, goal: goals.Goal, asin: str, options: dict[str, str]):
        """The score of a purchase and its parts; see `score.score`."""
        return score(goal, self.product(asin), options, self.price(asin), self._nouns)

    def goal_ids(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """Names goals by their numbers in the catalogue's order: asin, dash, which."""
        asked = np.asarray(numbers, np.int64)
        if len(asked) and not 0 <= asked.min() <= asked.max() < self.num_goals:
            raise ValueError(f"Goals are numbered 0 to {self.num_goals - 1}.")
        places = np.searchsorted(self._first, asked, side="right") - 1
        which = asked - self._first[places]
        pairs = zip(self.store.asins[places], which, strict=True)
        return tuple(f"{asin.decode()}-{number}" for asin, number in pairs)

    def goal(self, goal_id: str) -> goals.Goal:
        """The goal of that name."""
        asin, _, number = goal_id.rpartition("-")
        place = store.find(self.store, asin) if number.isdecimal() else -1
        first = self._first[place : place + 2] if place >= 0 else (0, 0)
        if place < 0 or int(number) >= first[1] - first[0]:
            kind = "human" if self.human_goals else "synthetic"
            raise ValueError(
                f"The shop has no {kind} goal {goal_id!r}: list its goals again."
            )
        product, which = self.product(asin), int(number)
        price = self.price(asin)
        if self.human_goals:
            return goals.human_goal(product, which, price=price, seed=self.seed)
        return goals.synthetic_goal(
            product,
            which,
            price=price,
            seed=self.seed,
            attribute_goals=self.store.about["attribute_goals"],
        )

    def order(self, seed: int = SHUFFLE_SEED) -> list[int]:
        """The goals' numbers as the original's shuffle with this seed leaves them."""
        numbers = list(range(self.num_goals))
        random.Random(seed).shuffle(numbers)
        return numbers

    def _product(self, asin: str) -> Product:
        place = store.find(self.store, asin)
        if place < 0:
            raise ValueError(f"The shop has no product {asin!r}.")
        return store.product(self.store, place)

    def _search(self, words: str) -> tuple[str, ...]:
        hits = self._find(words)
        known = [asin for asin in hits if store.find(self.store, asin) >= 0]
        return tuple(known[: search.HITS])

    def _rank(self, words: str) -> list[str]:
        places = search.rank(self.store, words)
        return [self.store.asins[place].decode() for place in places]
