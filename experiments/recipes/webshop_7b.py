"""The published WebShop run with Qwen2.5-7B-Instruct.

Paper     HiPER, arXiv 2602.16165; the settings are those of the authors' scripts for
          the 1.5B model, of which this is the larger sister.
Command   hiper train webshop-7b --hardware v5p-32 --model FOLDER     (extra `webshop`)
          with WebShop's files where $WEBSHOP_DATA points to, and the model's folder
Time      not run here.
Expect    not run here. Published: 83.3 % success, the best of periodic evaluations on
          128 episodes (`protocol="paper"`).
Memory    `hiper plan webshop-7b --hardware v5p-32`; it does not fit a v5e-16.
"""

import dataclasses

from hiper_jax.experiments.recipes import webshop_1_5b

RECIPE = dataclasses.replace(webshop_1_5b.RECIPE, model="Qwen2.5-7B-Instruct")
