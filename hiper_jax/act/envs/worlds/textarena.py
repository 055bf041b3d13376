"""A game of TextArena for one player -> a World.

    # guess.py
    from hiper_jax.act.envs.worlds.textarena import textarena_world

    WORLD = textarena_world(
        "GuessTheNumber-v0",
        actions=[f"[{n}]" for n in range(1, 21)],
        task="Guess the number from 1 to 20.",
    )

    hiper train quickstart --world.environment guess:WORLD

A task is a seed. What the game says since the last move is the observation; its rules
are the task, unless one is given. Games that fetch word lists or ask a model over the
network (Wordle, Hangman, WordLadder, WordSearch, GuessWho, TwentyQuestions) play only
where their data are there.
"""

import contextlib
import functools
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hiper_jax.act.envs.env import Info, Reset, Step
from hiper_jax.act.envs.world import World
from hiper_jax.act.envs.worlds.by_seed import (
    SPLITS,
    Chance,
    SeedSettings,
    seed_of,
    seeds,
)

ANY_TEXT = "<your move>"  # an admissible action that stands for any text


def textarena_world(
    game: str,
    *,
    task: str = "",
    actions: Sequence[str] = (ANY_TEXT,),
    won: float = 1.0,
    partial: bool = False,
    options: Mapping[str, Any] | None = None,
) -> World:
    """Wraps a game of TextArena as a world.

    Args:
      game: its id, such as "GuessTheNumber-v0"; its wrappers format the actions, too.
      task: the task in words; "" takes the game's own rules.
      actions: what can be played, in the game's own words; an entry `<your what>`
        stands for any text.
      won: the game's reward from which on it counts as won.
      partial: a game that ends otherwise pays its share of the reward, too.
      options: given to `textarena.make`.

    Returns:
      The world. `info["task_score"]` is the game's reward, from 0 to 1.
    """

    def make_env(settings: SeedSettings) -> Callable[[], "TextArena"]:
        return functools.partial(
            TextArena,
            game,
            task=task,
            actions=tuple(actions),
            won=won,
            partial=partial,
            options=options,
            max_turns=settings.max_turns,
            reward=settings.reward,
        )

    def check(settings: SeedSettings) -> None:
        if importlib.util.find_spec("textarena") is None:
            raise ImportError(
                f"{game} needs textarena: pip install 'hiper-jax[textarena]'"
            )
        make_env(settings)().reset(seeds(settings, "train", game).ids[0])

    return World(
        name=game,
        tasks=lambda settings, split: seeds(settings, split, game),
        make_env=make_env,
        settings=SeedSettings,
        check=check,
        splits=SPLITS,
        packages=("textarena",),
    )


class TextArena:
    """One game at a time behind the protocol of `hiper_jax.act.envs.env`.

    The game's own limit of turns, and a second move in a row that breaks its rules, end
    it: that is termination without a win.
    """

    def __init__(
        self,
        game: str,
        *,
        task: str = "",
        actions: Sequence[str] = (ANY_TEXT,),
        won: float = 1.0,
        partial: bool = False,
        options: Mapping[str, Any] | None = None,
        max_turns: int = 30,
        reward: float = 1.0,
    ):
        """
        Args:
          game, task, actions, won, partial, options: see `textarena_world`.
          max_turns: an episode that has not ended by then is truncated.
          reward: what a won game pays.
        """
        self._game, self._said_task = game, task
        # Actions arrive in lower case.
        self._spelled = {action.lower(): action for action in actions}
        self._won_from, self._partial = won, partial
        self._options = dict(options or {})
        self._max_turns, self._reward = max_turns, reward
        self._env: Any = None

    def reset(self, task: str) -> Reset:
        """Starts the game of the seed that `task` ends in.

        Raises:
          ValueError: the game cannot be made, or is for more players.
        """
        seed = seed_of(task)
        self._chance, self._turn, self._score = Chance(seed), 0, 0.0
        with self._chance.lent(), contextlib.redirect_stdout(io.StringIO()):
            self._env = _make(self._game, seed, self._options)
            rules, seen = self._news()
        self._about = {
            "task": self._said_task or rules,
            "task_type": self._game,
            "game": task,
        }
        return seen or "The game begins.", self._info(False)

    def step(self, action: str) -> Step:
        """Plays one action; after the end nothing can be played any more."""
        if self._env is None:
            raise RuntimeError("The episode is over or not begun: call reset first.")
        self._turn += 1
        with self._chance.lent(), contextlib.redirect_stdout(io.StringIO()):
            done, _ = self._env.step(self._spelled.get(action.lower(), action))
            _, seen = self._news()
        won, reward = False, 0.0
        if done:
            rewards, about = self._env.close()
            earned = float((rewards or {}).get(0, 0.0))
            seen = "\n".join(filter(None, [seen, str(about[0].get("reason") or "")]))
            self._score = min(max(earned, 0.0), 1.0)
            won = earned >= self._won_from
            reward = self._reward * (self._score if self._partial else float(won))
        truncated = not done and self._turn >= self._max_turns
        if done or truncated:
            self._env = None
        return seen, reward, bool(done), truncated, self._info(won)

    def close(self) -> None:
        """Drops the game."""
        self._env = None

    def _news(self) -> tuple[str, str]:
        """(rules, the rest) of what the game has said since it was last asked.

        The observation wrappers are passed by: they repeat the whole game each turn,
        and some go on repeating the game before.
        """
        kinds = _library().ObservationType
        inner = self._env
        while hasattr(inner, "env"):
            inner = inner.env
        _, messages = inner.get_observation()
        rules, rest = [], []
        for _, text, kind in messages:
            if kind is kinds.PROMPT:
                rules.append(text)
            elif kind is not kinds.PLAYER_ACTION:
                rest.append(text)
        return "\n".join(rules).strip(), "\n".join(rest).strip()

    def _info(self, won: bool) -> Info:
        return {
            **self._about,
            "admissible_actions": list(self._spelled),
            "won": won,
            "task_score": self._score,
        }


def _library() -> Any:
    """TextArena, which says nothing of its types."""
    return importlib.import_module("textarena")


def _make(game: str, seed: int, options: Mapping[str, Any]) -> Any:
    """A game that has begun, for one player."""
    try:
        env = _library().make(game, **options)
        env.reset(num_players=1, seed=seed)
    except (Exception, SystemExit) as error:
        lines = [line.strip(" *") for line in str(error).splitlines()]
        reason = next(filter(None, lines), type(error).__name__)
        raise ValueError(
            f"TextArena's {game} cannot be played here alone ({reason}): choose a game "
            "for one player whose data are on this machine"
        ) from error
    return env
