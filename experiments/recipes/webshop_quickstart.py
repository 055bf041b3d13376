"""A small agent learns to shop: WebShop's pages and reward, a made shop.

Paper     HiPER, arXiv 2602.16165; the method, on a shop of our own making.
Command   hiper train webshop-quickstart     (extra `webshop`)
Model     the shop's warm start that comes with us.
Time      9.7 minutes on two CPU cores with another job beside them. No GPU or TPU was
          timed.
Expect    validation goals 32.8 % [27.3, 38.8] (82/250), mean score 0.769, before;
          78.4 % [72.9, 83.1] (196/250), mean score 0.923, after. Temperature 0.4, each
          goal once, Wilson 95 % intervals; seed 0.
Results   experiments/results/webshop.csv, docs/pictures/webshop-success.png
"""

from hiper_jax.experiments.config import Train
from hiper_jax.experiments.recipes.shared import OURS_SHOP, SHOP_READING, SMALL_SHOP

RECIPE = Train(
    world=SMALL_SHOP,
    reading=SHOP_READING,
    learn=OURS_SHOP,
    num_updates=30,
    # Episodes have six turns here, a quarter of ALFWorld's.
    episodes=128,
    slots=128,
    # Evaluated at 0.4: at 1 what goes wrong there hardly happens.
    temperature=0.8,
    actor_lr=2e-4,
    critic_lr=5e-4,
    critic_first=2,
    lr_warmup=3,
    lr_end=0.1,
    eval_temperature=0.4,
    eval_episodes=250,
)
