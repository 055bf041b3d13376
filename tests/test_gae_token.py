"""Turn GAE, token GAE, two-level GAE, VETTA: published numbers, slow twins, by hand."""

import sys

import jax
import numpy as np
import pytest
import reference
import reference_groups as twin
from reference import mutated, mutated_below

from hiper_jax.credit.common import standardize
from hiper_jax.credit.gae import gae
from hiper_jax.credit.gae_token import gae_bilevel, gae_token, vetta
from hiper_jax.credit.gae_turn import gae_turn

turns_module = sys.modules["hiper_jax.credit.gae_turn"]
module = sys.modules["hiper_jax.credit.gae_token"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
LEVELS = {"gamma": 0.9, "lambda_turn": 0.8, "gamma_token": 0.95, "lambda_token": 0.7}


def check_published(module):
    for number, case in enumerate(twin.golden_groups()):
        given = case["in"]
        advantage, return_ = module.gae_turn(
            *(given[name] for name in ("reward", "done", "valid", "value")),
            gamma=float(given["gamma"]),
            lambda_=float(given["lam"]),
        )
        for name, got in (("whitened", advantage), ("return", return_)):
            np.testing.assert_allclose(
                got, case["out"][f"turn_gae_{name}"], err_msg=f"case {number}", **CLOSE
            )


def test_published_numbers():
    check_published(turns_module)


@pytest.mark.parametrize(
    ("where", "old", "new"),
    [
        (
            turns_module,
            "whiten(advantage, arrays[2])",
            "whiten(advantage, arrays[0] == arrays[0])",
        ),
        (standardize, "jnp.maximum(total - 1, 1)", "jnp.maximum(total, 1)"),
        (standardize, "rsqrt(variance + 1e-8)", "rsqrt(variance + 1)"),
    ],
)
def test_seeded_faults_of_whitening_are_caught(where, old, new):
    if where is turns_module:
        wrong = mutated(turns_module, old, new)
    else:
        wrong = mutated_below(turns_module, where, old, new)
    with pytest.raises(AssertionError, match="Not equal"):
        check_published(wrong)


def test_whitening_is_not_standardising():
    """The two published rules differ: an unbiased variance, and one that is not."""
    given = twin.golden_groups()[0]["in"]
    arrays = [given[name] for name in ("reward", "done", "valid", "value")]
    raw, _ = gae_turn(*arrays, normalize=False)
    wrong = standardize.standardize(raw, given["valid"])
    right = standardize.whiten(raw, given["valid"])
    assert np.abs(wrong - right).max() > 1e-3


def test_a_termination_inside_a_record_cuts_it():
    reward = np.array([[1, 2, 8, 5]], np.float32)
    terminated = np.array([[0, 1, 0, 0]], bool)
    valid, value = np.array([[1, 1, 1, 0]], bool), np.array([[4.0, 2, 2, 9]])
    got, return_ = gae_turn(
        reward, terminated, valid, value, gamma=0.5, lambda_=1.0, normalize=False
    )
    np.testing.assert_allclose(got, [[1 + 1 - 4, 0, 6, 0]])
    np.testing.assert_allclose(return_, [[2, 2, 8, 0]])


def tokens(seed=0, T=4, R=5):
    """One trajectory: lengths 5, 1, 3 and no fourth turn; NaN where nothing is."""
    rng = np.random.default_rng(seed)
    count = np.array([5, 1, 3, 4])
    valid = np.array([True, True, True, False])
    mask = (np.arange(R) < count[:, None]) & valid[:, None]
    value = np.where(mask, rng.normal(size=(T, R)), np.nan).astype(np.float32)
    reward, turn_value = rng.normal(size=(2, T)).astype(np.float32)
    return {
        "reward": np.where(valid, reward, np.nan).astype(np.float32),
        "terminated": np.array([False, seed % 2 == 1, False, True]),
        "valid": valid,
        "mask": mask,
        "value": value,
        "turn_value": np.where(valid, turn_value, np.nan).astype(np.float32),
        "count": count[:3],
    }


def inside(values, end, gamma, lambda_):
    """GAE of one response: a reward on its last token, nothing after it."""
    reward = [0.0] * (len(values) - 1) + [end]
    return reference.gae(
        reward,
        [False] * len(values),
        values,
        gamma=gamma,
        lambda_=lambda_,
        end_value=0.0,
    )


def check_against_twin(module):
    for seed in (0, 1):
        given = tokens(seed)
        rows = [
            [float(v) for v in row[:n]]
            for row, n in zip(given["value"], given["count"], strict=False)
        ]
        reward = [float(r) for r in given["reward"][:3]]
        ends = given["terminated"][:3].tolist()
        head = ("reward", "terminated", "valid", "mask")
        arrays = [given[name] for name in head]

        def compare(got, wanted, name, given=given):
            full = np.zeros(given["mask"].shape)
            full[given["mask"]] = [v for row in wanted for v in row]
            np.testing.assert_allclose(got, full, err_msg=name, **CLOSE)

        got, target = module.gae_token(
            given["reward"], given["mask"], given["value"], gamma=0.9, lambda_=0.8
        )
        wanted = [inside(v, r, 0.9, 0.8) for v, r in zip(rows, reward, strict=True)]
        compare(got, wanted, "gae_token")
        compare(target, [np.add(*p) for p in zip(wanted, rows, strict=True)], "target")

        first = [row[0] for row in rows]
        turn = reference.gae(reward, ends, first, gamma=0.9, lambda_=0.8, end_value=0.0)
        for last_token, paid in (
            ("added", np.add(reward, turn)),
            ("return", np.add(first, turn)),
        ):
            got, _ = module.gae_bilevel(
                *arrays, given["value"], last_token=last_token, **LEVELS
            )
            compare(
                got,
                [inside(v, r, 0.95, 0.7) for v, r in zip(rows, paid, strict=True)],
                f"gae_bilevel {last_token}",
            )

        # VETTA: one long line of tokens, cut where the episode ended.
        line = [(t, j) for t in range(3) for j in range(len(rows[t]))]
        last = [j + 1 == len(rows[t]) for t, j in line]
        along = reference.gae(
            [reward[t] * end for (t, _), end in zip(line, last, strict=True)],
            [ends[t] and end for (t, _), end in zip(line, last, strict=True)],
            [rows[t][j] for t, j in line],
            gamma=0.95,
            lambda_=0.7,
            end_value=0.0,
        )
        token = [
            [a for (u, _), a in zip(line, along, strict=True) if u == t]
            for t in range(3)
        ]
        value = [float(v) for v in given["turn_value"][:3]]
        turn = reference.gae(reward, ends, value, gamma=0.9, lambda_=0.8, end_value=0.0)
        out = module.vetta(
            *arrays, given["turn_value"], given["value"], alpha=3.0, **LEVELS
        )
        compare(
            out.advantage,
            [
                [a + 3 * (x - sum(row) / len(row)) for x in row]
                for a, row in zip(turn, token, strict=True)
            ],
            "vetta",
        )
        compare(
            out.return_token,
            [np.add(*pair) for pair in zip(token, rows, strict=True)],
            "return_token",
        )
        np.testing.assert_allclose(
            out.return_turn, [*np.add(turn, value), 0], err_msg="return_turn", **CLOSE
        )


def test_agrees_with_slow_twin():
    check_against_twin(module)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("reward = jnp.where(last, end[:, None], 0)", "reward = end[:, None] * mask"),
        ("real + turn if last_token", "turn if last_token"),
        ("trace = jnp.where(mask, trace, 1)", "trace = jnp.where(mask, trace, 0)"),
        ("jnp.where(last, next_turn[:, None],", "jnp.where(last, 0,"),
        ("jnp.where(last, goes_on[:, None], True)", "True"),
        ("alpha * residual", "residual"),
        (
            "token.sum(axis=1, keepdims=True) / count",
            "token.mean(axis=1, keepdims=True)",
        ),
        ("goes_on = valid & ~terminated", "goes_on = valid"),
    ],
)
def test_seeded_faults_are_caught(old, new):
    with pytest.raises(AssertionError, match="Not equal"):
        check_against_twin(mutated(module, old, new))


def test_the_turn_sets_the_mean_of_vettas_response():
    given = tokens(2)
    arrays = [given[name] for name in ("reward", "terminated", "valid", "mask")]
    turn, _ = gae(*arrays[:3], given["turn_value"], gamma=0.95, lambda_=0.95)
    for alpha in (0.0, 1.0, 3.0):
        out = vetta(*arrays, given["turn_value"], given["value"], alpha=alpha)
        mean = out.advantage.sum(axis=1)[:3] / given["count"]
        np.testing.assert_allclose(mean, turn[:3], rtol=1e-5, atol=1e-5)


def test_with_one_token_a_turn_the_levels_are_one():
    """gae_bilevel's "return" is then turn GAE, VETTA too, whatever α is."""
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(2, 4)).astype(np.float32)
    terminated, valid = np.zeros(4, bool), np.ones(4, bool)
    mask = np.ones((4, 1), bool)
    turn, return_ = gae(reward, terminated, valid, value, gamma=0.9, lambda_=0.8)
    shared = {"gamma": 0.9, "lambda_turn": 0.8}
    head = reward, terminated, valid, mask
    got, target = gae_bilevel(*head, value[:, None], last_token="return", **shared)
    np.testing.assert_allclose(got[:, 0], turn, **CLOSE)
    np.testing.assert_allclose(target[:, 0], return_, **CLOSE)
    out = vetta(*head, value, value[:, None], alpha=7.0, **shared)
    np.testing.assert_allclose(out.advantage[:, 0], turn, **CLOSE)


def test_discounts_of_one_give_two_level_gae_the_return():
    """γ = λ = 1 on both levels: return minus value at every token, if not "added"."""
    given = tokens(4)
    arrays = [given[name] for name in ("reward", "terminated", "valid", "mask")]
    got, _ = gae_bilevel(*arrays, given["value"], gamma=1.0, last_token="return")
    to_go = np.cumsum(given["reward"][:3][::-1])[::-1]
    np.testing.assert_allclose(
        got[:3],
        np.where(given["mask"][:3], to_go[:, None] - given["value"][:3], 0),
        **CLOSE,
    )


@pytest.mark.parametrize("dtype", [np.float32, jax.numpy.bfloat16])
def test_battery(dtype):
    given = tokens(6)
    head = [given[name] for name in ("reward", "terminated", "valid", "mask")]
    head[0], value = head[0].astype(dtype), given["value"].astype(dtype)
    calls = {
        "token": lambda r, v: gae_token(r, given["mask"], v),
        "bilevel": lambda r, v: gae_bilevel(r, *head[1:], v),
        "vetta": lambda r, v: vetta(r, *head[1:], v[:, 0], v)[::2],
    }
    for name, call in calls.items():
        eager, jitted = call(head[0], value), jax.jit(call)(head[0], value)
        for a, b in zip(eager, jitted, strict=True):
            assert a.shape == (4, 5) and np.isfinite(a).all(), name
            assert a.dtype == dtype, name
            assert (np.asarray(a)[~given["mask"]] == 0).all(), name
            np.testing.assert_allclose(
                a.astype(float), b.astype(float), rtol=0.01, atol=1e-5, err_msg=name
            )


def test_bad_input_is_named():
    given = tokens()
    head = [given[name] for name in ("reward", "terminated", "valid", "mask")]
    with pytest.raises(ValueError, match="vmap gae_token over the batch"):
        gae_token(given["reward"][None], given["mask"], given["value"])
    with pytest.raises(ValueError, match="needs a turn"):
        gae_token(np.zeros(0), np.zeros((0, 5)), np.zeros((0, 5)))
    with pytest.raises(ValueError, match="last_token must be"):
        gae_bilevel(*head, given["value"], last_token="twice")
    with pytest.raises(ValueError, match="vmap vetta over the batch"):
        vetta(*head, given["turn_value"], given["value"][:, :2])
