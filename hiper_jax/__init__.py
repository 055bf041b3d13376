"""Hierarchical reinforcement learning for language-model agents, in JAX.

The dimension key, used in every shape of the library:

    B  trajectories          N  rows: the real turns of a batch, laid flat
    T  turns                 L  tokens of a row: prompt and response
    S  slots being sampled   R  response tokens
    C  rows of a chunk       H  value heads
    D  width of the model    V  vocabulary

The names below stand in the order in which data flows through them. Each is imported
when it is first asked for (PEP 562), so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"  # setup.cfg reads it; no other place says it

if TYPE_CHECKING:
    from hiper_jax.act.envs.env import Env as Env
    from hiper_jax.act.envs.pool import Pool as Pool
    from hiper_jax.act.envs.world import World as World
    from hiper_jax.act.episode import Episode as Episode
    from hiper_jax.act.episode import Turn as Turn
    from hiper_jax.act.format import Reply as Reply
    from hiper_jax.act.format import read_response as read_response
    from hiper_jax.act.prompt import build_prompt as build_prompt
    from hiper_jax.act.rollout import Reader as Reader
    from hiper_jax.act.rollout import rollout as rollout
    from hiper_jax.act.spans import TokenMasks as TokenMasks
    from hiper_jax.act.spans import token_masks as token_masks
    from hiper_jax.act.stack import Batch as Batch
    from hiper_jax.act.stack import stack as stack
    from hiper_jax.credit.common.arrays import boundaries as boundaries
    from hiper_jax.credit.common.arrays import segment_starts as segment_starts
    from hiper_jax.credit.common.kl import kl_penalty as kl_penalty
    from hiper_jax.credit.common.masks import credit_masks as credit_masks
    from hiper_jax.credit.common.masks import to_rows as to_rows
    from hiper_jax.credit.common.masks import token_advantage as token_advantage
    from hiper_jax.credit.common.shaping import shape_rewards as shape_rewards
    from hiper_jax.credit.common.shaping import subgoal_changed as subgoal_changed
    from hiper_jax.credit.common.standardize import standardize as standardize
    from hiper_jax.credit.common.standardize import whiten as whiten
    from hiper_jax.credit.estimator import Credit as Credit
    from hiper_jax.credit.estimator import Estimator as Estimator
    from hiper_jax.credit.estimator import read_nothing as read_nothing
    from hiper_jax.credit.gae import gae as gae
    from hiper_jax.credit.gae_token import Vetta as Vetta
    from hiper_jax.credit.gae_token import gae_bilevel as gae_bilevel
    from hiper_jax.credit.gae_token import gae_token as gae_token
    from hiper_jax.credit.gae_token import vetta as vetta
    from hiper_jax.credit.gae_turn import gae_turn as gae_turn
    from hiper_jax.credit.gear import gear as gear
    from hiper_jax.credit.gigpo import gigpo as gigpo
    from hiper_jax.credit.gigpo import hgpo as hgpo
    from hiper_jax.credit.graph import g2po as g2po
    from hiper_jax.credit.graph import graphgpo as graphgpo
    from hiper_jax.credit.graph_crbc import crbc as crbc
    from hiper_jax.credit.group import drgrpo as drgrpo
    from hiper_jax.credit.group import grpo as grpo
    from hiper_jax.credit.group import reinforce_pp as reinforce_pp
    from hiper_jax.credit.group import reinforce_pp_baseline as reinforce_pp_baseline
    from hiper_jax.credit.group import rloo as rloo
    from hiper_jax.credit.hae import HAE as HAE
    from hiper_jax.credit.hae import hae as hae
    from hiper_jax.credit.hae_group import hae_group as hae_group
    from hiper_jax.credit.strata import Strata as Strata
    from hiper_jax.credit.strata import strata as strata
    from hiper_jax.estimators import ESTIMATORS as ESTIMATORS
    from hiper_jax.estimators import find_estimator as find_estimator
    from hiper_jax.loss import gspo_loss as gspo_loss
    from hiper_jax.loss import kl_loss as kl_loss
    from hiper_jax.loss import policy_loss as policy_loss
    from hiper_jax.loss import value_loss as value_loss
    from hiper_jax.networks.agent import Agent as Agent
    from hiper_jax.networks.agent import load_agent as load_agent
    from hiper_jax.networks.agent import save_agent as save_agent
    from hiper_jax.networks.model import Model as Model
    from hiper_jax.networks.passes import make_model as make_model
    from hiper_jax.networks.sampler import make_sampler as make_sampler
    from hiper_jax.update.objective import Settings as Settings
    from hiper_jax.update.state import Optimizers as Optimizers
    from hiper_jax.update.state import TrainState as TrainState
    from hiper_jax.update.step import compile_update as compile_update
    from hiper_jax.update.step import make_update as make_update
    from hiper_jax.workdir import data as data

# Module -> the public names it defines, in flow order.
_NAMES = {
    "act.envs.env": ("Env",),
    "act.envs.pool": ("Pool",),
    "act.envs.world": ("World",),
    "act.episode": ("Episode", "Turn"),
    "act.format": ("Reply", "read_response"),
    "act.prompt": ("build_prompt",),
    "act.rollout": ("Reader", "rollout"),
    "act.spans": ("TokenMasks", "token_masks"),
    "act.stack": ("Batch", "stack"),
    "credit.common.arrays": ("boundaries", "segment_starts"),
    "credit.common.kl": ("kl_penalty",),
    "credit.common.masks": ("credit_masks", "to_rows", "token_advantage"),
    "credit.common.shaping": ("shape_rewards", "subgoal_changed"),
    "credit.common.standardize": ("standardize", "whiten"),
    "credit.estimator": ("Credit", "Estimator", "read_nothing"),
    "credit.gae": ("gae",),
    "credit.gae_token": ("Vetta", "gae_bilevel", "gae_token", "vetta"),
    "credit.gae_turn": ("gae_turn",),
    "credit.gear": ("gear",),
    "credit.gigpo": ("gigpo", "hgpo"),
    "credit.graph": ("g2po", "graphgpo"),
    "credit.graph_crbc": ("crbc",),
    "credit.group": ("drgrpo", "grpo", "reinforce_pp", "reinforce_pp_baseline", "rloo"),
    "credit.hae": ("HAE", "hae"),
    "credit.hae_group": ("hae_group",),
    "credit.strata": ("Strata", "strata"),
    "estimators": ("ESTIMATORS", "find_estimator"),
    "loss": ("gspo_loss", "kl_loss", "policy_loss", "value_loss"),
    "networks.agent": ("Agent", "load_agent", "save_agent"),
    "networks.model": ("Model",),
    "networks.passes": ("make_model",),
    "networks.sampler": ("make_sampler",),
    "update.objective": ("Settings",),
    "update.state": ("Optimizers", "TrainState"),
    "update.step": ("compile_update", "make_update"),
    "workdir": ("data",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
