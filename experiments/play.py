"""`hiper play`: a person plays a game in the terminal."""

import math
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from hiper_jax.act.envs.env import Env, accepts
from hiper_jax.act.envs.world import WORLDS, load_world, settings_for
from hiper_jax.experiments.visible import visible

HELP = """\
Type the number of an action, or the action itself (its beginning will do).
  enter   lists the actions again
  help    shows this
  quit    ends the game; so do Ctrl-D and Ctrl-C"""


def find(words: Sequence[str]) -> tuple[Env, str]:
    """What `hiper play WORDS` means: an environment and one of its tasks.

    Args:
      words: a file or a folder that some world knows, and what that world takes
        besides; or a world, as `load_world` takes it, and optionally a task's id.

    Raises:
      ValueError, FileNotFoundError: they mean nothing; one line says what would do.
    """
    word, *more = words
    for name in WORLDS:
        found = load_world(name).player(word, more)
        if found is not None:
            return found
    if word not in WORLDS and ":" not in word:
        known = [c for name in WORLDS for c in load_world(name).commands]
        commands = [f"hiper {c}" for c in known if c.endswith("make")]
        raise FileNotFoundError(
            f"there is no game {word}; make some with {' or '.join(commands)}, or name "
            f"a world: {', '.join(WORLDS)} or my_module:WORLD"
        )
    settings = settings_for(word)
    world = load_world(word)
    world.check(settings)
    split = next(iter(world.splits.panels))
    return world.make_env(settings)(), more[0] if more else (
        world.tasks(settings, split).ids[0]
    )


def play(
    env: Env,
    task: str,
    *,
    read: Callable[[str], str] = input,
    write: Callable[[str], Any] = print,
    width: int | None = None,
) -> bool:
    """Plays one game until it ends or the player leaves, then closes `env`.

    Args:
      env: the environment.
      task: which task, as `env.reset` wants it.
      read: asks for a line, given a prompt; EOFError and KeyboardInterrupt leave.
      write: shows a line or several.
      width: columns of the screen; None asks the terminal.

    Returns:
      Whether the game was won.
    """
    width = width or max(40, shutil.get_terminal_size().columns)
    turns, total = 0, 0.0
    try:
        observation, info = env.reset(task)
        write(_wrapped(f"Task: {info['task']}", width))
        write("Type help for help, quit to leave.")
        while True:
            actions = info["admissible_actions"]
            write("")
            write(_wrapped(observation, width))
            write("")
            write(_columns(actions, width))
            action = _ask(actions, read, write, width)
            if action is None:
                write(f"You left after {_turns(turns)}; the game was not won.")
                return False
            observation, reward, terminated, truncated, info = env.step(action)
            turns, total = turns + 1, total + reward
            played = f"-- turn {turns}: {visible(action)}"
            write(f"{played}   reward {reward:g}, in all {total:g}")
            if terminated or truncated:
                write(_wrapped(observation, width))
                if info["won"]:
                    write(f"You won in {_turns(turns)}, with a return of {total:g}.")
                elif truncated:
                    write(f"The limit of {_turns(turns)} is reached; not won.")
                else:
                    write(f"The game ended after {_turns(turns)}; not won.")
                return bool(info["won"])
    except (EOFError, KeyboardInterrupt):
        write("")
        write(f"You left after {_turns(turns)}; the game was not won.")
        return False
    finally:
        env.close()


def _ask(actions: Sequence[str], read, write, width: int) -> str | None:
    """The next action; None if the player wants to leave."""
    while True:
        line = read("> ").strip()
        word = line.lower()
        if word in ("quit", "exit", "q"):
            return None
        if word in ("help", "?"):
            write(HELP)
        elif not line:
            write(_columns(actions, width))
        elif word.isdecimal():
            number = int(word)
            if 1 <= number <= len(actions):
                return actions[number - 1]
            write(f"There is no action {number}; they go from 1 to {len(actions)}.")
        else:
            return _named(line, actions, write)


def _named(line: str, actions: Sequence[str], write) -> str:
    """The one action that is so called or so begins; else the line as typed."""
    word = line.lower()
    exact = [a for a in actions if a.lower() == word]
    found = exact or [a for a in actions if a.lower().startswith(word)]
    if len(found) == 1:
        return found[0]
    if accepts(actions, word):
        return word
    write("(not one of the listed actions; sent as you typed it)")
    return line


def _columns(actions: Sequence[str], width: int) -> str:
    """Numbered actions, down and then right, in as many columns as fit."""
    if not actions:
        return "(no actions are listed; type one)"
    digits = len(str(len(actions)))
    cells = [
        f"{i:{digits}d} {visible(action, one_line=True)}"
        for i, action in enumerate(actions, 1)
    ]
    column = max(map(len, cells)) + 2
    rows = math.ceil(len(cells) / max(1, (width + 2) // column))
    return "\n".join(
        "".join(cell.ljust(column) for cell in cells[row::rows]).rstrip()
        for row in range(rows)
    )


def _wrapped(text: str, width: int) -> str:
    # Before it is wrapped, which takes some of what is unseen for a space.
    lines = visible(text).split("\n")
    return "\n".join(textwrap.fill(line, width) for line in lines)


def _turns(number: int) -> str:
    return "1 turn" if number == 1 else f"{number} turns"
