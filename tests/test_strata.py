"""StraTA's two levels: a slow twin, by hand, seeded faults."""

import math
import statistics
import sys

import numpy as np
import pytest
import reference_groups as twin
from reference import mutated

from hiper_jax.credit.strata import strata

module = sys.modules["hiper_jax.credit.strata"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def played(seed):
    """Trajectories, each under one of its task's strategies; some steps flagged."""
    rng = np.random.default_rng(seed)
    trajectories = twin.random_trajectories(seed)
    for b, one in enumerate(trajectories):
        kind = {0: b % 2, 1: 0}.get(one["task"], b)  # 2 and 2, 3, 1 and 1, 1
        one["strategy"] = f"{one['task']}/{kind}"
        one["reward"][-1] += float(rng.integers(4))
        one["flagged"] = [bool(f) for f in rng.random(len(one["reward"])) < 0.4]
    return trajectories


def slow(trajectories, share, kappa):
    of = {}
    for one in trajectories:
        of.setdefault(one["strategy"], []).append(sum(one["reward"]))
    reward = {}
    for name, seen in of.items():
        best = sorted(seen, reverse=True)[: max(1, math.ceil(share * len(seen)))]
        reward[name] = statistics.fmean(best)
    strategy = []
    for one in trajectories:
        task = [v for k, v in reward.items() if k.startswith(f"{one['task']}/")]
        mine = reward[one["strategy"]]
        if len(task) == 1:
            strategy.append(0.0)
        else:
            scale = statistics.stdev(task) + 1e-6
            strategy.append((mine - statistics.fmean(task)) / scale)
    action = twin.by_key(
        trajectories,
        lambda b, t: trajectories[b]["strategy"],
        lambda b, t: (
            sum(trajectories[b]["reward"])
            - kappa * trajectories[b]["flagged"][t]
            - trajectories[b]["penalty"][t]
        ),
        lone=twin.nothing,
    )
    return [reward[one["strategy"]] for one in trajectories], strategy, action


def check_against_twin(module):
    for seed, share in ((1, 0.5), (2, 1.0), (3, 0.25)):
        trajectories = played(seed)
        given = twin.arrays(trajectories)
        names = list(dict.fromkeys(one["strategy"] for one in trajectories))
        flagged = np.ones_like(given["valid"])
        for b, one in enumerate(trajectories):
            flagged[b][given["valid"][b]] = one["flagged"]
        out = module.strata(
            given["reward"],
            given["valid"],
            given["group"],
            np.array([names.index(one["strategy"]) for one in trajectories]),
            flagged,
            penalty=given["penalty"],
            top_share=share,
            flag_penalty=0.3,
        )
        reward, strategy, action = slow(trajectories, share, 0.3)
        np.testing.assert_allclose(out.strategy_reward, reward, **CLOSE)
        np.testing.assert_allclose(out.strategy, strategy, **CLOSE)
        turns = twin.padded(action, given["valid"])
        np.testing.assert_allclose(out.action, turns, **CLOSE)


def test_agrees_with_slow_twin():
    check_against_twin(module)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rank < count)", "rank <= count)"),
        ("jnp.ceil(share * members - 1e-6)", "jnp.floor(share * members)"),
        ("total[None, :] > total[:, None]", "total[None, :] < total[:, None]"),
        ("relative(reward_z, task, opens,", "relative(reward_z, task, every,"),
        ("valid & flagged.astype(bool), flag_penalty", "valid, flag_penalty * 0"),
        ("of_turns(strategy, valid)", "of_turns(group, valid)"),
    ],
)
def test_seeded_faults_are_caught(old, new):
    with pytest.raises(AssertionError, match="Not equal"):
        check_against_twin(mutated(module, old, new))


def test_two_strategies_by_hand():
    """Returns 4, 2, 0, 0 under one and 1, 1 under another: best halves 3 and 1."""
    reward = np.array([[4], [2], [0], [0], [1], [1]], np.float32)
    valid, task = np.ones((6, 1), bool), np.zeros(6, int)
    strategy = np.array([0, 0, 0, 0, 4, 4])
    out = strata(reward, valid, task, strategy)
    np.testing.assert_allclose(out.strategy_reward, [3, 3, 3, 3, 1, 1])
    z = 1 / (math.sqrt(2) + 1e-6)
    np.testing.assert_allclose(out.strategy, [z, z, z, z, -z, -z], rtol=1e-5)
    np.testing.assert_array_equal(out.action[4:], 0)
    spread = math.sqrt((2.5**2 + 0.5**2 + 2 * 1.5**2) / 3) + 1e-6
    np.testing.assert_allclose(
        out.action[:4, 0], np.array([2.5, 0.5, -1.5, -1.5]) / spread, rtol=1e-5
    )


def test_a_flag_costs_the_step_alone():
    reward, valid = np.ones((2, 2), np.float32), np.ones((2, 2), bool)
    flagged = np.array([[True, False], [False, False]])
    same = np.zeros(2, int)
    out = strata(reward, valid, same, same, flagged, flag_penalty=0.4, epsilon=1.0)
    spread = math.sqrt((0.3**2 + 3 * 0.1**2) / 3) + 1
    np.testing.assert_allclose(
        out.action, np.array([[-0.3, 0.1], [0.1, 0.1]]) / spread, rtol=1e-5
    )
    np.testing.assert_array_equal(out.strategy, 0)


def test_bad_input_is_named():
    given = twin.arrays(twin.random_trajectories(0))
    arrays = given["reward"], given["valid"], given["group"]
    with pytest.raises(ValueError, match="`strategy` of shape"):
        strata(*arrays, np.zeros(3, int))
