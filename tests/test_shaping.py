"""Reward shaping: every term by hand, all of them against the slow twin."""

import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from absl.testing import parameterized
from reference import mutated

from hiper_jax.credit import shape_rewards, subgoal_changed

module = sys.modules["hiper_jax.credit.common.shaping"]
T = 5
SWITCH = np.array([False, True, False, False, True])
VALID = np.array([True, True, True, True, False])
ALL = {
    "keep_penalty": -0.3,
    "invalid_action_penalty": 0.1,
    "keep_consistency_penalty": -0.2,
    "switch_rate_floor": 0.6,
    "switch_rate_floor_coef": 5.0,
}


def shaped(**settings):
    return shape_rewards(
        jnp.zeros(T),
        VALID,
        SWITCH,
        np.array([True, False, True, True, False]),
        np.array([True, True, False, True, True]),
        **settings,
    )


@pytest.mark.parametrize(
    "settings, wanted",
    [
        ({}, [0, 0, 0, 0, 0]),
        ({"keep_penalty": -0.4}, [-0.4, 0, -0.4, -0.4, 0]),
        # Three KEEP turns of four: 0.4 · 3 / 4 in all.
        (
            {"keep_penalty": -0.4, "keep_penalty_mode": "normalized"},
            [-0.1, 0, -0.1, -0.1, 0],
        ),
        ({"invalid_action_penalty": 0.1}, [0, -0.1, 0, 0, 0]),
        # Not at turn 0, not where it switched.
        ({"keep_consistency_penalty": -0.3}, [0, 0, 0, -0.3, 0]),
        # One switch in three: 5 (0.5 − 1/3), off the last real turn.
        (
            {"switch_rate_floor": 0.5, "switch_rate_floor_coef": 5.0},
            [0, 0, 0, -5 / 6, 0],
        ),
        ({"switch_rate_floor": 0.25, "switch_rate_floor_coef": 5.0}, [0] * 5),
    ],
)
def test_terms_by_hand(settings, wanted):
    np.testing.assert_allclose(shaped(**settings), wanted, atol=1e-6)


def check_against_twin(function, mode):
    rng = np.random.default_rng(0)
    length = np.array([9, 1, 2, 6, 9, 4])
    valid = np.arange(9) < length[:, None]
    reward = rng.normal(size=(6, 9)).astype(np.float32)
    switch, action_valid, changed = rng.random((3, 6, 9)) < 0.5
    switch[4] = False
    got = jax.vmap(lambda *a: function(*a, keep_penalty_mode=mode, **ALL))(
        reward, valid, switch, action_valid, changed
    )
    for b, n in enumerate(length):
        wanted = reference.shape_rewards(
            *(a[b, :n] for a in (reward, switch, action_valid, changed)),
            keep_penalty_mode=mode,
            **ALL,
        )
        np.testing.assert_allclose(got[b, :n], wanted, rtol=1e-5, atol=1e-5)
        assert not got[b, n:].any()


@pytest.mark.parametrize("mode", ["fixed", "normalized"])
def test_agrees_with_slow_twin(mode):
    check_against_twin(shape_rewards, mode)


@pytest.mark.parametrize(
    "old, new",
    [
        ("penalty = jnp.where(several, share,", "penalty = jnp.where(True, share,"),
        ("share = penalty / jnp.maximum(num_turns, 1)", "share = penalty / keep.sum()"),
        ("rewritten = keep & ~first &", "rewritten = ~first &"),
        ("switches = (valid & ~keep & ~first)", "switches = (valid & ~keep)"),
        ("shortfall.astype(dtype) * last", "shortfall.astype(dtype)"),
    ],
)
def test_seeded_faults_are_caught(old, new):
    wrong = mutated(module, old, new).shape_rewards
    with pytest.raises(AssertionError, match="."):
        check_against_twin(wrong, "normalized")


def test_subgoal_changed_with_and_without_missing_subgoals():
    ids = jnp.array([3, 3, -1, -1, 4, 5, 5, 0])
    valid = jnp.arange(8) < 7
    both = subgoal_changed(ids, valid)
    np.testing.assert_array_equal(both, [0, 0, 0, 0, 0, 1, 0, 0])
    either = subgoal_changed(ids, valid, requires_both=False)
    np.testing.assert_array_equal(either, [0, 0, 1, 1, 1, 1, 0, 0])


class TestVariants(chex.TestCase):
    """Compiled or not, on the host's arrays or the device's: eager's numbers."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    @parameterized.product(dtype=["float32", "bfloat16"], mode=["fixed", "normalized"])
    def test_battery(self, dtype, mode):
        flags = (VALID, jnp.array(SWITCH), jnp.ones(T, bool), jnp.ones(T, bool))
        reward = jnp.where(VALID, 1.0, jnp.nan).astype(dtype)

        def shape(reward):
            return shape_rewards(reward, *flags, keep_penalty_mode=mode, **ALL)

        eager, got = shape(reward), self.variant(shape)(reward)
        for x in (eager, got):
            assert x.dtype == dtype and jnp.isfinite(x).all() and x[-1] == 0
        np.testing.assert_allclose(
            eager.astype(float), got.astype(float), rtol=0.02, atol=0.02
        )


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="keep_penalty_mode must be"):
        shaped(keep_penalty_mode="share")
    with pytest.raises(ValueError, match="one length"):
        subgoal_changed(jnp.zeros(3), jnp.ones(4, bool))
