"""The published WebShop run: Qwen2.5-1.5B-Instruct in WebShop's own shop.

Paper     HiPER, arXiv 2602.16165, and its scripts.
Command   hiper train webshop-1.5b --model FOLDER      (extra `webshop`)
          with WebShop's files where $WEBSHOP_DATA points to, and the model's folder
Time      not run here.
Expect    not run here. Published: 71.4 % success, the best of periodic evaluations on
          128 episodes, with most validation goals trained on (`protocol="paper"`; the
          run says how many).
"""

from hiper_jax.act.envs.world import settings_for
from hiper_jax.act.envs.worlds.webshop import ShopSettings
from hiper_jax.experiments.config import Reading, Train
from hiper_jax.experiments.recipes.shared import PAPER_SHOP

RECIPE = Train(
    model="Qwen2.5-1.5B-Instruct",
    world=settings_for(
        "webshop",
        generate=False,
        shop=ShopSettings(protocol="paper"),
        max_turns=50,  # the published script's; elsewhere in print it is 15
        reward=10.0,
        workers=16,
    ),
    # The published limit is 2048; a page of results can be longer than that.
    reading=Reading(style="full", max_prompt=4096, max_response=512, mode="paper"),
    learn=PAPER_SHOP,
    num_updates=150,
    episodes=128,
    slots=128,
    temperature=1.0,
    actor_lr=1e-6,
    critic_lr=1e-5,
    eval_temperature=0.4,
    eval_episodes=128,
    eval_every=5,
)
