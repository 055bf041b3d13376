"""The losses: published numbers with gradients, slow twins, and what must not leak."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from absl.testing import parameterized
from reference import golden, mutated_below

from hiper_jax import loss as module
from hiper_jax.credit import token_advantage
from hiper_jax.credit.common import kl
from hiper_jax.credit.common.kl import kl_penalty
from hiper_jax.loss import (
    AGGREGATIONS,
    aggregate,
    gspo_loss,
    kl_loss,
    policy_loss,
    value_loss,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def tokens(seed=0, N=4, L=6):
    rng = np.random.default_rng(seed)
    new, old, advantage = rng.normal(size=(3, N, L)).astype(np.float32)
    mask = rng.random((N, L)) < 0.6
    mask[1] = False
    return new, old, advantage, mask


def check_published(losses):
    """Fails unless a module's losses are the published ones."""
    for number, case in enumerate(golden("losses")):
        config = case["config"]
        given = {k: jnp.asarray(v) for k, v in case["in"].items()}

        def policy(log_prob, given=given, config=config):
            return losses.policy_loss(
                log_prob,
                given["old_log_prob"],
                given["advantage"],
                given["mask"],
                clip_low=config["clip_low"],
                clip_high=config["clip_high"],
                dual_clip=config["dual_clip"],
                aggregation=config["aggregation"],
            )

        (loss, metrics), gradient = jax.value_and_grad(policy, has_aux=True)(
            given["log_prob"]
        )
        value, value_metrics = losses.value_loss(
            given["value"],
            given["old_value"],
            given["value_return"],
            given["value_mask"],
            clip=config["value_clip"],
            aggregation=config["value_aggregation"],
        )
        got = {
            "policy_loss": loss,
            "grad_log_prob": gradient,
            **metrics,
            "value_loss": value,
            **value_metrics,
            "kl_loss": losses.kl_loss(
                given["log_prob"],
                given["ref_log_prob"],
                given["mask"],
                estimator=config["kl"],
                aggregation=config["aggregation"],
            ),
        }
        assert got.keys() == case["out"].keys()
        for name, wanted in case["out"].items():
            np.testing.assert_allclose(
                got[name], wanted, err_msg=f"case {number}: {name}", **CLOSE
            )


def test_published_numbers():
    check_published(module)


@pytest.mark.parametrize(
    "where, old, new",
    [
        (module, "surrogate = jnp.maximum(plain, clipped)", "surrogate = plain"),
        (module, "1 - clip_low, 1 + clip_high)", "1 - clip_low, 1 + clip_low)"),
        (module, "jnp.minimum(surrogate, bound), surrogate", "surrogate, surrogate"),
        (
            module,
            "loss = jnp.maximum(plain_error, clipped_error)",
            "loss = plain_error",
        ),
        (module, "(clipped > plain)", "(clipped < plain)"),
        (kl, "return 0.5 * d**2", "return d**2"),
        (kl, "jnp.clip(jnp.exp(minus) - minus - 1", "jnp.clip(jnp.exp(-minus)"),
        (module, '"seq-mean-token-sum-norm": mask.shape[1],', ""),
    ],
)
def test_seeded_faults_are_caught(where, old, new):
    wrong = mutated_below(module, where, old, new)
    with pytest.raises(AssertionError, match="case"):
        check_published(wrong)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_policy_loss_agrees_with_slow_twin(aggregation):
    arrays = tokens()
    loss, metrics = policy_loss(*arrays, clip_high=0.28, aggregation=aggregation)
    rows = reference.policy_loss(*(a.tolist() for a in arrays), 0.2, 0.28, 3.0)
    wanted = reference.reduce_rows(rows, aggregation, 6)
    np.testing.assert_allclose(loss, wanted, **CLOSE)


def test_ppo_by_hand():
    ratio = jnp.array([[1.5, 0.5, 1.1, 8.0]])
    advantage = jnp.array([[2.0, -1.0, 3.0, -1.0]])
    loss, metrics = policy_loss(
        jnp.log(ratio), jnp.zeros((1, 4)), advantage, jnp.ones((1, 4), bool)
    )
    # Clipped at 1.2; at 0.8; free; bounded by the dual clip, 3.
    np.testing.assert_allclose(loss, (-2.4 + 0.8 - 3.3 + 3.0) / 4, rtol=1e-5)
    np.testing.assert_allclose(metrics["clip_fraction"], 0.5)
    np.testing.assert_allclose(metrics["dual_clip_fraction"], 0.25)


def test_first_step_is_the_policy_gradient():
    """At π = π_old the gradient is −A / count on each marked token."""
    new, _, advantage, mask = tokens()
    gradient = jax.grad(lambda x: policy_loss(x, new, advantage, mask)[0])(new)
    np.testing.assert_allclose(gradient, -advantage * mask / mask.sum(), **CLOSE)


def test_sequence_ratio_by_hand():
    new = jnp.log(jnp.array([[1.1, 0.9, 5.0]]))
    mask = jnp.array([[True, True, False]])
    advantage = jnp.array([[1.0, 1.0, 1.0]])

    def loss(x):
        return policy_loss(x, jnp.zeros((1, 3)), advantage, mask, ratio="sequence")[0]

    ratio = np.sqrt(1.1 * 0.9)
    np.testing.assert_allclose(loss(new), -ratio, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(new), [[-ratio / 2, -ratio / 2, 0]])


def test_gspo_by_hand():
    """Rows of ratio e^0.2 and e^-0.2, of two tokens and one; clips 3e-4 and 4e-4."""
    new = jnp.array([[0.3, 0.1], [-0.2, 9.0]])
    mask = jnp.array([[True, True], [True, False]])
    advantage = jnp.array([[1.0, 2.0], [-3.0, 5.0]])
    loss, metrics = gspo_loss(new, jnp.zeros((2, 2)), advantage, mask)
    # Clipped from above, a mean of two tokens; clipped from below, no dual clip.
    wanted = (-(1 + 2) / 2 * (1 + 4e-4) + 3 * (1 - 3e-4)) / 2
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    np.testing.assert_allclose(metrics["clip_fraction"], 1.0)
    assert metrics["dual_clip_fraction"] == 0
    # On policy: each token's own log-prob, weighed by its row's length.
    free = jax.grad(lambda x: gspo_loss(x, new, advantage, mask)[0])(new)
    np.testing.assert_allclose(free, [[-1 / 4, -2 / 4], [3 / 2, 0]], rtol=1e-6)


def test_without_the_dual_clip_a_loss_has_no_bound():
    ratio, lost = jnp.array([[8.0]]), jnp.array([[-1.0]])
    arrays = jnp.log(ratio), jnp.zeros((1, 1)), lost, jnp.ones((1, 1), bool)
    np.testing.assert_allclose(policy_loss(*arrays)[0], 3.0)
    loss, metrics = policy_loss(*arrays, dual_clip=np.inf)
    np.testing.assert_allclose(loss, 8.0, rtol=1e-6)
    assert metrics["dual_clip_fraction"] == 0
    gradient = jax.grad(lambda x: policy_loss(x, *arrays[1:], dual_clip=np.inf)[0])
    np.testing.assert_allclose(gradient(arrays[0]), [[8.0]], rtol=1e-6)
    # An advantage of 0 times no bound must not be NaN.
    assert policy_loss(*arrays[:2], 0 * lost, arrays[3], dual_clip=np.inf)[0] == 0


def test_the_divisor_of_dr_grpo_does_not_depend_on_the_width():
    new, old, advantage, mask = tokens()
    wide = [np.pad(a, [(0, 0), (0, 3)]) for a in (new, old, advantage, mask)]
    options = {"aggregation": "seq-mean-token-sum-norm", "denominator": 20.0}
    narrow, _ = policy_loss(new, old, advantage, mask, **options)
    np.testing.assert_allclose(policy_loss(*wide, **options)[0], narrow, rtol=1e-6)
    rows = reference.policy_loss(
        *(a.tolist() for a in (new, old, advantage, mask)), 0.2, 0.2, 3.0
    )
    np.testing.assert_allclose(narrow, sum(map(sum, rows)) / 20, **CLOSE)


def test_what_each_kl_estimate_is_good_for():
    """Two actions, enumerated: gradients of a loss, and what comes off a reward."""
    logits, ref = jnp.array([0.4, -0.3]), jnp.log(jnp.array([0.8, 0.2]))

    def policy(x):
        return jax.nn.log_softmax(x)

    def mean(estimator):
        """Gradient of E[k] with the samples held fixed, as a loss has it."""
        weight = jax.lax.stop_gradient(jnp.exp(policy(logits)))

        def loss(x):
            each = kl.kl_estimate(policy(x), ref, True, estimator=estimator)
            return jnp.sum(weight * each)

        return np.asarray(jax.grad(loss)(logits))

    def divergence(p, q):
        return jnp.sum(jnp.exp(p) * (p - q))

    there = jax.grad(lambda x: divergence(policy(x), ref))(logits)
    back = jax.grad(lambda x: divergence(ref, policy(x)))(logits)
    np.testing.assert_allclose(mean("k1"), 0, atol=1e-7)
    np.testing.assert_allclose(mean("k2"), there, rtol=1e-5)
    np.testing.assert_allclose(mean("k3"), back, rtol=1e-5)
    assert np.abs(mean("abs") - there).max() > 0.01
    # Off the reward: the policy gradient of E[−k1] is that of −KL(π || π_ref).
    k1 = kl_penalty(
        policy(logits)[:, None], ref[:, None], jnp.ones((2, 1), bool), coef=1.0
    )
    p = jnp.exp(policy(logits))
    score = jnp.eye(2) - p[None]
    np.testing.assert_allclose((p * k1) @ score, there, rtol=1e-5)


def test_a_kl_penalty_by_hand():
    log_prob = jnp.array([[-1.0, -2.0, 9.0], [-1.0, -1.0, -1.0]])
    ref = jnp.array([[-2.0, -1.5, jnp.nan], [-1.0, -1.0, -1.0]])
    mask = jnp.array([[True, True, False], [True, True, True]])
    got = kl_penalty(log_prob, ref, mask, coef=0.2)
    np.testing.assert_allclose(got, [0.2 * 0.5, 0], rtol=1e-6)
    got = kl_penalty(log_prob, ref, mask, coef=0.2, estimator="abs")
    np.testing.assert_allclose(got, [0.2 * 1.5, 0], rtol=1e-6)


def test_value_loss_by_hand():
    value, old = jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 3.2]])
    loss, metrics = value_loss(
        value, old, jnp.array([[2.0, 2.0]]), jnp.ones((1, 2), bool)
    )
    # Clipped to 0.5: error 1.5² beats 1; the second moves less than 0.5: 1.
    np.testing.assert_allclose(loss, (2.25 + 1) / 2)
    np.testing.assert_allclose(metrics["value_clip_fraction"], 0.5)
    once_a_row = value_loss(value[0], old[0], jnp.full(2, 2.0), jnp.ones(2, bool))
    np.testing.assert_allclose(once_a_row[0], loss)


def test_k3_is_never_negative_and_k1_has_the_right_mean():
    new, ref, _, mask = tokens(N=40, L=50)
    k3 = [
        kl_loss(new[n : n + 1], ref[n : n + 1], np.ones((1, 50), bool))
        for n in range(4)
    ]
    assert min(k3) > 0
    np.testing.assert_allclose(
        kl_loss(new, ref, mask, estimator="k1"), (new - ref)[mask].mean(), **CLOSE
    )


def test_micro_batches_add_up():
    arrays = tokens(N=8)
    whole = policy_loss(*arrays)[0]
    total = arrays[-1].sum()
    parts = [
        policy_loss(*(a[half] for a in arrays), denominator=total)[0]
        for half in (slice(0, 3), slice(3, 8))
    ]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)


def test_what_is_off_the_mask_is_never_read():
    new, old, advantage, mask = tokens()

    def everything(new, old, advantage):
        policy, metrics = policy_loss(new, old, advantage, mask)
        value, _ = value_loss(new, old, advantage, mask)
        return policy + value + kl_loss(new, old, mask), metrics

    dirty = [np.where(mask, a, np.nan) for a in (new, old, advantage)]
    clean = jax.value_and_grad(everything, has_aux=True)(new, old, advantage)
    got = jax.value_and_grad(everything, has_aux=True)(*dirty)
    jax.tree.map(np.testing.assert_array_equal, got, clean)
    assert (np.asarray(got[1])[~mask] == 0).all()


def test_no_token_no_loss():
    new, old, advantage, _ = tokens()
    nothing = np.zeros((4, 6), bool)
    for aggregation in AGGREGATIONS:
        loss, gradient = jax.value_and_grad(
            lambda x, aggregation=aggregation: policy_loss(
                x, old, advantage, nothing, aggregation=aggregation
            )[0]
        )(new)
        assert loss == 0 and not gradient.any()


def test_far_ratios_stay_finite():
    far = jnp.array([[1e4, -1e4]])
    mask, advantage = jnp.ones((1, 2), bool), jnp.array([[1.0, -1.0]])
    for sign in (1, -1):
        value, gradient = jax.value_and_grad(
            lambda x, sign=sign: (
                policy_loss(x, jnp.zeros((1, 2)), sign * advantage, mask)[0]
                + kl_loss(x, jnp.zeros((1, 2)), mask)
            )
        )(far)
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


class TestVariants(chex.TestCase):
    """Compiled or not, on the host's arrays or the device's: eager's numbers."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    @parameterized.product(
        dtype=["float32", "bfloat16"], name=["policy_loss", "value_loss"]
    )
    def test_battery(self, dtype, name):
        function = getattr(module, name)
        *arrays, mask = tokens()
        arrays = [jnp.asarray(a, dtype) for a in arrays]
        eager, _ = function(*arrays, mask)
        got, _ = self.variant(function)(*arrays, mask)
        assert eager.dtype == got.dtype == dtype and eager.shape == got.shape == ()
        np.testing.assert_allclose(float(eager), float(got), rtol=0.05)


def test_a_token_in_two_masks_gets_the_sum():
    low, high, switch = jnp.array([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 0]])
    total, mask = token_advantage(
        jnp.array([1.0]),
        jnp.array([10.0]),
        jnp.array([100.0]),
        *(x[None].astype(bool) for x in (low, high, switch)),
    )
    np.testing.assert_array_equal(total, [[1, 11, 10, 110, 0]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 0]])


def test_bad_input_is_named():
    new, old, advantage, mask = tokens()
    with pytest.raises(ValueError, match="one shape"):
        policy_loss(new, old[:2], advantage, mask)
    with pytest.raises(ValueError, match="aggregation must be"):
        aggregate(new, mask, "mean")
    with pytest.raises(ValueError, match="estimator must be"):
        kl_loss(new, old, mask, estimator="k4")
    with pytest.raises(ValueError, match="dual_clip must be"):
        policy_loss(new, old, advantage, mask, dual_clip=1.0)
    with pytest.raises(ValueError, match="ratio must be"):
        policy_loss(new, old, advantage, mask, ratio="turn")


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_rows_without_tokens_change_nothing(aggregation):
    loss = jnp.array([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]])
    mask = jnp.array([[True, True, False], [True, False, False]])
    padded = jnp.concatenate([loss, jnp.full((6, 3), 7.0)])
    nothing = jnp.concatenate([mask, jnp.zeros((6, 3), bool)])
    expected = {
        "token-mean": 2.0,
        "seq-mean-token-sum": 3.0,
        "seq-mean-token-mean": 2.25,
        "seq-mean-token-sum-norm": 2.0,
    }[aggregation]
    assert float(aggregate(loss, mask, aggregation)) == pytest.approx(expected)
    left_out = aggregate(padded, nothing, aggregation, exclude_empty=True)
    assert float(left_out) == pytest.approx(expected)
    assert float(aggregate(loss, mask & False, aggregation, exclude_empty=True)) == 0.0
