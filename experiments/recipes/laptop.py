"""The quickstart's world with more games and twice the iterations.

Paper     HiPER, arXiv 2602.16165; the method, on a small world of our own making.
Command   hiper train laptop
Model     the warm start that comes with us, 557 thousand weights.
Time      19.1 minutes on two CPU cores with another job in their idle time, and before
          them some 3 to make the games. No GPU or TPU was timed.
Expect    unseen games 39.5 % (79/200) before, 172/200 at iteration 30 and 85.0 %
          [79.4, 89.3] (170/200) after; seen games 52/60. Commit b78e9f9. Two objects
          (19/33) and lamps (26/34) are what is left; its aim, 90 %, takes another
          estimator: `--estimator gae_turn --actor-lr 4e-4 --num-updates 150` wins
          189/200, and 459/500 of `test_unseen`, in 47.4 minutes. HAE for 150 with a
          rate that falls more slowly: 175/200 at iteration 50, the same 170/200 at
          the end (commit b930caa, 58 minutes with other jobs beside it).
Results   experiments/results/laptop.csv, docs/pictures/laptop-success.png
"""

from hiper_jax.act.envs.world import settings_for
from hiper_jax.experiments.config import Reading, Train
from hiper_jax.experiments.recipes.shared import OURS

RECIPE = Train(
    # More games than quickstart's: 400 would each come up 13 times.
    world=settings_for(
        "alfworld", train=3000, seen=60, unseen=200, max_turns=30, reward=1.0
    ),
    reading=Reading(style="terse", max_prompt=256, max_response=28, history_length=2),
    learn=OURS,
    num_updates=60,
    episodes=64,
    slots=64,
    temperature=1.0,
    actor_lr=2e-4,
    critic_lr=5e-4,
    critic_first=1,
    lr_warmup=3,
    lr_end=0.1,
    eval_temperature=0.4,
    eval_episodes=200,
    eval_seen_episodes=60,
    eval_every=30,
)
