"""The segmented scan: three ways to the same numbers, and code for three platforms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from reference import mutated

from hiper_jax.kernels import segmented_pallas
from hiper_jax.kernels import segmented_scan as module
from hiper_jax.kernels.segmented_scan import reverse_affine_scan


def problem(B=3, T=130, seed=0):
    """Coefficients with cuts in them, [B, T]."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(-1, 1, (B, T)) * (rng.random((B, T)) > 0.2)
    return a.astype(np.float32), rng.normal(size=(B, T)).astype(np.float32)


def by_hand(a, b):
    x = np.zeros(a.shape[0])
    columns = []
    for t in reversed(range(a.shape[1])):
        x = a[:, t] * x + b[:, t]
        columns.append(x)
    return np.stack(columns[::-1], axis=1)


def check(function, T=130):
    a, b = problem(T=T)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(function))(a, b), by_hand(a, b), rtol=1e-4, atol=1e-4
    )


# One chunk and less, several chunks, a ragged end.
@pytest.mark.parametrize("T", [1, 64, 130])
@pytest.mark.parametrize("name", ["auto", "scan", "associative", "kernel"])
def test_solves_the_recurrence(name, T):
    check(functools.partial(reverse_affine_scan, implementation=name), T)


@pytest.mark.parametrize(
    "old, new",
    [
        ("a * x + b_ref[t, :], a * product", "x + b_ref[t, :], a * product"),
        ("x = local + product * enters[:, None]", "x = local"),
        ("t = ROWS - 2 - i", "t = ROWS - 1 - i"),
    ],
)
def test_a_wrong_kernel_is_caught(old, new):
    wrong = mutated(segmented_pallas, old, new)
    with pytest.raises(AssertionError, match="Not equal"):
        check(wrong.by_kernel)


@pytest.mark.parametrize("name", ["associative", "kernel"])
def test_gradients_agree_with_the_plain_twin(name):
    a, b = problem(B=2, T=70)
    weight = np.random.default_rng(1).normal(size=(2, 70)).astype(np.float32)

    def gradient(name):
        solve = jax.vmap(functools.partial(reverse_affine_scan, implementation=name))
        return jax.jit(
            jax.grad(lambda a, b: jnp.sum(weight * solve(a, b)), argnums=(0, 1))
        )(a, b)

    for got, wanted in zip(gradient(name), gradient("scan"), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("name", ["auto", "kernel"])
def test_lowers_for_every_platform(platform, name):
    """The kernel is a TPU's; on a GPU it is the associative scan, without a warning."""

    def solve(a, b):
        return jax.vmap(functools.partial(reverse_affine_scan, implementation=name))(
            a, b
        )

    shape = jax.ShapeDtypeStruct((4, 200), jnp.float32)
    exported = export.export(jax.jit(solve), platforms=[platform])
    program = exported(shape, shape).mlir_module()
    # The loop on CPU, parallel steps elsewhere; the kernel where it is asked for.
    assert ("stablehlo.while" in program) == (platform == "cpu")
    kernel = platform == "tpu" and name == "kernel"
    assert ("@tpu_custom_call" in program) == kernel
    assert ("custom_call" in program) == kernel


def test_timing_command_runs(capsys):
    module.main(rows=2, lengths=(8,))
    assert "associative" in capsys.readouterr().out
