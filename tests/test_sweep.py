"""HAE in one pass over the turns, as a CPU has it: the recurrences' own numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import mutated_below
from test_hae import check_against_twin, hae_module, trajectories

from hiper_jax.credit import hae
from hiper_jax.credit.common import sweep


@pytest.mark.parametrize(
    "old, new",
    [
        ("inside = discount * ~(hands_over | last)", "inside = discount * ~last"),
        ("outside = jnp.where(last, end_high", "outside = jnp.where(last, end_low"),
        ("follows = jnp.where(last, end_low", "follows = jnp.where(last, 0"),
        ("plan_offset - rates.segment * across * high_after", "plan_offset"),
        ("rates.turn * inside * act", "inside * act"),
        ("inside * decide + decide_offset", "discount * decide + decide_offset"),
        (
            "(act, plan, decide, low, high), solved",
            "(act, plan, decide, high, low), solved",
        ),
        ("_LAST = 1, 2, 4", "_LAST = 1, 2, 2"),
        ("rates.boundary * across", "across"),
        ("* (plan - high_after)", "* plan"),
        ("decide_offset + crosses", "decide_offset"),
    ],
)
def test_seeded_faults_of_the_one_pass_are_caught(old, new):
    wrong = mutated_below(hae_module, sweep, old, new).hae
    with pytest.raises(AssertionError, match="."):
        check_against_twin(wrong, "same_state", lambda_boundary=0.6)


@pytest.mark.parametrize(
    "bootstrap, crossing", [("none", 0.0), ("same_state", 0.6), ("next_state", 0.6)]
)
def test_one_pass_gives_the_numbers_and_the_gradients_of_the_recurrences(
    bootstrap, crossing
):
    """With a discount that changes from turn to turn, too, and with two critics."""
    arrays = [jnp.asarray(a) for a in trajectories(5)]
    gamma = jnp.linspace(0.5, 1.0, arrays[0].shape[1])
    weight = jnp.cos(jnp.arange(arrays[0].size)).reshape(arrays[0].shape)

    def estimates(values, implementation):
        def one(*a):
            return hae(
                *a,
                gamma=gamma,
                lambda_turn=0.8,
                lambda_segment=0.7,
                lambda_boundary=crossing,
                bootstrap=bootstrap,
                value_next=jnp.float32(0.3),
                implementation=implementation,
            )

        three = jax.vmap(one)(*arrays[:4], *values)
        two = jax.vmap(lambda *a: one(*a, None))(*arrays[:4], *values[:2])
        parts = [*three, *two]
        return sum(jnp.sum(jnp.sin(x) * weight) for x in parts), parts

    slopes = jax.jit(jax.grad(estimates, has_aux=True), static_argnums=1)
    (slope, got), (other, wanted) = (
        slopes(arrays[4:], name) for name in ("auto", "scan")
    )
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    for a, b in zip(slope, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
