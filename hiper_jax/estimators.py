"""Every estimator by name: what an experiment picks from. Loads nothing until asked."""

import importlib
from collections.abc import Callable
from typing import Any

# Name -> module of hiper_jax.credit, its settings. `estimator(settings)` stands beside.
ESTIMATORS: dict[str, tuple[str, str]] = {
    "crbc": ("graph_crbc", "Crbc"),
    "drgrpo": ("group", "DrGrpo"),
    "g2po": ("graph", "G2po"),
    "gae_bilevel": ("gae_token", "GaeBilevel"),
    "gae_token": ("gae_token", "GaeToken"),
    "gae_turn": ("gae_turn", "GaeTurn"),
    "gear": ("gear", "Gear"),
    "gigpo": ("gigpo", "Gigpo"),
    "graphgpo": ("graph", "GraphGpo"),
    "grpo": ("group", "Grpo"),
    "hae": ("hiper", "Settings"),
    "hae_group": ("hae_group", "HaeGroup"),
    "hgpo": ("gigpo", "Hgpo"),
    "reinforce_pp": ("group", "ReinforcePP"),
    "reinforce_pp_baseline": ("group", "ReinforcePPBaseline"),
    "rloo": ("group", "Rloo"),
    "strata": ("strata", "StrataSettings"),
    "vetta": ("gae_token", "VettaSettings"),
}


# Those that compare trajectories of one task: they need several of each.
COMPARES_SIBLINGS = frozenset(
    {
        "crbc",
        "drgrpo",
        "g2po",
        "gear",
        "gigpo",
        "graphgpo",
        "grpo",
        "hae_group",
        "hgpo",
        "reinforce_pp_baseline",
        "rloo",
        "strata",
    }
)

# Those that write strategies before they act, which `act.strategy` draws.
WRITES_STRATEGIES = frozenset({"strata"})

# Estimators whose credit stands on subgoals and switches.
_ON_PLANS = ("hae", "hae_group")


def check_plan(name: str, format: str) -> None:
    """Refuses an estimator that needs a plan where responses have none.

    Args:
      name: of the estimator.
      format: of the responses, "plan" or "flat".

    Raises:
      ValueError: the estimator reads subgoals and switches, and the format is flat.
    """
    if format == "flat" and name in _ON_PLANS:
        raise ValueError(
            f"{name} gives credit to subgoals and switches, which the flat format has "
            "not: take --reading.format plan, or an estimator without a plan such as "
            "gae_turn or gigpo"
        )


def find_estimator(name: str) -> tuple[type, Callable[[Any], Any]]:
    """The settings of an estimator and the function that makes it of them.

        Settings, estimator = find_estimator("gigpo")
        estimator(Settings(gamma=0.9))

    Raises:
      ValueError: no estimator has that name.
    """
    if name not in ESTIMATORS:
        known = ", ".join(sorted(ESTIMATORS))
        raise ValueError(f"no estimator is called {name!r}; there are {known}")
    module, settings = ESTIMATORS[name]
    found = importlib.import_module(f"hiper_jax.credit.{module}")
    return getattr(found, settings), found.estimator
