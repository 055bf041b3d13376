"""GiGPO and HGPO: published numbers, slow twins, by hand."""

import math
import sys

import numpy as np
import pytest
import reference_groups as twin
from reference import mutated_below

from hiper_jax.credit.common import groups
from hiper_jax.credit.gigpo import gigpo, hgpo

module = sys.modules["hiper_jax.credit.gigpo"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def arrays(given):
    return given["reward"], given["valid"], given["group"], given["anchor"]


def check_published(module):
    for number, case in enumerate(twin.golden_groups()):
        for std in (True, False):
            got = module.gigpo(
                *arrays(case["in"]), gamma=float(case["in"]["gamma"]), std=std
            )
            name = f"gigpo_mean_{'std_' * std}norm"
            np.testing.assert_allclose(
                got, case["out"][name], err_msg=f"case {number}: {name}", **CLOSE
            )


def check_against_twin(module):
    trajectories = twin.random_trajectories(1)
    given = twin.arrays(trajectories)
    shared = {"penalty": given["penalty"]}
    for options in (
        {},
        {"gamma": 0.8, "weight": 0.3, "std": False},
        {"over": "trajectories"},
    ):
        np.testing.assert_allclose(
            module.gigpo(*arrays(given), **shared, **options),
            twin.padded(twin.gigpo(trajectories, **options), given["valid"]),
            err_msg=f"gigpo {options}",
            **CLOSE,
        )
    for options in (
        {},
        {"history": 1, "alpha": 2.0, "std": False},
        {"base_group": True, "gamma": 0.5},
    ):
        np.testing.assert_allclose(
            module.hgpo(*arrays(given), **shared, **options),
            twin.padded(twin.hgpo(trajectories, **options), given["valid"]),
            err_msg=f"hgpo {options}",
            **CLOSE,
        )


def test_published_numbers():
    check_published(module)


def test_agrees_with_slow_twin():
    check_against_twin(module)


@pytest.mark.parametrize(
    ("where", "old", "new"),
    [
        (module, "(episode + weight * at_anchor)", "(episode + at_anchor)"),
        (module, "step - jnp.where(valid, penalty, 0).astype(step.dtype)", "step"),
        (module, "population=True,\n", ""),
        (module, "(level + 1.0) ** alpha", "(level + 0.0) ** alpha"),
        (module, "jnp.where(value != 0, (level", "jnp.where(True, (level"),
        (
            module,
            "jnp.roll(ids, 1, axis=1).at[:, 0].set(-1)",
            "jnp.roll(ids, 1, axis=1)",
        ),
        (module, "range(1, history + 2)", "range(1, history + 1)"),
        (
            module,
            "step,\n        jnp.where(valid, anchor, -1)",
            "step,\n        anchor * 0",
        ),
        (groups, "now + gamma * after", "now + after"),
        (
            groups,
            "keep = (ids >= 0) & ((count > 1) |",
            "keep = (ids >= 0) & ((count > 2) |",
        ),
        (groups, "(b != jnp.roll(b, 1))", "False"),
    ],
)
def test_seeded_faults_are_caught(where, old, new):
    wrong = mutated_below(module, where, old, new)
    with pytest.raises(AssertionError, match="Not equal"):
        check_against_twin(wrong)


def test_an_anchor_by_hand():
    """Two turns at one anchor with returns 0.5 · 8 and 2: mean 3, deviation √2."""
    reward = np.array([[0, 8], [2, 0]], np.float32)
    valid = np.array([[1, 1], [1, 0]], bool)
    anchor = np.array([[0, 1], [0, -1]])
    whole = gigpo(reward, valid, np.zeros(2, int), anchor, gamma=0.5, std=False)
    np.testing.assert_allclose(whole, [[3, 2], [-5, 0]])
    scaled = gigpo(reward, valid, np.zeros(2, int), anchor, gamma=0.5)
    episode = module.relative(
        np.array([[8.0, 8.0], [2.0, 2.0]]), np.where(valid, 0, -1), valid
    )
    step = 1 / (math.sqrt(2) + 1e-6)
    np.testing.assert_allclose(
        scaled - episode, [[step, 0], [-step, 0]], rtol=1e-5, atol=1e-6
    )


def test_a_revisit_counts_and_a_lone_anchor_does_not():
    reward = np.array([[0, 0, 4]], np.float32)
    valid, anchor = np.ones((1, 3), bool), np.array([[0, 0, 2]])
    got = gigpo(reward, valid, np.zeros(1, int), anchor, gamma=0.5, std=False)
    # One trajectory of three turns: its score is its mean. At 0: returns 1 and 2.
    np.testing.assert_allclose(got, [[-0.5, 0.5, 0]])


def test_an_id_below_zero_is_dropped_and_not_wrapped():
    ids, every = np.array([[-1, 0, 2, -1]]), np.ones((1, 4), bool)
    x = np.array([[100.0, 1, 2, 100]], np.float32)
    np.testing.assert_array_equal(groups.group_sum(x, ids, every), [1, 0, 2, 0])
    np.testing.assert_array_equal(groups.look_up(x[0], ids), [[0, 100, 2, 0]])
    np.testing.assert_array_equal(groups.relative(x, ids, every, std=False)[0, ::3], 0)
    count = groups.statistics(x, ids, every).count
    np.testing.assert_array_equal(count, [[0, 1, 1, 0]])


def test_pairs_are_numbered_as_they_differ():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 3, (2, 4, 5))
    mask = rng.random((4, 5)) < 0.7
    ids, opens = map(np.asarray, groups.pair_ids(first, second, mask))
    assert (ids[~mask] == -1).all() and ids.max() < 20
    pairs = list(zip(first[mask], second[mask], strict=True))
    same = np.array([[a == b for b in pairs] for a in pairs])
    np.testing.assert_array_equal(ids[mask][:, None] == ids[mask][None], same)
    assert opens.sum() == len(set(pairs)) and not opens[~mask].any()


def test_anchors_of_two_tasks_never_meet():
    """The same text in two tasks has two ids; one id for both is another number."""
    trajectories = twin.random_trajectories(4)
    for one in trajectories:
        one["anchor"] = ["hall"] * len(one["anchor"])
    given = twin.arrays(trajectories)
    anchors = [set(row[row >= 0]) for row in given["anchor"]]
    tasks = [one["task"] for one in trajectories]
    for a, of_a in zip(anchors, tasks, strict=True):
        for b, of_b in zip(anchors, tasks, strict=True):
            assert bool(a & b) == (of_a == of_b)
    apart = gigpo(*arrays(given))
    merged = gigpo(*arrays(given | {"anchor": np.minimum(given["anchor"], 0)}))
    assert np.abs(apart - merged).max() > 0.1


def test_without_history_hgpo_is_the_step_of_gigpo():
    """K = 0 leaves one level: the anchor's, of weight w / (w + ε)."""
    given = twin.arrays(twin.random_trajectories(5))
    plain = gigpo(*arrays(given), std=False) - gigpo(
        *arrays(given), std=False, weight=0.0
    )
    one_level = hgpo(*arrays(given), std=False, history=0)
    np.testing.assert_allclose(one_level, plain, rtol=1e-4, atol=1e-5)


def test_levels_that_say_nothing_are_left_out():
    """At the second turn the longer history tells apart, the anchor alone does not."""
    reward = np.array([[0, 1], [0, 3], [0, 2], [0, 2]], np.float32)
    valid, group = np.ones((4, 2), bool), np.zeros(4, int)
    anchor = np.array([[0, 2], [0, 2], [1, 2], [1, 2]])
    got = hgpo(reward, valid, group, anchor, history=1, std=False, gamma=1.0)
    # Level 1 at anchor 2: returns 1, 3, 2, 2 of mean 2. Level 2 after 0: 1 and 3;
    # after 1: 2 and 2, and there level 1 says 0 as well.
    np.testing.assert_allclose(
        got, [[-1, -1], [1, 1], [0, 0], [0, 0]], rtol=1e-5, atol=1e-6
    )
