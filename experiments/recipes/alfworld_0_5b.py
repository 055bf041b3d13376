"""The published ALFWorld settings with a model that fits one device.

Paper     HiPER, arXiv 2602.16165; nothing is published of this size.
Command   hiper train alfworld-0.5b --hardware h100x1 --model FOLDER
          with ALFWorld's data where $ALFWORLD_DATA points to, and the model's folder
Time      not run here.
Expect    not run here, and nothing to compare with.
Memory    `hiper plan alfworld-0.5b --hardware h100x1`
"""

import dataclasses

from hiper_jax.experiments.recipes import alfworld_1_5b

RECIPE = dataclasses.replace(alfworld_1_5b.RECIPE, model="Qwen2.5-0.5B-Instruct")
