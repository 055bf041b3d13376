"""A game of TextArena as somebody's own world."""

from hiper_jax.act.envs.worlds.textarena import textarena_world

WORLD = textarena_world(
    "GuessTheNumber-v0",
    actions=[f"[{n}]" for n in range(1, 21)],
    task="Guess the number from 1 to 20.",
)
