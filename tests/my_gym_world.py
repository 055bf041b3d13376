"""A Gymnasium environment as somebody's own world."""

import gym_envs

from hiper_jax.act.envs.worlds.gymnasium_text import gymnasium_world

WORLD = gymnasium_world(
    gym_envs.Corridor,
    name="corridor",
    task="Find the lamp and take it.",
    options={"length": 3},
)
