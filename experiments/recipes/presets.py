"""The settings that have a name: the small worlds' and the published ones."""

import dataclasses

from hiper_jax.act.envs.world import settings_for
from hiper_jax.act.envs.worlds.webshop import ShopSettings
from hiper_jax.experiments.config import SMOLLM2, Learn, Reading, Train

# Rewards are 1, not 10, so a value clip of 0.5 is half of all there is to know.
# An episode that runs out of turns has lost: were it valued as if it went on, going in
# circles would be worth what the critic hopes for, and never be unlearned.
OURS = Learn(
    bootstrap="none",
    # A small model writes `KEEP` and then another subgoal: that is an act, and if
    # nothing is learned from it, it stays.
    switch_on_kept=True,
    keep_penalty=0.0,
    keep_consistency_penalty=0.02,
    # Rare, so that it bends nothing, and dear: at 0.1 the form goes in long runs.
    invalid_action_penalty=0.3,
    # More, and the agent stops to take what it sees: taking is refused most often.
    refused_penalty=0.03,
    lambda_turn=0.95,
    lambda_segment=0.95,
    gamma=0.98,
    kl_coef=0.05,
    minibatch=256,
    chunk=16,
)

# Buying ends an episode, and with it all further penalties. They must cost less than
# what is still to be won, or buying at once is best (see LOG.md).
OURS_SHOP = dataclasses.replace(
    OURS,
    invalid_action_penalty=0.01,
    refused_penalty=0.01,
    keep_consistency_penalty=0.01,
    gamma=0.97,
    # Copying a product's code is easily unlearned.
    kl_coef=0.1,
    minibatch=128,
)

# The published settings for ALFWorld (spec: arXiv 2602.16165 and its scripts).
PAPER = Learn(
    gamma=1.0,
    lambda_turn=1.0,
    lambda_segment=0.95,
    bootstrap="same_state",
    keep_penalty=0.3,
    keep_penalty_mode="normalized",
    keep_consistency_penalty=0.3,
    invalid_action_penalty=0.1,
    kl_coef=0.01,
    entropy_coef=0.001,
    minibatch=256,
    chunk=8,
)

# What differs for WebShop in the published settings.
PAPER_SHOP = dataclasses.replace(PAPER, bootstrap="none", keep_penalty=3.5)

# With the shop's own tokenizer one prompt in a thousand is longer.
SMALL_SHOP = settings_for("webshop", max_turns=15)
SHOP_READING = Reading(max_prompt=288, max_response=48)

PRESETS = {
    "quickstart": Train(
        learn=OURS,
        num_updates=30,
        actor_lr=2e-4,
        critic_lr=5e-4,
        critic_first=1,
        lr_warmup=3,
        lr_end=0.3,
    ),
    # More games than quickstart's: 400 would each come up 13 times.
    "laptop": Train(
        world=settings_for("alfworld", train=3000),
        learn=OURS,
        num_updates=60,
        eval_every=30,
        actor_lr=2e-4,
        critic_lr=5e-4,
        critic_first=1,
        lr_warmup=3,
        lr_end=0.1,
    ),
    # The whole path with a pretrained model, for a CPU: not to learn to win.
    "smollm2": Train(
        model=SMOLLM2,
        world=settings_for(
            "alfworld",
            train=16,
            seen=4,
            unseen=8,
            max_turns=4,
            receptacles=(6, 7),
            objects=(6, 7),
        ),
        reading=Reading(style="full", max_prompt=512, max_response=56),
        learn=dataclasses.replace(OURS, minibatch=12, chunk=2),
        remat="full",
        num_updates=3,
        episodes=4,
        slots=4,
        actor_lr=1e-5,
        critic_lr=1e-4,
        eval_episodes=4,
        eval_seen_episodes=0,
    ),
    "alfworld-1.5b": Train(
        model="Qwen2.5-1.5B-Instruct",
        world=settings_for(
            "alfworld", generate=False, max_turns=50, reward=10.0, workers=16
        ),
        reading=Reading(style="full", max_prompt=2048, max_response=512, mode="paper"),
        learn=PAPER,
        num_updates=150,
        episodes=128,
        slots=128,
        actor_lr=1e-6,
        critic_lr=1e-5,
        eval_episodes=134,
        eval_seen_episodes=140,
        eval_every=5,
    ),
    "webshop-quickstart": Train(
        world=SMALL_SHOP,
        reading=SHOP_READING,
        learn=OURS_SHOP,
        # Episodes have six turns here, a quarter of ALFWorld's.
        episodes=128,
        slots=128,
        num_updates=30,
        # Evaluated at 0.4: at 1 what goes wrong there hardly happens.
        temperature=0.8,
        actor_lr=2e-4,
        critic_lr=5e-4,
        critic_first=2,
        lr_warmup=3,
        lr_end=0.1,
        eval_episodes=250,
    ),
    "webshop-1.5b": Train(
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
        actor_lr=1e-6,
        critic_lr=1e-5,
        eval_episodes=128,
        eval_every=5,
    ),
}


def preset(name: str) -> Train:
    """Finds a preset.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(
            f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}"
        )
    return PRESETS[name]
