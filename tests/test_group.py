"""GRPO, Dr. GRPO, RLOO, REINFORCE++: published numbers, slow twins, by hand."""

import math
import sys

import numpy as np
import pytest
import reference_groups as twin
from reference import mutated, mutated_below

from hiper_jax.credit.common import groups, standardize
from hiper_jax.credit.group import grpo, reinforce_pp

module = sys.modules["hiper_jax.credit.group"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
NAMES = ("grpo", "drgrpo", "rloo", "reinforce_pp_baseline")


def methods(module, given, **options):
    arrays = given["reward"], given["valid"], given["group"]
    for name in NAMES:
        extra = (given["tokens"],) if name == NAMES[-1] else ()
        yield name, getattr(module, name)(*arrays, *extra, **options)


def check_published(module):
    for number, case in enumerate(twin.golden_groups()):
        given = case["in"] | {"tokens": np.full(case["in"]["valid"].shape, 6)}
        for over in ("turns", "trajectories"):
            for name, got in methods(module, given, over=over):
                np.testing.assert_allclose(
                    got,
                    case["out"][f"{name}_{over}"],
                    err_msg=f"case {number}: {name} over {over}",
                    **CLOSE,
                )


def check_against_twin(module, over):
    """Own penalties differ inside a trajectory, token counts too; groups of 4 to 1."""
    trajectories = twin.random_trajectories(1)
    given = twin.arrays(trajectories)
    flat = twin.episode(trajectories, over, False)
    tokens = [one["tokens"] for one in trajectories]
    wanted = {
        "grpo": twin.episode(trajectories, over),
        "drgrpo": flat,
        "rloo": twin.rloo(trajectories, over),
        "reinforce_pp_baseline": twin.whitened(flat, tokens),
    }
    for name, got in methods(module, given, over=over, penalty=given["penalty"]):
        turns = twin.padded(wanted[name], given["valid"])
        np.testing.assert_allclose(got, turns, err_msg=name, **CLOSE)


def test_published_numbers():
    check_published(module)


@pytest.mark.parametrize("over", ["turns", "trajectories"])
def test_agrees_with_slow_twin(over):
    check_against_twin(module, over)


@pytest.mark.parametrize(
    ("where", "old", "new"),
    [
        (module, "n / jnp.maximum(n - 1, 1)", "(n - 1) / jnp.maximum(n, 1)"),
        (module, "jnp.where(n > 1, n", "jnp.where(n > 9, n"),
        (module, "counted_turns(valid, over), dtype", "valid, dtype"),
        (module, "ids >= 0, weight=tokens", "ids >= 0"),
        (groups, "members if population else jnp.maximum(count - 1, 1)", "members"),
        (groups, "(deviation + epsilon) if std", "(deviation + 1) if std"),
        (groups, "alone = count == 1", "alone = count == 0"),
        (groups, "total = total - jnp.asarray(penalty, total.dtype)", "pass"),
        (
            groups,
            "jnp.asarray(penalty, total.dtype)",
            "jnp.nansum(penalty, axis=1, keepdims=True)",
        ),
        (groups, "valid, group[:, None], -1", "valid, 0 * group[:, None], -1"),
        (standardize, "jnp.maximum(total - 1, 1)", "jnp.maximum(total, 1)"),
    ],
)
def test_seeded_faults_are_caught(where, old, new):
    wrong = mutated_below(module, where, old, new)
    with pytest.raises(AssertionError, match="Not equal"):
        check_against_twin(wrong, "trajectories")
        check_against_twin(wrong, "turns")


def test_siblings_by_hand():
    """Returns 10 and 0 over two turns and one: over turns the mean is 20/3."""
    reward = np.array([[0, 10], [0, 0], [3, 0]], np.float32)
    valid = np.array([[1, 1], [1, 0], [1, 0]], bool)
    group = np.array([0, 0, 1])
    spread = math.sqrt((2 * (10 / 3) ** 2 + (20 / 3) ** 2) / 2) + 1e-6
    won, lost = 10 / 3 / spread, -20 / 3 / spread
    alone = 3 / (1 + 1e-6)
    np.testing.assert_allclose(
        grpo(reward, valid, group), [[won, won], [lost, 0], [alone, 0]], rtol=1e-6
    )
    each = 5 / (math.sqrt(50) + 1e-6)
    np.testing.assert_allclose(
        grpo(reward, valid, group, over="trajectories"),
        [[each, each], [-each, 0], [alone, 0]],
        rtol=1e-6,
    )
    leave_one_out = module.rloo(reward, valid, group, over="trajectories")
    np.testing.assert_allclose(leave_one_out, [[10, 10], [-10, 0], [3, 0]])
    # Turns: the two won ones have (10 + 0) / 2 beside them, the lost one 10.
    np.testing.assert_allclose(
        module.rloo(reward, valid, group), [[5, 5], [-10, 0], [3, 0]], rtol=1e-6
    )
    np.testing.assert_allclose(
        module.drgrpo(reward, valid, group, over="trajectories"),
        [[5, 5], [-5, 0], [3, 0]],
    )


def test_a_turns_penalty_is_its_own():
    """It lowers its own score before the mean is taken, nobody else's."""
    reward, valid = np.zeros((2, 2), np.float32), np.ones((2, 2), bool)
    penalty = np.array([[0.4, 0], [0, 0]])
    got = module.drgrpo(reward, valid, np.zeros(2, int), penalty=penalty)
    np.testing.assert_allclose(got, [[-0.3, 0.1], [0.1, 0.1]], rtol=1e-5)


def test_what_stands_after_a_termination_counts():
    """A record that goes on is summed up to its end: nothing reads `terminated`."""
    reward = np.array([[1, 2, 4], [0, 0, 0]], np.float32)
    got = module.drgrpo(reward, np.ones((2, 3), bool), np.zeros(2, int))
    np.testing.assert_allclose(got, [[3.5] * 3, [-3.5] * 3])


def test_a_task_with_one_return_says_exactly_nothing():
    rng = np.random.default_rng(0)
    for value in rng.uniform(-20, 20, 20).astype(np.float32):
        reward = np.zeros((7, 3), np.float32)
        reward[:, 0] = value
        got = grpo(reward, np.ones((7, 3), bool), np.zeros(7, int))
        np.testing.assert_array_equal(got, 0.0)
    assert groups.flat_groups(reward, reward == reward, np.zeros(7, int)).all()


def test_token_whitening_by_hand():
    """Scores 3 on one token, 0 on three: mean ¾, variance (2.25² + 3 · 0.75²) / 3."""
    reward = np.array([[3.0], [0.0]], np.float32)
    got = reinforce_pp(reward, np.ones((2, 1), bool), np.array([[1], [3]]))
    scale = math.sqrt((2.25**2 + 3 * 0.75**2) / 3 + 1e-8)
    np.testing.assert_allclose(got, [[2.25 / scale], [-0.75 / scale]], rtol=1e-5)


def check_tokens(module):
    trajectories = twin.random_trajectories(2)
    given = twin.arrays(trajectories)
    gamma, width = 0.9, 5
    flat = []
    for one in trajectories:
        for score, K in zip(twin.scores([one])[0], one["tokens"], strict=True):
            flat.append([score * gamma ** (K - 1 - j) for j in range(K)])
    every = [v for row in flat for v in row]
    scale = math.sqrt(np.var(every, ddof=1) + 1e-8)
    got = module.reinforce_pp(
        given["reward"],
        given["valid"],
        given["tokens"],
        penalty=given["penalty"],
        gamma=gamma,
        width=width,
    )
    rows = np.asarray(got)[given["valid"]]
    for row, wanted in zip(rows, flat, strict=True):
        K = len(wanted)
        np.testing.assert_allclose(
            row[:K], (np.array(wanted) - np.mean(every)) / scale, **CLOSE
        )
        np.testing.assert_array_equal(row[K:], 0)


def test_a_discount_per_token_gives_each_its_own():
    check_tokens(module)
    wrong = mutated(module, "tokens[..., None] - 1 -", "tokens[..., None] - 2 -")
    with pytest.raises(AssertionError, match="Not equal"):
        check_tokens(wrong)


def test_one_token_a_turn_is_whitening_over_turns():
    given = twin.arrays(twin.random_trajectories(3))
    arrays = given["reward"], given["valid"]
    ones = np.ones_like(given["tokens"])
    per_token = reinforce_pp(*arrays, ones, width=1)[..., 0]
    np.testing.assert_allclose(per_token, reinforce_pp(*arrays, ones), **CLOSE)


def test_bad_input_is_named():
    given = twin.arrays(twin.random_trajectories(0))
    reward, valid, group = given["reward"], given["valid"], given["group"]
    with pytest.raises(ValueError, match="over must be"):
        grpo(reward, valid, group, over="tokens")
    with pytest.raises(ValueError, match="one shape"):
        grpo(reward, valid[:, :-1], group)
    with pytest.raises(ValueError, match="`group` of shape"):
        grpo(reward, valid, group[:-1])
    with pytest.raises(ValueError, match="needs a turn"):
        grpo(reward[:, :0], valid[:, :0], group)
    with pytest.raises(ValueError, match="whole batch"):
        grpo(reward[0], valid[0], group[0])
    with pytest.raises(ValueError, match="`width`"):
        reinforce_pp(reward, valid, given["tokens"], gamma=0.9)
