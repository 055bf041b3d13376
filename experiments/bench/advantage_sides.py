"""What `advantages` times: random siblings, and every estimator on them.

Each side is a function of one dict of arrays, so that all are given the same.
"""

import functools
import importlib
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import hiper_jax as hj
from hiper_jax.experiments.bench import plain_groups, plain_turns

# The loops, by the names of `ours`.
PLAIN: dict[str, Callable] = plain_groups.LOOPS | plain_turns.LOOPS
LINE = ("reward", "terminated", "valid")
FLAT = (*LINE, "value")
CRITICS = (*LINE, "switch", "value", "high", "value")
SIBLINGS, NODES, TOKENS = 8, 30, 16
TURNS = ("reward", "valid", "group")
# Name -> what the function takes, in order.
GROUPS = {
    "grpo": TURNS,
    "drgrpo": TURNS,
    "rloo": TURNS,
    "reinforce_pp": ("reward", "valid", "tokens"),
    "reinforce_pp_baseline": (*TURNS, "tokens"),
    "gigpo": (*TURNS, "anchor"),
    "hgpo": (*TURNS, "anchor"),
    "g2po": (*TURNS, "anchor", "success"),
    "graphgpo": (*TURNS, "anchor", "success"),
    "crbc": (*TURNS, "anchor", "action", "success"),
}


def siblings(B: int, T: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Ragged trajectories, eight to a task, that share thirty observations each."""
    rng = np.random.default_rng(seed)
    length = rng.integers(T // 3, T + 1, B)
    valid = np.arange(T) < length[:, None]
    group = (np.arange(B) // SIBLINGS).astype(np.int32)
    success = rng.random(B) < 0.5
    place = rng.integers(NODES, size=(B, T))
    last = np.arange(T) == length[:, None] - 1
    action = place * 4 + rng.integers(4, size=(B, T))
    count = rng.integers(4, TOKENS + 1, (B, T))

    def dense(x: np.ndarray) -> np.ndarray:
        within_task = (group[:, None] * 10_000 + x)[valid]
        ids = np.full((B, T), -1, np.int32)
        ids[valid] = np.unique(within_task, return_inverse=True)[1]
        return ids

    said = np.arange(TOKENS) < count[..., None]
    return {
        "reward": np.where(last & success[:, None], 10.0, 0.0).astype(np.float32),
        "penalty": np.where(rng.random((B, T)) < 0.1, 0.1, 0.0).astype(np.float32),
        "terminated": last & success[:, None],
        "valid": valid,
        "switch": rng.random((B, T)) < 0.25,
        "group": group,
        "anchor": dense(place),
        "action": dense(action),
        "subgoal": rng.integers(4, size=(B, T)).astype(np.int32),
        "success": success,
        "tokens": np.where(valid, count, 0).astype(np.int32),
        "mask": said & valid[..., None],
        "value": rng.normal(size=(B, T)).astype(np.float32),
        "high": rng.normal(size=(B, T)).astype(np.float32),
        "token_value": rng.normal(size=(B, T, TOKENS)).astype(np.float32),
        "strategy": (np.arange(B) // 2).astype(np.int32),
        "flagged": rng.random((B, T)) < 0.1,
        "entropy": rng.exponential(size=(B, T, TOKENS)).astype(np.float32),
    }


def ours() -> dict[str, Callable]:
    """Name -> the estimator of a dict of arrays, not yet compiled."""
    made = {name: functools.partial(_group, name) for name in GROUPS}
    crossing = functools.partial(hj.hae, lambda_boundary=0.95)
    return made | {
        "gae": lambda x: _each(functools.partial(hj.gae, lambda_=0.95), x, FLAT)[0],
        "gae_turn": lambda x: hj.gae_turn(*_given(x, FLAT))[0],
        "gae_token": lambda x: jax.vmap(hj.gae_token)(
            _score(x), x["mask"], x["token_value"]
        )[0],
        "gae_bilevel": lambda x: _each(
            hj.gae_bilevel, x, (*LINE, "mask", "token_value")
        )[0],
        "vetta": lambda x: _each(hj.vetta, x, (*LINE, "mask", "value", "token_value")),
        "hae": lambda x: _each(hj.hae, x, CRITICS),
        "hae, boundary .95": lambda x: _each(crossing, x, CRITICS),
        "hae_group": lambda x: hj.hae_group(
            *_given(x, (*LINE, "switch", "group", "anchor", "subgoal"))
        ),
        "strata": lambda x: hj.strata(
            *_given(x, (*TURNS, "strategy", "flagged")), penalty=x["penalty"]
        ),
        "gear": lambda x: hj.gear(
            hj.grpo(*_given(x, TURNS), penalty=x["penalty"]),
            x["token_value"],
            x["token_value"] + x["entropy"],
            x["entropy"],
            x["mask"],
        ),
    }


def peers() -> dict[str, Callable]:
    """What other libraries have of it; {} where none is installed."""
    try:
        with warnings.catch_warnings():  # what it stands on is behind this jax
            warnings.simplefilter("ignore", DeprecationWarning)
            rlax = importlib.import_module("rlax")
    except (ImportError, AttributeError):  # not there, or not for this jax
        return {}

    def one(reward, terminated, valid, value):
        discount = jnp.where(valid & ~terminated, 1.0, 0.0)
        values = jnp.append(jnp.where(valid, value, 0.0), 0.0)
        return rlax.truncated_generalized_advantage_estimation(
            reward, discount, 0.95, values
        )

    return {"gae, rlax": lambda x: _each(one, x, FLAT)}


def _given(x: dict, names: tuple[str, ...]) -> tuple:
    return tuple(x[name] for name in names)


def _each(one: Callable, x: dict, names: tuple[str, ...]):
    """A function of one trajectory, on all of them."""
    return jax.vmap(one)(*_given(x, names))


def _group(name: str, x: dict):
    return getattr(hj, name)(*_given(x, GROUPS[name]), penalty=x["penalty"])


def _score(x: dict):
    total = jnp.sum(x["reward"], axis=1, keepdims=True)
    return jnp.where(x["valid"], total - x["penalty"], 0.0)
