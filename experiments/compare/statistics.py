"""Numbers over seeds and games: bands, paired intervals, the way to a level."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WINDOW = 3  # iterations of a moving mean
DRAWS = 10_000  # of a bootstrap


class Interval(NamedTuple):
    """A mean with the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def moving_mean(values: Sequence[float], window: int = WINDOW) -> np.ndarray:
    """The mean of each value and the `window` − 1 before it; NaN where fewer are.

        mₖ = (xₖ₋ₘ₊₁ + … + xₖ) / m

    Args:
      values: [K] one per iteration.
      window: m, iterations.

    Returns:
      [K] means.
    """
    x = np.asarray(values, float)
    out = np.full(len(x), np.nan)
    for k in range(window - 1, len(x)):
        out[k] = x[k - window + 1 : k + 1].mean()
    return out


def reached(values: Sequence[float], level: float, window: int = WINDOW) -> int | None:
    """The first iteration, from 1, whose moving mean is at `level` or above.

    Args:
      values: [K] success of each iteration.
      level: in [0, 1].
      window: see `moving_mean`.

    Returns:
      Iterations done by then; None if it never is.
    """
    above = np.flatnonzero(moving_mean(values, window) >= level - 1e-12)
    return int(above[0]) + 1 if len(above) else None


def band(
    curves: Sequence[Sequence[float] | np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased standard deviation over seeds, iteration by iteration.

    Args:
      curves: [S][K] one curve per seed; the shortest says how far it goes.

    Returns:
      [K] means and [K] deviations; of one seed the deviation is 0.
    """
    length = min(len(curve) for curve in curves)
    x = np.array([curve[:length] for curve in curves], float)
    spread = x.std(axis=0, ddof=1) if len(x) > 1 else np.zeros(length)
    return x.mean(axis=0), spread


def interval(outcomes: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean over seeds and games, with a bootstrap over both.

    A draw takes S seeds and, independently, G games, each with replacement, and the
    mean of the outcomes where they cross: what a game does under all seeds stays
    together, and so does what a seed does on all games. The interval is the 2.5 % and
    97.5 % quantile of these means. Of a difference of two estimators, seed by seed and
    game by game, it is the paired interval.

    Args:
      outcomes: [S, G] one number per seed and game.
      draws: how many.
      seed: of the draws.

    Raises:
      ValueError: there is no outcome.

    Source: the pigeonhole bootstrap, A. B. Owen, Annals of Applied Statistics 1 (2007).
    """
    x = np.asarray(outcomes, float)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"an interval needs outcomes [S, G], but got {x.shape}")
    S, G = x.shape
    seeds, games = _counts(S, G, draws, seed)
    means = np.sum((seeds @ x.astype(np.float32)) * games, axis=1) / (S * G)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(x.mean()), float(low), float(high))


@functools.lru_cache(maxsize=4)  # one size is asked for many times over
def _counts(S: int, G: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """[draws, S] and [draws, G] how often each seed and each game was drawn."""
    rng = np.random.default_rng(seed)
    seeds = rng.multinomial(S, np.full(S, 1 / S), draws)
    games = rng.multinomial(G, np.full(G, 1 / G), draws)
    return seeds.astype(np.float32), games.astype(np.float32)
