"""A plan-execute process small enough to know everything about.

A state, a subgoal in force, and three decisions a turn: switch or keep, which subgoal
(on a switch, and always at turn 0), which action. Values, the true gradient and both
terms of the variance theorem come from dynamic programming; nothing here is credit.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


class Policy(NamedTuple):
    """Logits of the three decisions: S states, G subgoals, A actions."""

    switch: Array  # [S, G] of SWITCH against KEEP, with a subgoal in force
    plan: Array  # [S, G]
    act: Array  # [S, G, A]


class Process(NamedTuple):
    """A finite-horizon decision process."""

    start: Array  # [S] distribution of the first state
    move: Array  # [S, A, S] transition probabilities
    reward: Array  # [S, A]
    gamma: Array  # [] discount per turn


class Values(NamedTuple):
    """Exact, per turn t = 0..T−1."""

    low: Array  # [T, S, G] given the subgoal in force after the decision
    high: Array  # [T, S] before a new subgoal is drawn
    switch: Array  # [T, S, G] before the switch decision; the subgoal is the old one
    spread: Array  # [T, S] variance of the return after a new subgoal is drawn here
    later: Array  # [T, S, G] E[γ²ⁿ Var(G_b | s_b)] of the next boundary b, n turns on
    flat: Array  # [T, S] E[V_low | s]: a critic that knows no subgoal
    occupied: Array  # [T, S, G] probability of state and subgoal after the decision
    kept: Array  # [T, S] E[V_low | s, the turn keeps], 0 where it cannot


class Trajectories(NamedTuple):
    """M trajectories of T turns, numpy or jax."""

    weight: Any  # [M] probabilities; they sum to 1
    state: Any  # [M, T]
    before: Any  # [M, T] subgoal in force before the turn's decisions, -1 at turn 0
    switch: Any  # [M, T] bool, true at turn 0
    subgoal: Any  # [M, T] after them
    action: Any  # [M, T]


def random_process(
    seed: int, states: int, subgoals: int, actions: int, gamma: float, rate: float
) -> tuple[Process, Policy]:
    """A process and a policy of random logits that switches at about `rate`."""
    rng = np.random.default_rng(seed)
    policy = dict(
        switch=np.log(rate / (1 - rate)) + 0.3 * rng.normal(size=(states, subgoals)),
        plan=rng.normal(size=(states, subgoals)),
        act=1.5 * rng.normal(size=(states, subgoals, actions)),
    )
    process = dict(
        start=rng.dirichlet(np.ones(states)),
        move=rng.dirichlet(np.full(states, 0.5), size=(states, actions)),
        reward=rng.normal(size=(states, actions)),
        gamma=np.asarray(gamma),
    )
    process, policy = jax.tree.map(jnp.asarray, (process, policy))
    return Process(**process), Policy(**policy)


def exact_values(process: Process, policy: Policy, horizon: int) -> Values:
    """All tables, by recursion from the last turn and then from the first."""
    act, plan = jax.nn.softmax(policy.act), jax.nn.softmax(policy.plan)
    beta = jax.nn.sigmoid(policy.switch)
    S, G = plan.shape
    chances = {"process": process, "act": act, "plan": plan, "beta": beta}
    flat, table = jnp.zeros(S), jnp.zeros((S, G))
    _, (low, high, switch, spread, later) = lax.scan(
        functools.partial(_backwards, **chances),
        (flat, table, flat, table, table),
        None,
        horizon,
        reverse=True,
    )
    _, (occupied, keeps) = lax.scan(
        functools.partial(_forwards, **chances),
        (process.start, table),
        jnp.arange(horizon),
    )
    flat, kept = _mean(low, occupied), _mean(low, keeps)
    return Values(low, high, switch, spread, later, flat, occupied, kept)


def _backwards(after, _, *, process: Process, act: Array, plan: Array, beta: Array):
    """One turn earlier: values, second moments and noise to come, [S] or [S, G]."""
    gamma = process.gamma
    high, low, square_high, square_low, later = after
    # Before the next turn's decision, with subgoal g in force: [S, G].
    value = beta * high[:, None] + (1 - beta) * low
    square = beta * square_high[:, None] + (1 - beta) * square_low
    spread = square_high - high**2
    noise = gamma**2 * (beta * spread[:, None] + (1 - beta) * later)
    ahead = jnp.einsum("sat,tg->sga", process.move, value)
    ahead_square = jnp.einsum("sat,tg->sga", process.move, square)
    ahead_noise = jnp.einsum("sat,tg->sga", process.move, noise)
    r = process.reward[:, None, :]
    low = jnp.sum(act * (r + gamma * ahead), axis=-1)
    second = r**2 + 2 * r * gamma * ahead + gamma**2 * ahead_square
    square_low = jnp.sum(act * second, axis=-1)
    later = jnp.sum(act * ahead_noise, axis=-1)
    high = jnp.sum(plan * low, axis=-1)
    square_high = jnp.sum(plan * square_low, axis=-1)
    now = (high, low, square_high, square_low, later)
    switch = beta * high[:, None] + (1 - beta) * low
    return now, (low, high, switch, square_high - high**2, later)


def _forwards(arrives, _, *, process: Process, act: Array, plan: Array, beta: Array):
    """One turn later: where the policy is, and where it keeps its subgoal, [S, G]."""
    state, in_force = arrives  # [S]: must draw a subgoal; [S, G]: may keep
    keeps = in_force * (1 - beta)
    draws = state + jnp.sum(in_force * beta, axis=1)
    occupied = keeps + draws[:, None] * plan
    moved = jnp.einsum("sg,sga,sat->tg", occupied, act, process.move)
    return (jnp.zeros_like(state), moved), (occupied, keeps)


def _mean(x: Array, weight: Array) -> Array:
    """Mean of x over the last axis; 0 where nothing has weight."""
    total = weight.sum(axis=-1)
    return (weight * x).sum(axis=-1) / jnp.where(total > 0, total, 1)


def objective(process: Process, policy: Policy, horizon: int) -> Array:
    """[] expected discounted return."""
    return jnp.dot(process.start, exact_values(process, policy, horizon).high[0])


def variance_terms(process: Process, values: Values) -> tuple[Array, Array]:
    """[T] both right-hand terms of the theorem, for the decision at each turn."""
    after_boundary = jnp.sum(values.occupied * values.later, axis=(1, 2))
    deviation = (values.low - values.flat[..., None]) ** 2
    return after_boundary, jnp.sum(values.occupied * deviation, axis=(1, 2))


def enumerate_all(process: Process, policy: Policy, horizon: int) -> Trajectories:
    """Every trajectory with its probability."""
    act, plan = np.asarray(jax.nn.softmax(policy.act)), jax.nn.softmax(policy.plan)
    plan, beta = np.asarray(plan), np.asarray(jax.nn.sigmoid(policy.switch))
    start, move = np.asarray(process.start), np.asarray(process.move)
    (S, G), A = plan.shape, act.shape[-1]
    rows = [((s,), (-1,), (), (), (), start[s]) for s in range(S)]
    for turn in range(horizon):
        grown = []
        for state, before, switch, subgoal, action, weight in rows:
            s, old = state[-1], before[-1]
            chance = 1.0 if turn == 0 else beta[s, old]
            choices = [(True, g, chance * plan[s, g]) for g in range(G)]
            choices += [(False, old, 1 - chance)] * (turn > 0)
            for q, g, p in choices:
                for a in range(A):
                    done = (switch + (q,), subgoal + (g,), action + (a,))
                    p_act = weight * p * act[s, g, a]
                    if turn == horizon - 1:
                        grown.append((state, before, *done, p_act))
                        continue
                    grown += [
                        (state + (n,), before + (g,), *done, p_act * move[s, a, n])
                        for n in range(S)
                    ]
        rows = grown
    state, before, switch, subgoal, action, weight = map(
        np.array, zip(*rows, strict=True)
    )
    return Trajectories(weight, state, before, switch, subgoal, action)


def sample(
    key: Array, process: Process, policy: Policy, horizon: int, count: int
) -> Trajectories:
    """`count` independent trajectories of equal weight."""
    start_key, walk_key = jax.random.split(key)

    def turn(carry, inputs):
        state, before = carry
        key, first = inputs
        switch_key, plan_key, act_key, move_key = jax.random.split(key, 4)
        said = jax.random.bernoulli(
            switch_key, jax.nn.sigmoid(policy.switch[state, before])
        )
        switch = said | first
        drawn = jax.random.categorical(plan_key, policy.plan[state])
        subgoal = jnp.where(switch, drawn, before)
        action = jax.random.categorical(act_key, policy.act[state, subgoal])
        following = jax.random.categorical(
            move_key, jnp.log(process.move[state, action])
        )
        return (following, subgoal), (
            state,
            jnp.where(first, -1, before),
            switch,
            subgoal,
            action,
        )

    keys = jax.random.split(walk_key, horizon)
    state = jax.random.categorical(start_key, jnp.log(process.start), shape=(count,))
    first = jnp.arange(horizon) == 0
    _, turns = lax.scan(turn, (state, jnp.zeros_like(state)), (keys, first))
    return Trajectories(jnp.full(count, 1 / count), *(x.T for x in turns))


def true_gradient(process: Process, policy: Policy, horizon: int) -> Array:
    """[P] gradient of the objective, through the dynamic program."""
    by_policy = jax.grad(lambda p: objective(process, p, horizon))(policy)
    return jnp.concatenate([x.reshape(-1) for x in by_policy])
