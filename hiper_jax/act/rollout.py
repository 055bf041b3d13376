"""Environments x policy -> episodes.

Every turn, the slots that are still playing (and only those) are read, answered by
the model in one batch of bucketed shape, and stepped. Slots that finish take the
next game, if there is one, so that no slot idles.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from hiper_jax.act.codec import Codec
from hiper_jax.act.envs.answers import Fault
from hiper_jax.act.envs.env import accepts
from hiper_jax.act.envs.templates import Template
from hiper_jax.act.envs.wordings import Wording
from hiper_jax.act.envs.world import Published, World
from hiper_jax.act.episode import Episode, Strategy, Turn
from hiper_jax.act.format import read
from hiper_jax.act.prompt import fit_prompt, template_of


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


class Reader(NamedTuple):
    """How text is written for the model and read from it."""

    codec: Codec
    template: Template  # writes the prompt
    max_prompt: int  # tokens
    history_length: int  # observation/action pairs shown
    tail: int  # characters of an unreadable response that are sent as the action
    published: Published  # what mode "paper" leaves behind where a block is missing
    mode: str  # "corrected" or "paper"
    keep_copies: bool = False  # on KEEP the old subgoal stays, whatever was written
    format: str = "plan"  # or "flat": reasoning and an action, no subgoal, no switch
    strategies: Wording | None = None  # how strategies are spoken of, if they can be


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
) -> Reader:
    """The reader of a world's text; see `Reader` for the arguments.

    Raises:
      ValueError: the world's prompts have no such style or format.
    """
    return Reader(
        codec,
        template_of(world, style, format),
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
      on_turn: called with (episodes finished, episodes in all) after every turn.
      on_drop: called with every episode that is dropped.
      max_dropped: the share of the episodes that may be.
      strategies: what each of the games is played under; every prompt
        shows it. None: nothing does.

    Returns:
      Episodes in the order of `games`, without those dropped, and seconds spent:
      "environment", "generation", "text".

    Raises:
      ValueError: more than `max_dropped` of the episodes were dropped, or all.
    """
    clock = {"environment": 0.0, "generation": 0.0, "text": 0.0}
    waiting = list(range(len(games)))[::-1]
    free = list(range(min(environments.size, len(games))))
    choose_slots = getattr(environments, "choose_slots", _first_slots)
    live: dict[int, _Record] = {}
    done: dict[int, Episode] = {}
    losses = _Losses(games, on_drop, max_dropped)
    while len(done) + losses.number < len(games):
        starts = [waiting.pop() for _ in range(min(len(free), len(waiting)))]
        if starts:
            began = time.perf_counter()
            tasks = [games[index] for index in starts]
            taken = choose_slots(free, tasks)
            shown = environments.reset(taken, tasks)
            clock["environment"] += time.perf_counter() - began
            free = [slot for slot in free if slot not in taken]
            for slot, index, answer in zip(taken, starts, shown, strict=True):
                if isinstance(answer, Fault):
                    losses.drop(Dropped(index, games[index], "", 0, answer))
                    free.append(slot)
                else:
                    plan = None if strategies is None else strategies[index]
                    live[slot] = _Record(index, *answer, strategy=plan)
        if not live:
            continue
        slots = sorted(live, key=lambda slot: live[slot].index)
        began = time.perf_counter()
        prompts = [live[slot].prompt(reader) for slot in slots]
        clock["text"] += time.perf_counter() - began

        began = time.perf_counter()
        sampled = sample(
            prompts,
            np.array([live[slot].index for slot in slots], np.int32),
            np.array([len(live[slot].turns) for slot in slots], np.int32),
        )
        clock["generation"] += time.perf_counter() - began

        began = time.perf_counter()
        said = sampled.values or [None] * len(slots)
        for slot, tokens, log_prob, values in zip(
            slots, sampled.tokens, sampled.log_prob, said, strict=True
        ):
            live[slot].respond(reader, tokens, log_prob, values)
        clock["text"] += time.perf_counter() - began

        began = time.perf_counter()
        results = environments.step(slots, [live[slot].action for slot in slots])
        clock["environment"] += time.perf_counter() - began
        for slot, result in zip(slots, results, strict=True):
            record = live[slot]
            if isinstance(result, Fault):
                losses.drop(record.dropped(games[record.index], result))
                del live[slot]
                free.append(slot)
            elif record.advance(result, max_turns):
                done[record.index] = record.episode(reader, games[record.index])
                del live[slot]
                free.append(slot)
        if on_turn is not None:
            on_turn(len(done) + losses.number, len(games))
    return [done[index] for index in sorted(done)], clock


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


class _Record:
    """One episode while it is being played."""

    def __init__(
        self,
        index: int,
        observation: str,
        info: dict,
        strategy: Strategy | None = None,
    ):
        self.index = index
        self.strategy = strategy
        self.info = info
        self.first = info
        self.observation = observation
        self.history: list[tuple[str, str]] = []
        self.turns: list[Turn] = []
        self.subgoal = ""
        self.action = ""
        self.terminated = self.truncated = False

    @property
    def task(self) -> str:
        """What is to be done now."""
        return self.info.get("task", self.first["task"])

    def prompt(self, reader: Reader) -> np.ndarray:
        template = reader.template
        if self.strategy is not None and reader.strategies is not None:
            template = reader.strategies.under(template, self.strategy.text)
        self.fitted = fit_prompt(
            reader.codec.encode_prompt,
            reader.max_prompt,
            self.task,
            self.history,
            self.observation,
            self.subgoal,
            self.info["admissible_actions"],
            template=template,
            history_length=reader.history_length,
        )
        return np.asarray(self.fitted.ids, np.int32)

    def respond(
        self,
        reader: Reader,
        tokens: np.ndarray,
        log_prob: np.ndarray,
        values: np.ndarray | None,
    ):
        text = reader.codec.decode(tokens)
        reply = read(
            text,
            tail=reader.tail,
            published=reader.published,
            mode=reader.mode,
            format=reader.format,
        )
        said_switch = reply.switch == "SWITCH" or (
            reader.mode == "paper" and reply.switch not in ("KEEP", "")
        )
        keeps = reader.keep_copies and not said_switch and self.subgoal
        self.subgoal = self.subgoal if keeps else (reply.subgoal or self.subgoal)
        # A game may show the action again, and a text with a NUL costs an episode.
        self.action = reply.action.replace("\0", "\ufffd")
        self.turns.append(
            Turn(
                prompt=np.asarray(self.fitted.ids, np.int32),
                response=np.asarray(tokens, np.int32),
                log_prob=np.asarray(log_prob, np.float32),
                text=text,
                observation=self.observation,
                admissible=tuple(self.info["admissible_actions"]),
                action=self.action,
                subgoal=self.subgoal,
                switch=said_switch or not self.turns,
                said_switch=said_switch,
                format_valid=reply.valid,
                action_valid=accepts(self.info["admissible_actions"], self.action),
                reward=0.0,
                prompt_truncated=self.fitted.shortened,
                task=self.task if self.task != self.first["task"] else "",
                values=values,
            )
        )

    def advance(self, result, max_turns: int) -> bool:
        """Takes the environment's answer; returns whether the episode is over."""
        observation, reward, terminated, truncated, info = result
        self.turns[-1] = dataclasses.replace(self.turns[-1], reward=float(reward))
        self.history.append((self.observation, self.action))
        before = self.task
        self.observation, self.info = observation, info
        if self.task != before:
            self.subgoal = ""  # it served a task that is done
        self.terminated = bool(terminated)
        self.truncated = not self.terminated and (
            bool(truncated) or len(self.turns) >= max_turns
        )
        return self.terminated or self.truncated

    def names(self, game: str) -> tuple[str, str]:
        """Game and kind of task, as the environment says or as it was asked for."""
        kind = str(self.first.get("task_type", ""))
        return str(self.first.get("game", game)), kind

    def dropped(self, game: str, fault: Fault) -> Dropped:
        return Dropped(self.index, *self.names(game), len(self.turns), fault)

    def episode(self, reader: Reader, game: str) -> Episode:
        # The state after the last action, for bootstrapping what was cut short.
        after = self.prompt(reader) if self.truncated else np.zeros(0, np.int32)
        won = bool(self.info.get("won", False))
        name, kind = self.names(game)
        return Episode(
            game=name,
            task=self.first["task"],
            task_type=kind,
            turns=tuple(self.turns),
            terminated=self.terminated,
            truncated=self.truncated,
            won=won,
            score=float(self.info.get("task_score", won)),
            next_prompt=after,
            strategy=self.strategy,
        )
