"""Environments x policy -> episodes.

Every turn, the slots that are still playing (and only those) are read, answered by
the model in one batch of bucketed shape, and stepped. Slots that finish take the
next game, if there is one, so that no slot idles.

With two waves half of the slots are read and stepped while the model answers the other
half. Episodes are the same: what is drawn depends on episode and turn alone.
"""

import concurrent.futures
import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from hiper_jax.act.codec import Codec
from hiper_jax.act.envs.answers import Fault
from hiper_jax.act.envs.world import World
from hiper_jax.act.episode import Episode, Strategy
from hiper_jax.act.prompt import Fitted, template_of
from hiper_jax.act.record import Reader, Record, fitted


class Environments(Protocol):
    """What a rollout needs of a pool of environments.

    One whose slots are not all alike may have `choose_slots(free, tasks)`, too, which
    gives a slot of `free` for each task.
    """

    size: int

    def reset(self, slots: Sequence[int], tasks: Sequence[str]) -> list: ...

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list: ...


class Sampled(NamedTuple):
    """What the model answered to a list of prompts."""

    tokens: list[np.ndarray]  # each [R] int32, end of message included
    log_prob: list[np.ndarray]  # each [R] float32
    values: list[np.ndarray] | None = None  # each [R, H] float32, before each token


# What a rollout's seconds were spent on, see `rollout`.
SPENT: tuple[str, ...] = ("environment", "generation", "text", "device")
# (prompts, episode index of each [S], turn of each [S]) -> responses
Sampler = Callable[[list[np.ndarray], np.ndarray, np.ndarray], Sampled]


class Dropped(NamedTuple):
    """An episode that its environment ended with an answer that cannot be used."""

    index: int  # which of the games
    game: str
    task_type: str  # "" where the reset was answered so
    turn: int  # which turn was answered so; 0: the reset
    fault: Fault

    def __str__(self) -> str:
        return f"{self.game}, turn {self.turn}: {self.fault}"


def make_reader(
    world: World,
    codec: Codec,
    *,
    style: str,
    max_prompt: int,
    history_length: int = 2,
    mode: str = "corrected",
    keep_copies: bool = False,
    format: str = "plan",
    strategy_style: str = "",
    show_turn: bool = False,
) -> Reader:
    """The reader of a world's text; see `Reader` for the arguments.

    Raises:
      ValueError: the world's prompts have no such style or format.
    """
    return Reader(
        codec,
        template_of(world, style, format, show_turn),
        max_prompt,
        history_length,
        world.tail,
        world.published,
        mode,
        keep_copies,
        format,
        world.strategies.get(strategy_style or style),
    )


def rollout(
    environments: Environments,
    sample: Sampler,
    games: Sequence[str],
    reader: Reader,
    *,
    max_turns: int,
    on_turn: Callable[[int, int], Any] | None = None,
    on_drop: Callable[[Dropped], Any] | None = None,
    max_dropped: float = 0.5,
    strategies: Sequence[Strategy] | None = None,
    waves: int = 1,
) -> tuple[list[Episode], dict[str, float]]:
    """Plays every game of the list once.

    An episode whose environment gives an answer that cannot be used is dropped.

    Args:
      environments: the pool; at most `environments.size` games are played at once.
      sample: (prompts, episode indices, turns) -> responses. A row's randomness must
        depend on its episode index and turn alone, so that an episode is the same
        whichever others are played beside it.
      games: one name per episode to play; names may repeat.
      reader: how prompts are written and responses read.
      max_turns: a record that reaches it is truncated.
      on_turn: called with (episodes finished, episodes in all) after every turn of a
        wave.
      on_drop: called with every episode that is dropped.
      max_dropped: the share of the episodes that may be.
      strategies: what each of the games is played under; every prompt
        shows it. None: nothing does.
      waves: groups of slots that the model answers in turn. With more than one `sample`
        is called in a thread of its own, for one wave while the others are read.

    Returns:
      Episodes in the order of `games`, without those dropped, and seconds: of the
      rollout those spent on "environment" and "text" and those in which the model was
      waited for, "generation"; and of `sample`, waited for or not, "device".

    Raises:
      ValueError: more than `max_dropped` of the episodes were dropped, or all.
    """
    clock = dict.fromkeys(SPENT, 0.0)
    losses = _Losses(games, on_drop, max_dropped)
    play = _Play(environments, games, reader, strategies, max_turns, losses, clock)
    size = min(environments.size, len(games))
    groups = [_Wave(list(range(size))[i::waves]) for i in range(min(waves, size))]
    with _asker(sample, clock, len(groups)) as ask:
        while len(play.done) + losses.number < len(games):
            for i, wave in enumerate(groups):
                if wave.answer is not None:
                    began = time.perf_counter()
                    sampled, wave.answer = wave.answer(), None
                    clock["generation"] += time.perf_counter() - began
                    play.act(wave, sampled)
                    if on_turn is not None:
                        on_turn(len(play.done) + losses.number, len(games))
                play.start(wave)
                other = groups[i - 1]
                if other.answer is not None and play.fit_one(wave, other):
                    # It is asked for with the other wave, when that has been answered.
                    other.take(wave)
                wave.answer = ask(*play.prompts(wave)) if wave.live else None
    return [play.done[index] for index in sorted(play.done)], clock


class _Wave:
    """Slots that are answered together."""

    def __init__(self, slots: list[int]):
        self.free = slots
        self.live: dict[int, Record] = {}
        self.asked: list[tuple[int, Fitted]] = []  # slots and their prompts
        self.answer: Callable[[], Sampled] | None = None  # waits for what was asked

    def take(self, other: "_Wave") -> None:
        """Takes over all slots of another wave, which waits for no answer."""
        self.live |= other.live
        self.free += other.free
        other.live, other.free = {}, []


@contextlib.contextmanager
def _asker(sample: Sampler, clock: dict[str, float], waves: int) -> Iterator[Callable]:
    """Yields (prompts, indices, turns) -> a function that waits for the answer."""

    def timed(*asked) -> Sampled:
        began = time.perf_counter()
        sampled = sample(*asked)
        clock["device"] += time.perf_counter() - began
        return sampled

    if waves < 2:
        yield lambda *asked: functools.partial(timed, *asked)
        return
    # One thread: what is asked first is answered first. A program with a loop may hold
    # the thread that starts it until the device is through.
    with concurrent.futures.ThreadPoolExecutor(1, "sampler") as thread:
        try:
            yield lambda *asked: thread.submit(timed, *asked).result
        finally:
            thread.shutdown(cancel_futures=True)


class _Play:
    """The games of a rollout: those to come, and those that are over."""

    def __init__(
        self, environments, games, reader, strategies, max_turns, losses, clock
    ):
        self.environments: Environments = environments
        self.games: Sequence[str] = games
        self.reader: Reader = reader
        self.strategies: Sequence[Strategy] | None = strategies
        self.max_turns: int = max_turns
        self.losses: _Losses = losses
        self.clock: dict[str, float] = clock
        self.waiting = list(range(len(games)))[::-1]
        self.done: dict[int, Episode] = {}
        self._choose = getattr(environments, "choose_slots", _first_slots)

    def fit_one(self, *waves: _Wave) -> bool:
        """Whether no game waits, and few are left: a batch of all is no larger."""
        live = sum(len(wave.live) for wave in waves)
        return not self.waiting and live <= self.environments.size // 8

    def start(self, wave: _Wave) -> None:
        """Begins games in free slots, until none is free or no game waits."""
        while wave.free and self.waiting:
            number = min(len(wave.free), len(self.waiting))
            starts = [self.waiting.pop() for _ in range(number)]
            began = time.perf_counter()
            tasks = [self.games[index] for index in starts]
            taken = self._choose(wave.free, tasks)
            shown = self.environments.reset(taken, tasks)
            self.clock["environment"] += time.perf_counter() - began
            wave.free = [slot for slot in wave.free if slot not in taken]
            for slot, index, answer in zip(taken, starts, shown, strict=True):
                if isinstance(answer, Fault):
                    self.losses.drop(Dropped(index, self.games[index], "", 0, answer))
                    wave.free.append(slot)
                else:
                    plan = None if self.strategies is None else self.strategies[index]
                    wave.live[slot] = Record(index, *answer, strategy=plan)

    def prompts(self, wave: _Wave) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """What a wave's live slots ask: see `Sampler`."""
        began = time.perf_counter()
        slots = sorted(wave.live, key=lambda slot: wave.live[slot].index)
        records = [wave.live[slot] for slot in slots]
        prompts = fitted(records, self.reader)
        wave.asked = list(zip(slots, prompts, strict=True))
        ids = [np.asarray(prompt.ids, np.int32) for prompt in prompts]
        indices = np.array([record.index for record in records], np.int32)
        turns = np.array([len(record.turns) for record in records], np.int32)
        self.clock["text"] += time.perf_counter() - began
        return ids, indices, turns

    def act(self, wave: _Wave, sampled: Sampled) -> None:
        """Reads the answers to a wave and plays them."""
        began = time.perf_counter()
        said = sampled.values or [None] * len(wave.asked)
        for (slot, prompt), tokens, log_prob, values in zip(
            wave.asked, sampled.tokens, sampled.log_prob, said, strict=True
        ):
            wave.live[slot].respond(self.reader, prompt, tokens, log_prob, values)
        slots = [slot for slot, _ in wave.asked]
        actions = [wave.live[slot].action for slot in slots]
        stepping = time.perf_counter()
        results = self.environments.step(slots, actions)
        stepped = time.perf_counter()
        for slot, result in zip(slots, results, strict=True):
            record = wave.live[slot]
            game = self.games[record.index]
            if isinstance(result, Fault):
                names = record.names(game)
                turn = len(record.turns)
                self.losses.drop(Dropped(record.index, *names, turn, result))
            elif record.advance(result, self.max_turns):
                self.done[record.index] = record.episode(self.reader, game)
            else:
                continue
            del wave.live[slot]
            wave.free.append(slot)
        self.clock["environment"] += stepped - stepping
        self.clock["text"] += time.perf_counter() - began - (stepped - stepping)


def _first_slots(free: Sequence[int], tasks: Sequence[str]) -> Sequence[int]:
    return free[: len(tasks)]


class _Losses:
    """Counts the episodes that are dropped, and says when they are too many."""

    def __init__(self, games: Sequence[str], on_drop, share: float):
        self._every, self._on_drop, self._share = len(games), on_drop, share
        self.number = 0

    def drop(self, dropped: Dropped) -> None:
        if self._on_drop is not None:
            self._on_drop(dropped)
        self.number += 1
        if self.number > self._share * self._every or self.number == self._every:
            raise ValueError(
                f"in {self.number} of {self._every} episodes the environment gave an "
                f"answer that cannot be used, last in {dropped}; mend the environment"
            )
