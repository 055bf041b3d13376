"""G2PO, GraphGPO and CRBC: slow twins, by hand, and what they reduce to."""

import math
import sys

import numpy as np
import pytest
import reference_graph
import reference_groups as twin
from reference import mutated, mutated_below

from hiper_jax.credit.common import groups
from hiper_jax.credit.graph import g2po, graphgpo
from hiper_jax.credit.graph_crbc import crbc

CRBC = sys.modules["hiper_jax.credit.graph_crbc"]
GRAPH = sys.modules["hiper_jax.credit.graph"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def arrays(given, *, action=False):
    names = ("reward", "valid", "group", "anchor") + ("action",) * action
    return (*(given[name] for name in names), given["success"])


def check_against_twin(seeds=(1, 6), *, graph=GRAPH, closure=CRBC):
    for seed in seeds:
        trajectories = twin.random_trajectories(seed)
        given = twin.arrays(trajectories, 10, 6)
        penalty = {"penalty": given["penalty"]}
        for name, options in (
            ("g2po", {}),
            ("g2po", {"gamma": 0.7, "weight": 0.3, "std": False}),
            ("graphgpo", {}),
            ("graphgpo", {"gamma": 0.5, "full_reward": 3.0, "std": False}),
            ("crbc", {}),
            ("crbc", {"beta": 0.9, "sigma_min": 1e-3}),
            ("crbc", {"depth": 0}),
            ("crbc", {"depth": 1, "sigma_min": 0.05}),
            ("crbc", {"depth": 3}),
        ):
            given_to = arrays(given, action=name == "crbc")
            module = closure if name == "crbc" else graph
            got = getattr(module, name)(*given_to, **penalty, **options)
            wanted = getattr(reference_graph, name)(trajectories, **options)
            np.testing.assert_allclose(
                got,
                twin.padded(wanted, given["valid"]),
                err_msg=f"{name} {options}, seed {seed}",
                **CLOSE,
            )


def test_agrees_with_slow_twin():
    check_against_twin()


@pytest.mark.parametrize(
    ("method", "where", "old", "new"),
    [
        (
            GRAPH,
            GRAPH,
            "gamma**turns.to_end * total",
            "gamma ** (turns.to_end - 1) * total",
        ),
        (GRAPH, GRAPH, "jnp.where(turns.won, total, 0), after)", "total * 0, after)"),
        (GRAPH, GRAPH, "after - turns.penalty, turns.node", "after, turns.node"),
        (
            GRAPH,
            GRAPH,
            "relative(after - node, turns.task",
            "relative(after - node, turns.node",
        ),
        (GRAPH, GRAPH, "(after - now + 1)", "(after - now)"),
        (
            GRAPH,
            GRAPH,
            "largest[task].reshape(now.shape) + 1",
            "largest[task].reshape(now.shape)",
        ),
        (
            GRAPH,
            GRAPH,
            "jnp.where(turns.won > 0, 0, far)",
            "jnp.where(turns.won > 0, 0, 0)",
        ),
        (CRBC, CRBC, "choices >= 2", "choices >= 3"),
        (CRBC, CRBC, "jnp.maximum(sigma, sigma_min)", "(sigma + sigma_min)"),
        (CRBC, CRBC, "return beta * jnp.where", "return jnp.where"),
        (CRBC, CRBC, "(change > 3e-8) & (count < MOST_BACKUPS)", "count < 4"),
        (
            CRBC,
            CRBC,
            "before = backup(value)\n        value = mean(before",
            "value = mean(before",
        ),
        (CRBC, groups, "(b != jnp.roll(b, 1))", "False"),
    ],
)
def test_seeded_faults_are_caught(method, where, old, new):
    wrong = mutated_below(method, where, old, new)
    with pytest.raises(AssertionError, match="Not equal"):
        check_against_twin(**{"graph" if method is GRAPH else "closure": wrong})


def fork():
    """s → a → win; s → b → lose: one task, two trajectories, one choice."""
    return {
        "reward": np.array([[0, 10], [0, 0]], np.float32),
        "valid": np.ones((2, 2), bool),
        "group": np.zeros(2, int),
        "anchor": np.array([[0, 1], [0, 2]]),
        "action": np.array([[0, 2], [1, 3]]),
        "success": np.array([True, False]),
    }


def test_a_fork_by_hand():
    given = fork()
    half = math.sqrt(0.5)  # the z-score of one of two that differ
    episode = 5 / (math.sqrt(4 * 25 / 3) + 1e-6)

    # Closure: V(1) = β, V(2) = 0, Q = β², 0, V(0) = β²/2, σ = β²/2.
    got = crbc(*arrays(given, action=True), weight_group=0.0)
    np.testing.assert_allclose(got, [[5, 0], [-5, 0]], atol=1e-5)
    floored = crbc(*arrays(given, action=True), weight_group=0.0, sigma_min=1.0)
    np.testing.assert_allclose(floored[0, 0], 5 * 0.98**2 / 2, rtol=1e-5)
    both = crbc(*arrays(given, action=True), weight_step=0.0)
    np.testing.assert_allclose(both, np.array([[1, 1], [-1, -1]]) * episode, rtol=1e-5)

    # Distances 2, 1, 0 on the way to success; node 2 and failure are 3 away.
    got = graphgpo(*arrays(given), gamma=0.5, std=False, episode_weight=0.0)
    near, astray = 10 * 0.5**0, 10 * 0.5**2
    np.testing.assert_allclose(
        got, [[(near - astray) / 2, 0], [(astray - near) / 2, 0]], rtol=1e-6
    )

    # V(0) = (γ² 10 + 0)/2, V(1) = γ 10, V(2) = 0; success 10.
    g = 0.95
    values = {0: 5 * g**2, 1: 10 * g, 2: 0.0}
    gains = np.array(
        [[values[1] - values[0], 10 - values[1]], [values[2] - values[0], 0]]
    )
    z = (gains - gains.mean()) / (gains.std(ddof=1) + 1e-6)
    z += [[half, 0], [-half, 0]]
    z += np.array([[1, 1], [-1, -1]]) * episode
    np.testing.assert_allclose(g2po(*arrays(given)), z, rtol=1e-5)


def test_evidence_crosses_rollouts():
    """A rollout that lost passes a node from where others won: closure sees it."""
    given = {
        "reward": np.array([[0, 10], [0, 0], [0, 0]], np.float32),
        "valid": np.ones((3, 2), bool),
        "group": np.zeros(3, int),
        # Two ways from 0: to node 1, from where both outcomes were seen; to node 2.
        "anchor": np.array([[3, 1], [0, 1], [0, 2]]),
        "action": np.array([[0, 1], [2, 1], [3, 4]]),
        "success": np.array([True, False, False]),
    }
    local = crbc(*arrays(given, action=True), weight_group=0.0, depth=0)
    np.testing.assert_allclose(local[1:, 0], 0, atol=1e-6)
    whole = crbc(*arrays(given, action=True), weight_group=0.0)
    assert whole[1, 0] > 1 and whole[2, 0] < -1


def test_a_loop_has_a_value():
    """s → s → s → success: V = β (2 V + 1) / 3, a fixed point far from one backup."""
    valid = np.ones((2, 3), bool)
    given = {
        "reward": np.array([[0, 0, 1], [0, 0, 0]], np.float32),
        "valid": valid,
        "group": np.zeros(2, int),
        "anchor": np.zeros((2, 3), int),
        "action": np.array([[0, 0, 1], [0, 0, 0]]),
        "success": np.array([True, False]),
    }
    beta = 0.98
    value = beta / 6 / (1 - beta * 4 / 6)
    go, stay = beta, beta * 4 / 5 * value
    got = crbc(*arrays(given, action=True), weight_group=0.0, sigma_min=10.0)
    np.testing.assert_allclose(got[0, 2], 5 * (go - value) / 10, rtol=1e-4)
    np.testing.assert_allclose(got[1], 5 * (stay - value) / 10, rtol=1e-4)


def test_without_shared_nodes_closure_is_each_rollouts_own():
    """On a tree nothing crosses: every depth gives what the closure gives."""
    given = fork()
    closure = crbc(*arrays(given, action=True))
    for depth in (0, 1, 2):
        np.testing.assert_allclose(
            crbc(*arrays(given, action=True), depth=depth), closure, atol=1e-5
        )


def test_where_one_action_was_seen_it_is_worth_what_the_state_is():
    """So that asking for two actions only saves rounding: Q = V there anyway."""
    given = fork()
    given["action"] = np.zeros((2, 2), int)
    wrong = mutated(CRBC, "choices >= 2", "choices >= 1")
    got = wrong.crbc(*arrays(given, action=True), weight_group=0.0)
    np.testing.assert_allclose(got, 0.0, atol=1e-5)


def test_a_task_nobody_solves_says_nothing():
    given = fork() | {"success": np.zeros(2, bool), "reward": np.zeros((2, 2))}
    for got in (
        g2po(*arrays(given)),
        graphgpo(*arrays(given)),
        crbc(*arrays(given, action=True)),
    ):
        np.testing.assert_array_equal(got, 0.0)


def test_bad_input_is_named():
    given = fork()
    with pytest.raises(ValueError, match="`success` of shape"):
        g2po(*arrays(given)[:4], np.zeros(3, bool))
    with pytest.raises(ValueError, match="over must be"):
        graphgpo(*arrays(given), over="tokens")
