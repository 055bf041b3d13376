"""HAE without critics: its slow twin, by hand, and what it reduces to."""

import sys

import jax
import numpy as np
import pytest
import reference_groups as twin
from reference import mutated

from hiper_jax.credit.hae_group import hae_group

module = sys.modules["hiper_jax.credit.hae_group"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
NAMES = ("reward", "terminated", "valid", "switch", "group", "anchor", "subgoal")
PUBLISHED = {"lambda_boundary": 0.0}  # the twin's `hae` has no other


def arrays(given):
    return [given[name] for name in NAMES]


def check_against_twin(module):
    for seed, options in ((1, {}), (2, {"gamma": 0.9, "lambdas": (0.8, 0.7)})):
        trajectories = twin.random_trajectories(seed)
        given = twin.arrays(trajectories, 10, 6)
        turn, segment = options.get("lambdas", (1.0, 1.0))
        got = module.hae_group(
            *arrays(given),
            gamma=options.get("gamma", 1.0),
            lambda_turn=turn,
            lambda_segment=segment,
            **PUBLISHED,
        )
        wanted = twin.hae_group(trajectories, **options)
        for name in wanted[0]:
            turns = twin.padded([one[name] for one in wanted], given["valid"])
            np.testing.assert_allclose(getattr(got, name), turns, err_msg=name, **CLOSE)


def test_agrees_with_slow_twin():
    check_against_twin(module)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("here.count > 1, here.mean", "here.count > 0, here.mean"),
        ("mean(anchor, starts)", "mean(anchor, valid)"),
        ("mean(under, valid)", "mean(anchor, valid)"),
        ("pair_ids(anchor, subgoal, valid)", "pair_ids(subgoal, subgoal, valid)"),
        ("valid.any(axis=1)).mean[:, None]", "valid.any(axis=1)).mean[:, None] * 0"),
    ],
)
def test_seeded_faults_are_caught(old, new):
    with pytest.raises(AssertionError, match="Not equal"):
        check_against_twin(mutated(module, old, new))


def test_levels_by_hand():
    """Three rollouts of one turn at one anchor under goals 0, 0, 1: returns 9, 3, 0."""
    reward = np.array([[9], [3], [0.0]], np.float32)
    every, first = np.ones((3, 1), bool), np.zeros((3, 1), int)
    goal = np.array([[0], [0], [1]])
    out = hae_group(reward, every, every, every, first[:, 0], first, goal)
    np.testing.assert_allclose(out.advantage_high, [[5], [-1], [-4]])
    np.testing.assert_allclose(out.advantage_switch, [[5], [-1], [-4]])
    # Under goal 0 the mean is 6; goal 1 has one rollout and takes the siblings' 4.
    np.testing.assert_allclose(out.advantage_low, [[3], [-3], [-4]])


def test_by_default_nothing_bootstraps():
    """All λ are 1: an advantage is the return less a mean, at every level."""
    given = twin.arrays(twin.random_trajectories(3))
    out = hae_group(*arrays(given))
    to_go = np.where(given["valid"], given["reward"], 0)
    for t in reversed(range(to_go.shape[1] - 1)):
        to_go[:, t] += np.where(given["terminated"][:, t], 0, to_go[:, t + 1])
    for name in ("low", "switch"):
        got = getattr(out, f"return_{name}")
        np.testing.assert_allclose(got, np.where(given["valid"], to_go, 0), **CLOSE)


def test_one_goal_and_one_place_leave_the_siblings_mean():
    """Nothing to condition on: each level's baseline is one mean over turns."""
    trajectories = [
        {**one, "anchor": ["hall"], "subgoal": ["find"], "switch": [True]}
        | {name: one[name][-1:] for name in ("reward", "penalty", "tokens", "action")}
        | {"terminated": [True]}
        for one in twin.random_trajectories(5)
    ]
    given = twin.arrays(trajectories)
    out = hae_group(*arrays(given))
    flat = twin.episode([one | {"penalty": [0.0]} for one in trajectories], std=False)
    alone = given["group"] == given["group"].max()
    for name in ("low", "high", "switch"):
        got = np.array(getattr(out, f"advantage_{name}"))
        np.testing.assert_allclose(got[~alone], np.array(flat)[~alone], **CLOSE)
        np.testing.assert_array_equal(got[alone], 0)  # it is its own siblings' mean


@pytest.mark.parametrize("dtype", [np.float32, jax.numpy.bfloat16])
def test_battery(dtype):
    given = twin.arrays(twin.random_trajectories(6), 12, 8, shift=1)
    given["reward"] = given["reward"].astype(dtype)
    eager, jitted = hae_group(*arrays(given)), jax.jit(hae_group)(*arrays(given))
    tight = twin.arrays(twin.random_trajectories(6), 12, 8)
    tight["reward"] = tight["reward"].astype(dtype)
    moved = jax.jit(hae_group)(*arrays(tight))
    for name in eager._fields:
        a, b, c = (getattr(out, name).astype(float) for out in (eager, jitted, moved))
        assert getattr(eager, name).dtype == dtype and a.shape == (12, 8), name
        assert np.isfinite(a).all() and (a[~given["valid"]] == 0).all(), name
        np.testing.assert_allclose(a, b, rtol=0.01, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(a[:, 1:], c[:, :-1], rtol=0.01, atol=1e-4)
