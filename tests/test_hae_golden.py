"""HAE and its shaping against the published code's numbers, by turn and by token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import golden

from hiper_jax import credit
from hiper_jax.act.pieces import PieceTable
from hiper_jax.act.spans import token_masks
from hiper_jax.credit import hae as hae_function

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def published():
    """The golden cases, padded to one shape: padding must not matter."""
    cases = golden("hae")
    for case in cases:
        for side in ("in", "out"):
            case[side] = {
                name: np.pad(a, [(0, 16 - a.shape[0]), (0, 50 - a.shape[1])])
                for name, a in case[side].items()
            }
    return cases


def test_published_numbers(published):
    for number, case in enumerate(published):
        got = from_turns(case)
        for name, wanted in case["out"].items():
            np.testing.assert_allclose(
                got[name], wanted, err_msg=f"case {number}: {name}", **CLOSE
            )


def test_published_numbers_token_by_token(published):
    for number, case in enumerate(published):
        (total, mask), wanted_total, wanted_mask = from_tokens(case)
        np.testing.assert_array_equal(mask, wanted_mask, err_msg=f"case {number}")
        np.testing.assert_allclose(
            total, wanted_total, err_msg=f"case {number}", **CLOSE
        )


def shaped_and_estimated(config, arrays, low, high, value_switch):
    requires_both = config["keep_consistency_requires_both"]
    shaped, estimate = _shaped_and_estimated(
        arrays,
        changed(arrays["subgoal_id"], arrays["valid"], requires_both=requires_both),
        (low, high, value_switch),
        {
            "keep_penalty": config["keep_penalty"],
            "invalid_action_penalty": config["invalid_action_penalty_coef"],
            "keep_consistency_penalty": config["keep_consistency_penalty"],
        },
        {
            "gamma": config["gamma"],
            "lambda_turn": config["lam_turn"],
            "lambda_segment": config["lam_seg"],
        },
        mode=config["keep_penalty_mode"],
        bootstrap="same_state" if config["bootstrap_truncated"] else "none",
    )
    if not config["has_switch_critic"]:  # see test_two_critics_leave_the_switch_alone
        nothing = jnp.zeros_like(shaped)
        estimate = estimate._replace(advantage_switch=nothing, return_switch=nothing)
    return shaped, estimate


@functools.partial(jax.jit, static_argnames="requires_both")
def changed(subgoal_id, valid, *, requires_both):
    return jax.vmap(lambda *a: credit.subgoal_changed(*a, requires_both=requires_both))(
        subgoal_id, valid
    )


@functools.partial(jax.jit, static_argnames=("mode", "bootstrap"))
def _shaped_and_estimated(
    arrays, changed, values, penalties, rates, *, mode, bootstrap
):
    valid, switch = arrays["valid"], arrays["switch"]
    shaped = jax.vmap(
        lambda *a: credit.shape_rewards(*a, keep_penalty_mode=mode, **penalties)
    )(arrays["reward"], valid, switch, arrays["action_valid"], changed)
    estimate = jax.vmap(lambda *a: hae_function(*a, bootstrap=bootstrap, **rates))(
        shaped, arrays["done"], valid, switch, *values
    )
    return shaped, estimate


def where_it_lands(config, arrays):
    boundary = jax.vmap(credit.boundaries)(arrays["switch"], arrays["valid"])
    placed = {
        "high_on_subgoal": config["assign_high_to_subgoal"],
        "high_on_switch": config["assign_high_to_switch"],
        "switch_on_switch": config["assign_term_to_switch"]
        and config["has_switch_critic"],
    }
    carried = credit.credit_masks(
        boundary,
        arrays["has_action"] & arrays["valid"],
        (arrays["subgoal_id"] >= 0) & arrays["valid"],
        arrays["has_switch"] & arrays["valid"],
        **placed,
    )
    return boundary, placed, carried


def advantages(config, estimate, carried):
    raw = estimate[:3]
    if not config["norm_adv"]:
        return raw
    return [credit.standardize(a, m) for a, m in zip(raw, carried, strict=True)]


def from_turns(case):
    config, arrays = case["config"], case["in"]
    shaped, estimate = shaped_and_estimated(
        config, arrays, *(arrays[f"value_{k}"] for k in ("low", "high", "switch"))
    )
    boundary, placed, carried = where_it_lands(config, arrays)
    low, high, switch = advantages(config, estimate, carried)
    nothing = jnp.zeros_like(boundary)
    on_subgoal = credit.credit_masks(
        boundary, nothing, arrays["subgoal_id"] >= 0, nothing
    )
    has_switch = arrays["has_switch"] & placed["high_on_switch"]
    on_subgoal, on_switch = on_subgoal[1], boundary & has_switch
    return {
        "shaped_reward": jnp.where(
            arrays["valid"], shaped, case["out"]["shaped_reward"]
        ),
        "ret_low": estimate.return_low,
        "ret_high": estimate.return_high,
        "ret_switch": estimate.return_switch,
        "adv_low": jnp.where(carried[0], low, 0),
        "adv_high": jnp.where(on_subgoal, high, 0),
        "adv_high_on_switch": jnp.where(on_switch, high, 0),
        "adv_switch": jnp.where(carried[2], switch, 0),
        "mask_low": carried[0],
        "mask_high": on_subgoal,
        "mask_high_on_switch": on_switch,
        "mask_switch": carried[2],
    }


# A vocabulary of whole words, enough for three blocks.
WORDS = [b"<switch>", b"KEEP", b"SWITCH", b"</switch>", b"<subgoal>", b"</subgoal>"]
WORDS += [b"<action>", b"</action>", b"\n", *(b"goal %d" % i for i in range(64))]


def words_table():
    length = np.array([len(word) for word in WORDS])
    text = np.frombuffer(b"".join(WORDS) + b"\xff", np.uint8)
    return PieceTable(
        text, np.cumsum(length) - length, length, np.zeros(len(WORDS), bool)
    )


def from_tokens(case):
    """Writes each turn out, reads values and masks off the tokens, spreads credit."""
    config, arrays = case["config"], case["in"]
    valid, (B, T) = arrays["valid"], arrays["valid"].shape
    trajectory, turn = np.nonzero(valid)
    rows = []
    for b, t in zip(trajectory, turn, strict=True):
        has_action, has_switch, says_switch, subgoal = (
            int(arrays[key][b, t])
            for key in ("has_action", "has_switch", "switch", "subgoal_id")
        )
        row = [8, 0, 1 + says_switch, 3] * has_switch
        row += [8, 4, 9 + subgoal, 5] * (subgoal >= 0)
        rows.append(row + [8, 6, 9, 7] * has_action + [8])
    N, L = B * T, 13
    tokens = np.array([row + [0] * (L - len(row)) for row in rows] + [[0] * L] * N)[:N]
    mask = np.arange(L) < np.array([len(row) for row in rows] + [0] * N)[:N, None]
    turn_index = np.append(turn, np.zeros(N, int))[:N]
    masks = token_masks(tokens, mask, turn_index, words_table(), mode="paper")

    def to_rows(turns):
        return np.append(np.asarray(turns)[trajectory, turn], np.zeros(N))[:N]

    def read(name, position):
        """Writes a turn's value at its token among noise, and reads it back."""
        noise = np.random.default_rng(0).normal(size=mask.shape).astype(np.float32)
        value = to_rows(arrays[f"value_{name}"]).astype(np.float32)[:, None]
        out = np.zeros((B, T), np.float32)
        placed, at = np.where(position, value, noise), np.argmax(position, axis=1)
        rows = np.where(position.any(axis=1), placed[np.arange(N), at], 0)
        out[trajectory, turn] = rows[: len(turn)]
        return out

    low, switch = read("low", masks.value_low), read("switch", masks.value_switch)
    high = read("high", masks.value_switch)
    _, estimate = shaped_and_estimated(config, arrays, low, high, switch)
    boundary, placed, carried = where_it_lands(config, arrays)
    has_action = to_rows(arrays["has_action"])[:, None] > 0
    on_tokens = credit.credit_masks(
        to_rows(boundary) > 0,
        masks.action & has_action,
        masks.subgoal,
        masks.switch,
        **placed,
    )
    spread = credit.token_advantage(
        *map(to_rows, advantages(config, estimate, carried)), *on_tokens
    )
    out = {k: to_rows(v)[:, None] for k, v in case["out"].items()}
    wanted = (
        out["adv_low"] * masks.action
        + out["adv_high"] * masks.subgoal
        + (out["adv_switch"] + out["adv_high_on_switch"]) * masks.switch
    )
    wanted_mask = (
        (out["mask_low"] > 0) & masks.action
        | (out["mask_high"] > 0) & masks.subgoal
        | (out["mask_switch"] + out["mask_high_on_switch"] > 0) & masks.switch
    )
    return spread, wanted, wanted_mask
