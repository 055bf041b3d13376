"""One episode while it is played: what has been seen and done, and what is next."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hiper_jax.act.codec import Codec
from hiper_jax.act.envs.env import accepts
from hiper_jax.act.envs.templates import Template
from hiper_jax.act.envs.wordings import Wording
from hiper_jax.act.envs.world import Published
from hiper_jax.act.episode import Episode, Strategy, Turn
from hiper_jax.act.format import read
from hiper_jax.act.prompt import Fitted, Fitting, fit, fit_all


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


class Record:
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

    def fitting(self, reader: Reader) -> Fitting:
        """The prompt of the turn to come, on its way; see `prompt.fit`."""
        template = reader.template
        if self.strategy is not None and reader.strategies is not None:
            template = reader.strategies.under(template, self.strategy.text)
        return fit(
            reader.max_prompt,
            self.task,
            self.history,
            self.observation,
            self.subgoal,
            self.info["admissible_actions"],
            template=template,
            history_length=reader.history_length,
        )

    def respond(
        self,
        reader: Reader,
        prompt: Fitted,
        tokens: np.ndarray,
        log_prob: np.ndarray,
        values: np.ndarray | None = None,
    ) -> None:
        """Reads what the model answered to a prompt."""
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
                prompt=np.asarray(prompt.ids, np.int32),
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
                prompt_truncated=prompt.shortened,
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

    def episode(self, reader: Reader, game: str) -> Episode:
        # The state after the last action, for bootstrapping what was cut short.
        after = np.zeros(0, np.int32)
        if self.truncated:
            after = np.asarray(fitted([self], reader)[0].ids, np.int32)
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


def fitted(records: Sequence[Record], reader: Reader) -> list[Fitted]:
    """The prompts of the turns to come, encoded together."""
    fittings = [record.fitting(reader) for record in records]
    return fit_all(fittings, reader.codec.encode_prompts)
