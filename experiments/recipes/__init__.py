"""Recipes: an experiment is a page, and `hiper train NAME` runs it.

A page says what is reproduced, how long it takes on which machine and what to expect;
its `RECIPE` holds the numbers. Blocks that several pages share are in `shared`.
"""

import importlib
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hiper_jax.experiments.config import Train

# What a recipe is called -> its page, a module of this package.
RECIPES = {
    "quickstart": "quickstart",
    "laptop": "laptop",
    "webshop-quickstart": "webshop_quickstart",
    "smollm2": "smollm2",
    "alfworld-0.5b": "alfworld_0_5b",
    "alfworld-1.5b": "alfworld_1_5b",
    "alfworld-7b": "alfworld_7b",
    "webshop-1.5b": "webshop_1_5b",
    "webshop-7b": "webshop_7b",
}


def recipe(name: str) -> "Train":
    """The settings of a recipe.

    Raises:
      ValueError: there is none of that name.
    """
    return _page(name).RECIPE


def about(name: str) -> str:
    """What a recipe is, in one line: the first of its page.

    Raises:
      ValueError: there is none of that name.
    """
    return (_page(name).__doc__ or "").partition("\n")[0]


def _page(name: str) -> types.ModuleType:
    if name not in RECIPES:
        raise ValueError(
            f"there is no preset {name!r}; choose one of {', '.join(RECIPES)}"
        )
    return importlib.import_module(f"{__name__}.{RECIPES[name]}")
