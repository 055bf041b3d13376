"""TextWorld's engine, which ALFWorld runs on: slow, and what `native` is held against.

It compiles a game with a planner in C++ and evaluates the expressions in its grammar as
Python: a game file from somebody else can run anything. Needs the extra `reference`.
"""

import contextlib
import sys

from hiper_jax.act.envs.worlds.alfworld import game
from hiper_jax.act.envs.worlds.alfworld.dialect import with_texts
from hiper_jax.act.envs.worlds.alfworld.native import Seen


class Engine:
    """Plays one game at a time, as `native.Engine` does, but knows no states."""

    def __init__(self):
        if sys.version_info >= (3, 13):
            raise RuntimeError(
                'engine="textworld" needs Python 3.11 or 3.12: TextWorld 1.7 does not '
                "run on later ones."
            )
        try:
            import textworld
            from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
            from textworld.envs import PddlEnv
        except ImportError as error:
            raise ImportError(
                f'engine="textworld" needs the extra `reference` ({error}): '
                'pip install "hiper-jax[reference]".'
            ) from error
        infos = textworld.EnvInfos(won=True, admissible_commands=True)
        self._env = AlfredDemangler(PddlEnv(infos))

    def load(self, path: str) -> None:
        """Takes the game file `path`; `reset` begins it.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is not a game, or damaged.
        """
        content = game.read_file(path)
        if content.get("then"):
            raise ValueError(
                "The game has several goals, which TextWorld cannot play: set "
                'engine="native".'
            )
        content = with_texts(content)
        try:
            with _arguments_kept():
                self._env.load(content)
        except (Exception, SystemExit) as error:  # whatever a parser or planner raises
            where = str(error).partition("\n")[0]
            raise ValueError(
                f"The game cannot be translated ({where}): make or download it again."
            ) from error

    def reset(self) -> Seen:
        """Begins the game anew; the text is the introduction."""
        with _arguments_kept():
            return self._see(self._env.reset())

    def step(self, command: str) -> Seen:
        """Plays a command; one that cannot be given changes nothing."""
        return self._see(self._env.step(command)[0])

    def goals(self) -> tuple:
        """None: it plays games of one goal."""
        return ()

    def state(self, *_):
        """Refuses: the planner's library holds the game and gives it to nobody."""
        raise RuntimeError(
            'engine="textworld" has no states to go on from: use engine="native".'
        )

    restore = state

    @staticmethod
    def _see(state) -> Seen:
        text = state.feedback.removeprefix("-= Welcome to TextWorld, ALFRED! =-\n\n")
        return Seen(text, state["admissible_commands"], bool(state["won"]))


@contextlib.contextmanager
def _arguments_kept():
    """The translator changes `sys.argv`."""
    kept = sys.argv
    try:
        yield
    finally:
        sys.argv = kept
