"""The few shapes that a run is compiled for, from its settings."""

from typing import NamedTuple

import jax

# Sixteen rows stay in a CPU's cache; more rows are sampled group by group. A third size
# would be as many programs again as there are lengths of prompts.
SLOTS_ON_CPU = (8, 16)


class Shapes(NamedTuple):
    """Buckets, ascending."""

    rows: tuple[int, ...]  # N of a batch: one value, so one update program
    lengths: tuple[int, ...]  # L of a batch is the last; chunks are cut to the others
    slots: tuple[int, ...]  # S of generation
    prompts: tuple[int, ...]  # P of generation


# Shares of the longest prompt: most are far shorter, a few are as long as it gets.
PROMPTS = (0.44, 0.6, 1.0)
SHORT_PROMPTS = (0.375, 0.5, 0.625, 1.0)  # where rows are no longer than `LONG`
# Of the longest row, for training. Each share is another body to compile, three times
# over: these are the five that feed least at the lengths of the quickstart's runs, 1.11
# tokens for each real one in chunks of 8 and 1.14 in chunks of 16.
ROWS = (0.365, 0.42, 0.475, 0.59, 1.0)
# Where rows are long, padding costs more than programs take to compile: the nine that
# feed least at the lengths of the published runs and chunks of 8. That is 1.10 tokens
# for each real one, or 1.12 where a TPU rounds them up; eight more would feed 1.07.
FINE = (0.2375, 0.2625, 0.2935, 0.331, 0.381, 0.4435, 0.5375, 0.675, 1.0)
LONG = 1024  # tokens


def shapes_of(
    *,
    max_prompt: int,
    max_response: int,
    episodes: int,
    max_turns: int,
    slots: int = 64,
    strategies: int = 0,
    platform: str | None = None,
) -> Shapes:
    """Derives the buckets: real turns and one more row per episode always fit.

    Args:
      max_prompt: tokens of a prompt at most.
      max_response: tokens of a response at most.
      episodes: of one batch.
      max_turns: of one episode at most.
      slots: environments played at once.
      strategies: rows that write strategies, of one batch at most.
      platform: what the programs are for, such as "tpu"; None: the default one here.
    """
    platform = platform or jax.default_backend()
    longest = max_prompt + max_response
    return Shapes(
        rows=(_up(episodes * (max_turns + 1) + strategies, 64),),
        lengths=_shares(longest, FINE if longest > LONG else ROWS, platform),
        slots=SLOTS_ON_CPU
        if platform == "cpu"
        # Quarters: with three prompt lengths, nine programs.
        else tuple(sorted({-(-slots // 4), -(-slots // 2), slots})),
        prompts=_shares(
            max_prompt, PROMPTS if longest > LONG else SHORT_PROMPTS, platform
        ),
    )


def _up(size: float, step: int) -> int:
    return int(-(-size // step) * step)


def _shares(size: int, shares: tuple[float, ...], platform: str) -> tuple[int, ...]:
    # The TPU's attention kernel reads rows of a multiple of 128 tokens.
    long = 128 if platform == "tpu" else 16
    step = long if size >= LONG else 8 if platform == "cpu" else 16
    return tuple(sorted({_up(size * share, step) for share in shares}))
