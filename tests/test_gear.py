"""GEAR's factors: a slow twin, by hand, seeded faults."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import mutated

from hiper_jax.credit.gear import gear, masked_quantile

module = sys.modules["hiper_jax.credit.gear"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def said(seed=0, N=12, R=9):
    rng = np.random.default_rng(seed)
    mask = np.arange(R) < rng.integers(1, R + 1, N)[:, None]
    student, teacher, entropy = -rng.exponential(size=(3, N, R)).astype(np.float32)
    arrays = [np.where(mask, a, np.nan) for a in (student, teacher, -entropy)]
    return rng.normal(size=N).astype(np.float32), *arrays, mask


def slow(advantage, student, teacher, entropy, mask, strength, spike, calm):
    d = np.abs(student - teacher)
    high, wild = np.quantile(d[mask], spike), np.quantile(entropy[mask], calm)
    mean, deviation = d[mask].mean(), d[mask].std()
    phi = np.zeros(mask.shape)
    for n, row in enumerate(mask):
        held = None
        for j in range(row.sum()):
            if d[n, j] > high:
                held = d[n, j]
            here = d[n, j] if held is None else held
            phi[n, j] = 1 + strength * np.clip((here - mean) / deviation, -1, 1)
            opened_here = d[n, j] > high
            if entropy[n, j] > wild and not opened_here:
                held = None
    return np.where(mask, advantage[:, None] * phi / phi[mask].mean(), 0)


def check_against_twin(module):
    for seed in range(3):
        arrays = said(seed)
        for settings in ((0.5, 0.95, 0.8), (0.9, 0.7, 0.6), (1.0, 0.5, 0.9)):
            names = ("strength", "spike_quantile", "entropy_quantile")
            got = module.gear(*arrays, **dict(zip(names, settings, strict=True)))
            np.testing.assert_allclose(got, slow(*arrays, *settings), **CLOSE)


def test_agrees_with_slow_twin():
    check_against_twin(module)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("jnp.where(inside, at_spike, d)", "d"),
        ("(opened >= 0) & (before <= opened)", "(opened >= 0)"),
        ("before <= opened", "ended <= opened"),
        ("jnp.clip((held - centre)", "jnp.clip((held - 0)"),
        ("phi / jnp.maximum(mean(phi), 1e-8)", "phi"),
        ("-1.0, 1.0)", "0.0, 1.0)"),
        (
            "d > masked_quantile(d, mask, spike_quantile)",
            "d < masked_quantile(d, mask, spike_quantile)",
        ),
        ("jnp.where(mask, x, jnp.inf)", "x"),
    ],
)
def test_seeded_faults_are_caught(old, new):
    with pytest.raises(AssertionError, match="Not equal"):
        check_against_twin(mutated(module, old, new))


def test_a_segment_by_hand():
    """One spike, of 4, at token 1; entropy ends it at token 2, which still belongs."""
    d = np.array([[0, 4, 0, 0.0]], np.float32)
    entropy = np.array([[0, 0, 1, 0.0]], np.float32)
    mask = np.ones((1, 4), bool)
    got = gear(
        np.array([2.0]),
        d,
        0 * d,
        entropy,
        mask,
        spike_quantile=0.5,
        entropy_quantile=0.5,
    )
    # Mean 1, deviation √3: 1 + ½ · 1 inside, 1 − ½/√3 outside.
    phi = np.array([1 - 0.5 / np.sqrt(3), 1.5, 1.5, 1 - 0.5 / np.sqrt(3)])
    np.testing.assert_allclose(got[0], 2 * phi / phi.mean(), rtol=1e-5)


def test_a_teacher_that_agrees_changes_nothing():
    advantage, student, _, entropy, mask = said(4)
    got = gear(advantage, student, student, entropy, mask)
    np.testing.assert_allclose(got, np.where(mask, advantage[:, None], 0), rtol=1e-6)


def test_the_mean_factor_is_one_and_nothing_flows_back():
    advantage, *arrays = said(5)
    factor = gear(np.ones_like(advantage), *arrays)
    np.testing.assert_allclose(factor[arrays[-1]].mean(), 1, rtol=1e-5)
    flow = jax.grad(lambda s: gear(advantage, s, *arrays[1:]).sum())(arrays[0])
    np.testing.assert_array_equal(flow, 0)


def test_quantiles_are_numpys():
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 40):
        mask = np.arange(40) < count
        x = np.where(mask, rng.normal(size=40), np.nan).astype(np.float32)
        for q in (0.0, 0.3, 0.8, 1.0):
            np.testing.assert_allclose(
                masked_quantile(jnp.asarray(x), mask, q),
                np.quantile(x[mask], q),
                rtol=1e-5,
            )
    assert masked_quantile(jnp.asarray(x), mask & False, 0.5) == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_battery(dtype):
    advantage, *arrays, mask = said(6)
    given = [jnp.asarray(a, dtype) for a in (advantage, *arrays)]
    eager, jitted = gear(*given, mask), jax.jit(gear)(*given, mask)
    assert eager.dtype == dtype and eager.shape == mask.shape
    assert jnp.isfinite(eager).all()
    np.testing.assert_allclose(
        eager.astype(float), jitted.astype(float), rtol=0.02, atol=1e-5
    )
    with pytest.raises(ValueError, match="gear needs"):
        gear(advantage[:3], *arrays, mask)
