"""The paper's two claims, unbiased and lower variance, by exact enumeration."""

import csv
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import mutated, switch_gap
from test_hae import in_steps

from hiper_jax.experiments.variance import boundary, estimates, tabular, variance

T = 3


@pytest.fixture(scope="module")
def known():
    """A process, its values and all of its trajectories, in double precision."""
    with jax.enable_x64(True):
        process, policy = tabular.random_process(1, 2, 2, 2, 0.8, 0.3)
        values = jax.jit(tabular.exact_values, static_argnums=2)(process, policy, T)
        paths = tabular.enumerate_all(process, policy, T)
        credit = jax.jit(variance.advantages)(
            process, values, paths, lambda_=1.0, lambda_segment=0.5
        )
        return jax.tree.map(np.asarray, (process, policy, values, paths, credit))


@pytest.mark.parametrize("gamma, lambda_segment", [(1.0, 1.0), (0.9, 0.95), (0.5, 0.0)])
def test_hae_is_unbiased_and_its_variance_is_lower_by_the_two_terms(
    gamma, lambda_segment
):
    errors = variance.exact(T, gamma, lambda_segment)
    assert errors["gradient"] < 1e-12 and errors["variance"] < 1e-12
    assert errors["flat_minus_low"] > 1e-3  # at every turn, not within rounding


@pytest.mark.parametrize(
    "claim, old, new",
    [
        ("gradient", "- rates.segment * across * high_after", ""),
        # Handing over to the next plan's V_low is unbiased, but pays for its noise.
        (
            "variance",
            "jnp.where(hands_over, high_after, jnp.roll(low, -1))",
            "jnp.roll(low, -1)",
        ),
    ],
)
def test_a_wrong_hae_fails_a_claim(monkeypatch, claim, old, new):
    wrong = mutated(sys.modules["hiper_jax.credit.hae"], old, new)
    monkeypatch.setattr(estimates, "hae", in_steps(wrong.hae))
    variance._exact.clear_cache()
    errors = variance.exact(T)
    variance._exact.clear_cache()
    assert errors[claim] > 1e-3


def test_dynamic_program_agrees_with_enumeration(known):
    process, _, values, paths, _ = known
    np.testing.assert_allclose(paths.weight.sum(), 1, rtol=1e-12)
    reward = process.reward[paths.state, paths.action]
    returns = reward @ process.gamma ** np.arange(T)
    wanted = process.start @ values.high[0]
    np.testing.assert_allclose(paths.weight @ returns, wanted, rtol=1e-12)
    # The spread of the return from each first state, the second moment by itself.
    for state in range(2):
        here = paths.state[:, 0] == state
        weight = paths.weight[here] / paths.weight[here].sum()
        mean = weight @ returns[here]
        spread = weight @ (returns[here] - mean) ** 2
        np.testing.assert_allclose(spread, values.spread[0, state], rtol=1e-12)


def test_the_gap_is_what_the_switch_head_says_on_average(known):
    _, policy, values, paths, credit = known
    beta = 1 / (1 + np.exp(-policy.switch))
    for turn in (1, 2):
        for state, old, switch in np.ndindex(2, 2, 2):
            here = (
                (paths.state[:, turn] == state)
                & (paths.before[:, turn] == old)
                & (paths.switch[:, turn] == switch)
            )
            by_head = np.average(
                credit["hae"][2][here, turn], weights=paths.weight[here]
            )
            by_gap = switch_gap(
                np.bool_(switch),
                beta[state, old],
                values.high[turn, state],
                values.low[turn, state, old],
            )
            np.testing.assert_allclose(by_head, by_gap, rtol=1e-5, atol=1e-7)


def test_sampled_variance_falls_from_return_to_turn_to_hierarchy(tmp_path):
    variance.main(tmp_path, horizons=(8,), segments=(4.0,), count=512)
    with (tmp_path / "variance.csv").open() as file:
        rows = {
            row["estimator"]: float(row["variance"]) for row in csv.DictReader(file)
        }
    assert list(rows) == list(variance.ESTIMATORS)
    assert rows["hae 1"] < 0.9 * rows["gae_turn 1"] < rows["monte_carlo"]
    assert rows["hae 0.95"] < 0.95 * rows["gae_turn 0.95"]
    assert "| 8 | 4 |" in (tmp_path / "variance.md").read_text()
    assert (tmp_path / "variance.png").read_bytes()[:4] == b"\x89PNG"


def test_sampling_agrees_with_the_exact_occupation():
    process, policy = tabular.random_process(2, 3, 2, 2, 1.0, 0.4)
    values = jax.jit(tabular.exact_values, static_argnums=2)(process, policy, 4)
    draw = jax.jit(tabular.sample, static_argnums=(3, 4))
    paths = draw(jax.random.key(0), process, policy, 4, 4_000)
    where = paths.state[:, 3] * 2 + paths.subgoal[:, 3]
    frequency = jnp.bincount(where, length=6) / 4_000
    np.testing.assert_allclose(frequency, values.occupied[3].reshape(-1), atol=0.03)


def test_a_trace_across_boundaries_stays_unbiased_and_repairs_a_lagging_critic():
    exact = [boundary.exact(b) for b in (0.0, 0.6, 1.0)]
    assert max(e["bias"] for e in exact) < 1e-14
    assert exact[0]["variance"] < exact[1]["variance"] < exact[2]["variance"]
    assert exact[2]["variance"] < 1.1 * exact[0]["variance"]
    lagging = [boundary.exact(b, learnt=0.5)["bias"] for b in (0.0, 0.6, 1.0)]
    assert lagging[0] > 0.1 * exact[0]["truth"]
    np.testing.assert_allclose(lagging[1], 0.4 * lagging[0], rtol=1e-6)
    assert lagging[2] < 1e-14


def test_a_wrong_boundary_trace_fails(monkeypatch):
    wrong = mutated(
        sys.modules["hiper_jax.credit.hae"],
        "rates.boundary * across * (jnp.roll(planned, -1)",
        "rates.boundary * across * (planned",
    )
    monkeypatch.setattr(estimates, "hae", in_steps(wrong.hae))
    boundary._exact.clear_cache()
    errors = boundary.exact(0.6)
    boundary._exact.clear_cache()
    assert errors["bias"] > 1e-3
