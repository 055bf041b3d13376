"""Standardising over the entries that carry credit."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from hiper_jax.credit import standardize


def test_by_hand():
    got = standardize(
        jnp.array([[1.0, 100.0], [3.0, 5.0]]), jnp.array([[True, False], [True, True]])
    )
    scale = np.sqrt(8 / 3)
    np.testing.assert_allclose(got, [[-2 / scale, 0], [0, 2 / scale]], rtol=1e-5)


def test_population_moments_over_the_mask_only():
    rng = np.random.default_rng(0)
    x, mask = rng.normal(3, 5, (7, 11)).astype(np.float32), rng.random((7, 11)) < 0.5
    got = np.asarray(standardize(np.where(mask, x, np.nan), mask))
    np.testing.assert_allclose(got[mask].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(got[mask].std(), 1, rtol=1e-5)
    assert (got[~mask] == 0).all()
    twice = standardize(got, mask)
    np.testing.assert_allclose(twice, got, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("marked", [[], [2], [0, 2, 4]])
def test_nothing_one_and_equal_entries_give_zero(marked):
    mask = np.isin(np.arange(5), marked)
    got = standardize(jnp.full(5, 0.1), mask)
    np.testing.assert_array_equal(got, np.zeros(5))


class TestVariants(chex.TestCase):
    """Compiled or not, on the host's arrays or the device's: eager's numbers."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    @parameterized.parameters("float32", "bfloat16")
    def test_battery(self, dtype):
        x = jnp.linspace(-1, 2, 12).reshape(3, 4)
        mask = x > -0.5
        eager = standardize(x.astype(dtype), mask)
        got = self.variant(standardize)(x.astype(dtype), mask)
        assert eager.dtype == got.dtype == dtype
        assert eager.shape == got.shape == (3, 4)
        np.testing.assert_allclose(
            eager.astype(float), got.astype(float), rtol=0.05, atol=1e-5
        )


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="one shape"):
        standardize(jnp.zeros((3, 4)), jnp.ones(4, bool))
