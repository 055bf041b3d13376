"""HAE: by hand, against its slow twin, as GAE and Monte-Carlo, and where it must not
leak."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from absl.testing import parameterized
from reference import mutated

from hiper_jax import credit
from hiper_jax.credit import hae as hae_function
from hiper_jax.kernels import segmented_scan

hae_module = __import__("sys").modules["hiper_jax.credit.hae"]
SETTINGS = {"gamma": 0.9, "lambda_turn": 0.8, "lambda_segment": 0.7}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def trajectories(seed, B=6, T=9, terminate=True):
    """Random ragged inputs of `hae`, [B, T] each, values at random on padding too."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, T + 1, B)
    length[0], length[1] = T, 1
    valid = np.arange(T) < length[:, None]
    terminated = np.zeros((B, T), bool)
    ends = rng.random(B) < 0.5 if terminate else np.zeros(B, bool)
    terminated[np.arange(B), length - 1] = ends
    terminated[0, T // 2] = terminate  # the record goes on after it
    reward, low, high, switch_value = (
        rng.normal(size=(B, T)).astype(np.float32) for _ in range(4)
    )
    switch = rng.random((B, T)) < 0.4
    return reward, terminated, valid, switch, low, high, switch_value


def in_steps(function):
    """HAE by `lax.scan` over recurrences, and not by the one pass of a CPU."""
    return functools.partial(function, implementation="scan")


def check_against_twin(function, bootstrap, seed=0, **more):
    """Fails unless `function` is HAE."""
    arrays = trajectories(seed)
    value_next = np.linspace(-1, 1, len(arrays[0])).astype(np.float32)
    out = jax.jit(
        jax.vmap(
            lambda *a: function(
                *a[:7], bootstrap=bootstrap, value_next=a[7], **SETTINGS, **more
            )
        )
    )(*arrays, value_next)
    for b in range(len(arrays[0])):
        T = arrays[2][b].sum()
        r, term, _, switch, low, high, ws = (a[b, :T].tolist() for a in arrays)
        wanted = reference.hae(
            r,
            term,
            switch,
            low,
            high,
            ws,
            bootstrap=bootstrap,
            value_next=float(value_next[b]),
            **SETTINGS,
            **more,
        )
        for name, values in wanted.items():
            got = np.asarray(getattr(out, name)[b])
            np.testing.assert_allclose(got[:T], values, err_msg=name, **CLOSE)
            assert (got[T:] == 0).all(), name


def test_two_segments_by_hand():
    out = hae_function(
        reward=jnp.array([1.0, 2.0, 4.0, 9.0]),
        terminated=jnp.array([False, False, True, False]),
        valid=jnp.array([True, True, True, False]),
        switch=jnp.array([False, False, True, True]),
        value_low=jnp.array([1.0, 3.0, 5.0, 7.0]),
        value_high=jnp.array([2.0, 0.0, 6.0, 7.0]),
        value_switch=jnp.array([1.0, 1.0, 1.0, 7.0]),
        gamma=0.5,
        lambda_turn=0.5,
        lambda_segment=0.5,
    )
    # Turn 2 is a segment of its own: 4 − 5. Turn 1 hands over to V_high = 6:
    # 2 + 3 − 3 = 2. Turn 0: 1 + 1.5 − 1 + 0.25 · 2 = 2.
    np.testing.assert_allclose(out.advantage_low, [2, 2, -1, 0])
    np.testing.assert_allclose(out.return_low, [3, 5, 4, 0])
    # A_high[1] = 4 − 6 = −2. A_high[0] = 1 + 1 + 0.25 · 6 − 2 + 0.25 · 0.5 · (−2).
    np.testing.assert_allclose(out.advantage_high, [1.25, 0, -2, 0])
    np.testing.assert_allclose(out.return_high, [3.25, 0, 4, 0])
    # 4; 2 + 0.5 · 6 = 5; 1 + 0.5 · 5 = 3.5.
    np.testing.assert_allclose(out.return_switch, [3.5, 5, 4, 0])
    np.testing.assert_allclose(out.advantage_switch, [2.5, 4, 3, 0])


@pytest.mark.parametrize("bootstrap", ["none", "same_state", "next_state"])
def test_agrees_with_slow_twin(bootstrap):
    check_against_twin(hae_function, bootstrap)
    check_against_twin(hae_function, bootstrap, lambda_boundary=0.6)


def test_boundary_trace_by_hand():
    """The two segments above, X = 4 at the second and V_high = 6 there."""
    arrays = {
        "reward": jnp.array([1.0, 2.0, 4.0, 9.0]),
        "terminated": jnp.array([False, False, True, False]),
        "valid": jnp.array([True, True, True, False]),
        "switch": jnp.array([False, False, True, True]),
        "value_low": jnp.array([1.0, 3.0, 5.0, 7.0]),
        "value_high": jnp.array([2.0, 0.0, 6.0, 7.0]),
        "value_switch": jnp.array([1.0, 1.0, 1.0, 7.0]),
    }
    rates = {"gamma": 0.5, "lambda_turn": 0.5, "lambda_segment": 0.5}
    out = hae_function(**arrays, **rates, lambda_boundary=1.0)
    # Turn 1 hands over to X = 4: 2 + 2 − 3 = 1. Turn 0: 1 + 1.5 − 1 + 0.25 · 1.
    np.testing.assert_allclose(out.advantage_low, [1.75, 1, -1, 0])
    np.testing.assert_allclose(out.return_switch, [3, 4, 4, 0])
    plain = hae_function(**arrays, **rates)
    np.testing.assert_array_equal(out.advantage_high, plain.advantage_high)
    half = hae_function(**arrays, **rates, lambda_boundary=0.5)
    np.testing.assert_allclose(
        half.advantage_low, (out.advantage_low + plain.advantage_low) / 2
    )


@pytest.mark.parametrize(
    "old, new",
    [
        ("rates.boundary * across", "across"),
        ("jnp.roll(planned, -1) - high_after)", "jnp.roll(planned, -1))"),
        ("(a, b + crosses) for a, b", "(a, b - crosses) for a, b"),
    ],
)
def test_seeded_faults_of_the_boundary_are_caught(old, new):
    wrong = in_steps(mutated(hae_module, old, new).hae)
    with pytest.raises(AssertionError, match="."):
        check_against_twin(wrong, "same_state", lambda_boundary=0.6)


def test_with_every_trace_at_one_nothing_bootstraps_inside_a_record():
    """λ all 1: every return is the Monte-Carlo return, wherever segments begin."""
    arrays = [a[0] for a in trajectories(3, terminate=False)]
    out = hae_function(
        *arrays, gamma=0.9, lambda_turn=1.0, lambda_segment=1.0, lambda_boundary=1.0
    )
    reward = arrays[0].astype(float)
    to_go = [sum(0.9**j * r for j, r in enumerate(reward[t:])) for t in range(9)]
    np.testing.assert_allclose(out.return_low, to_go, **CLOSE)
    np.testing.assert_allclose(out.return_switch, to_go, **CLOSE)


def test_sums_are_no_less_than_float32():
    """200 turns of 0.1: in bfloat16 the sum would stop at 16."""
    ones, nothing = jnp.ones(200, bool), jnp.zeros(200, jnp.bfloat16)
    reward = jnp.full(200, 0.1, jnp.bfloat16)
    arrays = reward, ones & False, ones, jnp.arange(200) % 10 == 0
    rates = {"lambda_segment": 1.0, "lambda_boundary": 1.0}
    out = hae_function(*arrays, nothing, nothing, nothing, **rates)
    wanted = 200 * float(reward[0])
    for total in (out.return_low[0], credit.gae(*arrays[:3], nothing)[1][0]):
        assert total.dtype == jnp.bfloat16
        np.testing.assert_allclose(float(total), wanted, rtol=2**-8)


@pytest.mark.parametrize(
    "old, new",
    [
        ("inside = step * ~(hands_over | last)", "inside = step * ~last"),
        ("outside = jnp.where(last, end_high", "outside = jnp.where(last, end_low"),
        (
            "low_after = jnp.where(hands_over, high_after,",
            "low_after = jnp.where(last, 0,",
        ),
        ("- rates.segment * across * high_after", ""),
        ("jnp.where(start, planned - high, zero)", "planned - high"),
        ("goes_on = valid & ~terminated", "goes_on = valid | terminated"),
        ("rates.turn * inside, reward", "inside, reward"),
        ("hands_over = jnp.roll(start, -1)", "hands_over = start"),
    ],
)
def test_seeded_faults_are_caught(old, new):
    wrong = in_steps(mutated(hae_module, old, new).hae)
    with pytest.raises(AssertionError, match="."):
        check_against_twin(wrong, "same_state")


@pytest.mark.parametrize("bootstrap", ["none", "next_state"])
def test_one_segment_is_gae(bootstrap):
    reward, terminated, valid, _, low, high, ws = (a[0] for a in trajectories(1))
    end = {"bootstrap": bootstrap, "value_next": jnp.float32(0.3)}
    out = hae_function(
        reward, terminated, valid, jnp.zeros(9, bool), low, high, ws, **SETTINGS, **end
    )
    advantage, return_ = credit.gae(
        reward, terminated, valid, low, gamma=0.9, lambda_=0.8, **end
    )
    np.testing.assert_allclose(out.advantage_low, advantage, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.return_low, return_, rtol=1e-5, atol=1e-6)


def test_every_turn_a_segment_is_gae_for_the_planner():
    reward, terminated, valid, _, low, high, ws = (a[0] for a in trajectories(2))
    out = hae_function(
        reward, terminated, valid, jnp.ones(9, bool), low, high, ws, **SETTINGS
    )
    advantage, return_ = credit.gae(
        reward, terminated, valid, high, gamma=0.9, lambda_=0.7
    )
    np.testing.assert_allclose(out.advantage_high, advantage, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.return_high, return_, rtol=1e-5, atol=1e-6)


def test_lambda_one_is_monte_carlo():
    arrays = [a[0] for a in trajectories(3, terminate=False)]
    arrays[3] = np.array([0, 0, 1, 0, 0, 1, 0, 0, 0], bool)
    out = hae_function(*arrays, gamma=0.9, lambda_turn=1.0, lambda_segment=1.0)
    reward, high = arrays[0].astype(float), arrays[5]
    to_go = [sum(0.9**j * r for j, r in enumerate(reward[t:])) for t in range(9)]
    np.testing.assert_allclose(
        out.return_high[np.array([0, 2, 5])], [to_go[0], to_go[2], to_go[5]], **CLOSE
    )
    np.testing.assert_allclose(out.return_low[5:], to_go[5:], **CLOSE)
    inside = sum(0.9**j * r for j, r in enumerate(reward[2:5])) + 0.9**3 * high[5]
    np.testing.assert_allclose(out.return_low[2], inside, **CLOSE)


def check_no_leak(function):
    arrays = [a[0] for a in trajectories(4, terminate=False)]
    switch = np.array([0, 0, 1, 0, 0, 1, 1, 0, 0], bool)
    segment = np.cumsum(switch)
    jacobian = jax.jacobian(
        lambda r: function(r, *arrays[1:3], switch, *arrays[4:], **SETTINGS)
    )(arrays[0])
    ahead = np.arange(9) >= np.arange(9)[:, None]
    same = segment == segment[:, None]
    for name in ("advantage_low", "return_switch"):
        np.testing.assert_array_equal(
            getattr(jacobian, name) != 0, same & ahead, err_msg=name
        )
    starts = (switch | (np.arange(9) == 0))[:, None]
    np.testing.assert_array_equal(jacobian.advantage_high != 0, starts & ahead)


def test_rewards_reach_no_executor_across_a_segment_end():
    check_no_leak(hae_function)


def test_a_leak_across_segments_is_caught():
    old, new = "rates.turn * inside, reward", "rates.turn * step * ~last, reward"
    with pytest.raises(AssertionError, match="advantage_low"):
        check_no_leak(in_steps(mutated(hae_module, old, new).hae))


def test_rewards_after_termination_reach_nothing_before():
    arrays = [a[0] for a in trajectories(5)]
    jacobian = jax.jacobian(lambda r: hae_function(r, *arrays[1:], **SETTINGS))(
        arrays[0]
    )
    for name, derivative in jacobian._asdict().items():
        assert (np.asarray(derivative)[:5, 5:] == 0).all(), name


def test_padding_and_company_change_nothing():
    arrays = trajectories(6)
    estimate = jax.jit(
        jax.vmap(lambda *a: hae_function(*a, bootstrap="same_state", **SETTINGS))
    )
    together = estimate(*arrays)

    def padded(a):
        fill = False if a.dtype == bool else np.nan
        before, after = np.full((6, 2), fill, a.dtype), np.full((6, 4), fill, a.dtype)
        a = a.copy()
        if a.dtype != bool:
            a[~arrays[2]] = np.nan
        return np.concatenate([before, a, after], axis=1)

    alone = estimate(*map(padded, arrays))
    for name in together._fields:
        a, b = getattr(together, name), getattr(alone, name)
        np.testing.assert_allclose(b[:, 2:11], a, rtol=1e-6, atol=1e-6, err_msg=name)
        assert (np.asarray(b[:, :2]) == 0).all() and (np.asarray(b[:, 11:]) == 0).all()
    for b in range(6):
        single = estimate(*(a[b : b + 1] for a in arrays))
        for name in together._fields:
            np.testing.assert_array_equal(
                getattr(single, name)[0], getattr(together, name)[b], err_msg=name
            )


@pytest.mark.parametrize("implementation", ["scan", "associative", "kernel"])
def test_every_implementation_gives_the_same_numbers(implementation):
    def function(*arguments, **keywords):
        return hae_function(*arguments, implementation=implementation, **keywords)

    check_against_twin(function, "same_state", seed=7)


class TestVariants(chex.TestCase):
    """Compiled or not, on the host's arrays or the device's: eager's numbers."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    @parameterized.product(
        dtype=["float32", "bfloat16"],
        bootstrap=["none", "same_state", "next_state"],
    )
    def test_battery(self, dtype, bootstrap):
        arrays = [jnp.asarray(a[0]) for a in trajectories(8)]
        arrays = [a.astype(dtype) if a.dtype == jnp.float32 else a for a in arrays]

        def estimate(*a):
            return hae_function(
                *a, bootstrap=bootstrap, value_next=jnp.zeros((), dtype), **SETTINGS
            )

        eager, got = estimate(*arrays), self.variant(estimate)(*arrays)
        for name in eager._fields:
            a, b = getattr(eager, name), getattr(got, name)
            assert a.dtype == b.dtype == dtype and a.shape == b.shape == (9,), name
            assert jnp.isfinite(a).all() and jnp.isfinite(b).all(), name
            rounding = 1e-5 if dtype == "float32" else 0.1
            np.testing.assert_allclose(
                a.astype(float), b.astype(float), rtol=rounding, atol=rounding
            )


def test_two_critics_leave_the_switch_alone():
    arrays = [a[0] for a in trajectories(9)]
    three, two = hae_function(*arrays), hae_function(*arrays[:6], None)
    for name in ("advantage_low", "advantage_high", "return_low", "return_high"):
        np.testing.assert_array_equal(getattr(three, name), getattr(two, name))
    assert not two.advantage_switch.any() and not two.return_switch.any()


def test_next_state_reads_a_turn_array_at_the_last_turn():
    arrays = [a[2] for a in trajectories(10, terminate=False)]
    last = int(arrays[2].sum()) - 1
    per_turn = np.full(9, np.nan, np.float32)
    per_turn[last] = 2.5
    a = hae_function(*arrays, bootstrap="next_state", value_next=per_turn)
    b = hae_function(*arrays, bootstrap="next_state", value_next=2.5)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_switch_gap_by_hand():
    got = reference.switch_gap(
        jnp.array([True, False]),
        jnp.array([0.25, 0.25]),
        jnp.array([3.0, 3.0]),
        jnp.array([1.0, 1.0]),
    )
    np.testing.assert_allclose(got, [1.5, -0.5])


def test_bad_input_is_named():
    arrays = trajectories(0)
    with pytest.raises(ValueError, match="vmap hae over the batch"):
        hae_function(*arrays)
    one = [a[0] for a in arrays]
    with pytest.raises(ValueError, match="one length"):
        hae_function(one[0][:-1], *one[1:])
    with pytest.raises(ValueError, match="needs value_next"):
        hae_function(*one, bootstrap="next_state")
    with pytest.raises(ValueError, match="bootstrap must be"):
        hae_function(*one, bootstrap="both")
    with pytest.raises(ValueError, match="hae needs a turn, but T is 0"):
        hae_function(*(a[:0] for a in one))
    with pytest.raises(ValueError, match="implementation must be"):
        segmented_scan.reverse_affine_scan(one[0], one[0], implementation="fast")
