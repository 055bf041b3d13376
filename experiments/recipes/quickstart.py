"""A small agent learns household tasks in text: the whole method in ten minutes.

Paper     HiPER, arXiv 2602.16165; the method, on a small world of our own making.
Command   hiper train quickstart
Model     the warm start that comes with us, 557 thousand weights.
Time      8.3 minutes on two idle CPU cores, made games, both evaluations and the report
          included. No GPU or TPU was timed.
Expect    unseen games 39.5 % [33.0, 46.4] (79/200) before, 78.5 % [72.3, 83.6]
          (157/200) after; seen games 21/60 and 45/60. Temperature 0.4, each game once,
          Wilson 95 % intervals; seed 0, commit 8aa695a. Commit b95c1aa, which differs
          in rounding, won 164/200 with seed 0 and, on Python 3.13 and jax 0.12.0.1,
          145/200 with seed 1.
Results   experiments/results/quickstart.csv, docs/pictures/quickstart-success.png
"""

from hiper_jax.act.envs.world import settings_for
from hiper_jax.experiments.config import Reading, Train
from hiper_jax.experiments.recipes.shared import OURS

RECIPE = Train(
    world=settings_for(
        "alfworld", train=400, seen=60, unseen=200, max_turns=30, reward=1.0
    ),
    reading=Reading(style="terse", max_prompt=256, max_response=28, history_length=2),
    learn=OURS,
    num_updates=30,
    episodes=64,
    slots=64,
    temperature=1.0,
    actor_lr=2e-4,
    critic_lr=5e-4,
    critic_first=1,
    lr_warmup=3,
    lr_end=0.3,
    eval_temperature=0.4,
    eval_episodes=200,
    eval_seen_episodes=60,
)
