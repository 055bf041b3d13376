"""Small Gymnasium environments of text; worker processes import this module."""

import gymnasium
from gymnasium import spaces

TEXT = spaces.Text(200)


class Corridor(gymnasium.Env):
    """Rooms in a row; the lamp is in one that the seed decides. Actions are numbers."""

    observation_space = TEXT
    action_space = spaces.Discrete(3)

    def get_action_meanings(self):
        return ["Go west", "Go east", "Take lamp"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length = (options or {}).get("length", 4)
        self.lamp, self.room = int(self.np_random.integers(1, self.length)), 0
        return "You stand in room 0.", {"task_type": "lamp"}

    def step(self, action):
        self.room += {0: -1, 1: 1, 2: 0}[action]
        self.room = min(max(self.room, 0), self.length - 1)
        won = action == 2 and self.room == self.lamp
        text = "You have the lamp." if won else f"You stand in room {self.room}."
        return text, float(won), won, False, {}


class Shifted(Corridor):
    """Its numbers begin with 5, and it has no names for them."""

    action_space = spaces.Discrete(2, start=5)
    get_action_meanings = None

    def step(self, action):
        return super().step(int(action) - 4)


class Riddle(gymnasium.Env):
    """Wants a word, spelled as it is; draws from the global generator."""

    observation_space = TEXT
    action_space = TEXT

    def reset(self, *, seed=None, options=None):
        import random

        super().reset(seed=seed)
        self.word = random.choice(["Sun", "Moon", "Star"])
        return "Name it.", {"task": "solve the riddle"}

    def step(self, action):
        import random

        said = f"{action}? Not {random.random():.6f}"
        info = {"admissible_actions": ["Sun", "Moon"], "won": action == "Sun"}
        return said, 0.5, action == self.word, action == "stop", info


class Numbers(gymnasium.Env):
    """Shows numbers, not texts."""

    observation_space = spaces.Discrete(3)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 1, {}


class Boxed(Corridor):
    action_space = spaces.Box(0.0, 1.0)
    get_action_meanings = None
