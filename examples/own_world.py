"""A whole world: guess a number. From this folder:

hiper train quickstart --world.environment own_world:WORLD --world.max-turns 6
"""

import functools
import random

from hiper_jax.act.envs.world import World, named_tasks


class Guess:
    """Every guess is answered by a hint; the right one wins."""

    def __init__(self, reward):
        self.reward = reward

    def reset(self, task):  # the same task, the same game
        self.game, self.number = task, random.Random(task).randint(1, 9)
        return "I think of a number from 1 to 9.", self.info(won=False)

    def step(self, action):  # observation, reward, terminated, truncated, info
        won = action == f"guess {self.number}"
        hint = "more" if action < f"guess {self.number}" else "less"
        return hint, self.reward * won, won, False, self.info(won)

    def info(self, won):
        actions = [f"guess {number}" for number in range(1, 10)]
        told = {"task": "find the number", "task_type": "guess", "game": self.game}
        return {**told, "admissible_actions": actions, "won": won}

    def close(self):
        pass


def tasks(settings, split):  # ids for `reset`; none is in two splits
    return named_tasks(f"{split} {i}" for i in range(300 if split == "train" else 60))


def make_env(settings):  # sent to worker processes by its name
    return functools.partial(Guess, settings.reward)


WORLD = World("guess", tasks, make_env)
