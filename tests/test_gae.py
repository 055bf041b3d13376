"""Flat GAE: by hand, against its slow twin, and as Monte-Carlo."""

import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from absl.testing import parameterized
from reference import mutated

from hiper_jax.credit import gae

module = sys.modules["hiper_jax.credit.gae"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def trajectories(seed=0, B=5, T=8):
    rng = np.random.default_rng(seed)
    length = np.array([T, 1, 5, 3, T])
    valid = np.arange(T) < length[:, None]
    terminated = rng.random((B, T)) < 0.15
    reward, value = rng.normal(size=(2, B, T)).astype(np.float32)
    return reward, terminated, valid, value


def check_against_twin(function, bootstrap):
    arrays = trajectories()
    after = np.linspace(-1, 1, 5).astype(np.float32)
    advantage, return_ = jax.vmap(
        lambda *a: function(
            *a[:4], gamma=0.9, lambda_=0.8, bootstrap=bootstrap, value_next=a[4]
        )
    )(*arrays, after)
    for b in range(5):
        T = arrays[2][b].sum()
        reward, terminated, _, value = (a[b, :T].tolist() for a in arrays)
        end = {"none": 0.0, "same_state": value[-1], "next_state": after[b]}[bootstrap]
        wanted = reference.gae(
            reward, terminated, value, gamma=0.9, lambda_=0.8, end_value=end
        )
        np.testing.assert_allclose(advantage[b, :T], wanted, **CLOSE)
        np.testing.assert_allclose(return_[b, :T], np.add(wanted, value), **CLOSE)
        assert not advantage[b, T:].any() and not return_[b, T:].any()


def test_by_hand():
    advantage, return_ = gae(
        jnp.array([1.0, 2.0, 8.0]),
        jnp.array([False, True, False]),
        jnp.array([True, True, True]),
        jnp.array([4.0, 2.0, 2.0]),
        gamma=0.5,
        lambda_=0.5,
        bootstrap="same_state",
    )
    # 8 + 1 − 2; the second turn terminates: 2 − 2; 1 + 1 − 4 + 0.25 · 0.
    np.testing.assert_allclose(advantage, [-2, 0, 7])
    np.testing.assert_allclose(return_, [2, 2, 9])


@pytest.mark.parametrize("bootstrap", ["none", "same_state", "next_state"])
def test_agrees_with_slow_twin(bootstrap):
    check_against_twin(gae, bootstrap)


@pytest.mark.parametrize(
    "old, new",
    [
        ("gamma * lambda_ * goes_on * ~last", "gamma * lambda_ * ~last"),
        ("+ gamma * goes_on * value_after", "+ gamma * value_after"),
        ("after = jnp.roll(value, -1)", "after = jnp.roll(value, 1)"),
    ],
)
def test_seeded_faults_are_caught(old, new):
    with pytest.raises(AssertionError, match="Not equal"):
        check_against_twin(mutated(module, old, new).gae, "same_state")


def test_lambda_one_is_monte_carlo_and_zero_is_one_step():
    reward, _, valid, value = (a[0] for a in trajectories(1))
    never = np.zeros(8, bool)
    _, return_ = gae(reward, never, valid, value, gamma=0.9)
    to_go = [sum(0.9**j * r for j, r in enumerate(reward[t:])) for t in range(8)]
    np.testing.assert_allclose(return_, to_go, **CLOSE)
    advantage, _ = gae(reward, never, valid, value, gamma=0.9, lambda_=0.0)
    one_step = reward + 0.9 * np.append(value[1:], 0) - value
    np.testing.assert_allclose(advantage, one_step, **CLOSE)


class TestVariants(chex.TestCase):
    """Compiled or not, on the host's arrays or the device's: eager's numbers."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    @parameterized.parameters("float32", "bfloat16")
    def test_battery(self, dtype):
        reward, terminated, valid, value = (jnp.asarray(a[2]) for a in trajectories())
        dirty = [jnp.where(valid, a, jnp.nan).astype(dtype) for a in (reward, value)]
        arguments = dirty[0], terminated, valid, dirty[1]
        eager, got = gae(*arguments), self.variant(gae)(*arguments)
        for a, b in zip(eager, got, strict=True):
            assert a.dtype == b.dtype == dtype and a.shape == b.shape == (8,)
            assert jnp.isfinite(a).all() and jnp.isfinite(b).all()
            np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=0.05)


def test_bad_input_is_named():
    arrays = trajectories()
    with pytest.raises(ValueError, match="vmap gae over the batch"):
        gae(*arrays)
    with pytest.raises(ValueError, match="gae needs a turn, but T is 0"):
        gae(*(a[0, :0] for a in arrays))
    with pytest.raises(ValueError, match="value_next must be"):
        gae(*(a[0] for a in arrays), bootstrap="next_state", value_next=np.zeros(3))
