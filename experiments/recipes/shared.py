"""Blocks of settings that several recipes share: ours, and the published ones."""

import dataclasses

from hiper_jax.act.envs.world import settings_for
from hiper_jax.experiments.config import Learn, Reading

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

# The published settings for ALFWorld (arXiv 2602.16165 and its scripts).
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
