"""Which goals are for training and which for validation.

canonical   One shuffle for all (seed 233, as in the original's own environment); the
            first 500 goals, or a fifth of a small shop's, are for validation, the rest
            for training. No goal is in both.
paper       As in the published training code: every worker shuffles the goals with a
            seed of its own; positions from 500 on are for training, 0 to 499 for
            validation. Since the lists differ, nearly every validation goal is a
            training goal of some worker (`leak` says how many). For comparison only.
"""

import hashlib
from typing import NamedTuple

from hiper_jax.act.envs.worlds.webshop.shop import SHUFFLE_SEED, Shop

SPLITS = ("train", "valid")
VALIDATION = 500
_VALIDATION_SEED = 1000  # the published validation workers' seeds begin here


class Manifest(NamedTuple):
    """The goals of a split, in a fixed order."""

    split: str
    games: tuple[str, ...]  # goal ids
    hash: str  # of the products and the goals; equal shops, equal hash


def list_goals(
    shop: Shop,
    split: str,
    *,
    protocol: str = "canonical",
    worker: int = 0,
    seed: int = 0,
) -> Manifest:
    """Lists the goals of a split.

    Args:
      shop: whose goals.
      split: "train" or "valid".
      protocol: "canonical" or "paper"; see the module's text.
      worker: which worker's list, with "paper"; the published code has one list for
        each group of environments that play the same goal.
      seed: of the run, with "paper".

    Returns:
      The manifest.

    Raises:
      ValueError: an argument is unknown, or the shop has too few goals.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: give one of {', '.join(SPLITS)}.")
    if protocol == "canonical":
        numbers = shop.order(SHUFFLE_SEED)
        border = min(VALIDATION, len(numbers) // 5)
    elif protocol == "paper":
        numbers = shop.order(_paper_seed(split, worker, seed))
        border = VALIDATION
    else:
        raise ValueError(f"Unknown protocol {protocol!r}: give canonical or paper.")
    numbers = numbers[border:] if split == "train" else numbers[:border]
    if not numbers:
        raise ValueError(
            f"The shop has {shop.num_goals} goals, too few for {protocol} {split}: "
            "take a larger shop."
        )
    games = shop.goal_ids(numbers)
    digest = hashlib.sha256(f"{shop.hash} {shop.human_goals} {shop.seed}".encode())
    digest.update("\n".join(games).encode())
    return Manifest(split, games, digest.hexdigest())


def leak(shop: Shop, *, workers: int, seed: int = 0) -> float:
    """The share of a validation list that some training worker of "paper" sees."""
    validation = set(shop.order(_paper_seed("valid", 0, seed))[:VALIDATION])
    unseen = set(validation)
    for worker in range(workers):
        unseen -= set(shop.order(_paper_seed("train", worker, seed))[VALIDATION:])
    return 1.0 - len(unseen) / len(validation)


def _paper_seed(split, worker, seed) -> int:
    return seed + worker + (_VALIDATION_SEED if split == "valid" else 0)
