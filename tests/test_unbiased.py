"""Which credit a token ahead of V_low's read may carry, by exact enumeration.

Every turn says three tokens, each of two: u before V_low is read, v after it, and then
the action a. Every trajectory of the process goes through HiPER's estimator with exact
critics; the mean of its gradient is compared with that of the objective.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiper_jax.act.stack import Batch
from hiper_jax.credit import hiper

TURNS, TOKENS = 2, 3


def process(seed=0):
    """Logits of u [S], v [S, u], a [S, u, v]; rewards and moves of [S, u, v, a]."""
    rng = np.random.default_rng(seed)
    S = (2,)
    logits = [rng.normal(size=S + (2,) * k) for k in (1, 2, 3)]
    reward = rng.normal(size=S + (2,) * 3)
    move = rng.dirichlet(np.ones(2), size=S + (2,) * 3)
    return [jnp.asarray(x) for x in logits], reward, move, rng.dirichlet(np.ones(2))


def values(logits, reward, move):
    """Before u, V_switch [T, S], and before v, V_low [T, S, u], from the last turn."""
    of_u, of_v, of_a = (jax.nn.softmax(x) for x in logits)
    after, waits, low = jnp.zeros(2), [], []
    for _ in range(TURNS):
        worth = reward + move @ after
        here = ((worth * of_a).sum(-1) * of_v).sum(-1)
        after = (here * of_u).sum(-1)
        waits, low = [after, *waits], [here, *low]
    return jnp.stack(waits), jnp.stack(low)


def every_trajectory(logits, move, start):
    """Weight [M], states [M, T] and tokens [M, T, 3]."""
    of = [np.asarray(jax.nn.softmax(x)) for x in logits]
    rows = [((s,), (), start[s]) for s in range(2)]
    for turn in range(TURNS):
        grown = []
        for states, said, weight in rows:
            for u, v, a in itertools.product((0, 1), repeat=3):
                s = states[-1]
                p = weight * of[0][s, u] * of[1][s, u, v] * of[2][s, u, v, a]
                tokens = (*said, (u, v, a))
                if turn == TURNS - 1:
                    grown.append((states, tokens, p))
                else:
                    grown += [
                        ((*states, n), tokens, p * move[s, u, v, a, n]) for n in (0, 1)
                    ]
        rows = grown
    states, tokens, weight = map(np.array, zip(*rows, strict=True))
    return weight, states, tokens


def as_batch(states, tokens, reward, *, u_is):
    """One row a turn; u is loose (the action's credit) or the subgoal block."""
    M, T = states.shape
    N, every = M * T, np.ones((M, T), bool)
    s, said = states.reshape(N), tokens.reshape(N, TOKENS)
    place = np.broadcast_to(np.arange(TOKENS), (N, TOKENS))
    subgoal = (place == 0) & (u_is == "subgoal")
    action = ~subgoal
    turn = np.broadcast_to(np.arange(T), (M, T))
    paid = reward[(s, *said.T)].reshape(M, T)
    return Batch(
        tokens=said,
        start=np.zeros(N, int),
        length=np.full(N, TOKENS),
        response=said,
        response_mask=place >= 0,
        old_log_prob=np.zeros((N, TOKENS)),
        action_mask=action,
        subgoal_mask=subgoal,
        switch_mask=place < 0,
        value_low_at=np.ones(N, int),
        is_turn=np.ones(N, bool),
        num_rows=N,
        num_turns=N,
        row=np.arange(N).reshape(M, T),
        next_row=np.full(M, -1),
        valid=every,
        said_switch=turn == 0,
        segment=np.zeros((M, T), np.int32),
        reward=paid,
        terminated=turn == T - 1,
        format_valid=every,
        action_valid=every,
        subgoal_id=np.zeros((M, T), int),
        has_action=every,
        has_subgoal=subgoal.any(axis=1).reshape(M, T),
        has_switch=every & False,
        group=np.zeros(M, int),
        anchor=np.zeros((M, T), int),
        action=np.zeros((M, T), int),
        won=np.zeros(M, bool),
    )


@functools.cache
def errors(u_is, **options):
    """|Mean gradient − true gradient| of each decision at most, and the truth of u."""
    with jax.enable_x64(True):
        logits, reward, move, start = process()
        weight, states, tokens = every_trajectory(logits, move, start)
        waits, low = values(logits, reward, move)
        batch = as_batch(states, tokens, reward, u_is=u_is)
        turn = np.arange(TURNS)[None]
        before = waits[turn, states].reshape(-1)
        inside = low[turn, states, tokens[..., 0]].reshape(-1)
        settings = hiper.Settings(
            normalize=False, lambda_segment=1.0, bootstrap="none", **options
        )
        credit = hiper.assign_credit(
            jax.tree.map(jnp.asarray, batch),
            jnp.stack([before, inside, before], axis=-1),
            settings,
        )
        advantage = np.asarray(credit.advantage).reshape(*states.shape, TOKENS)

        def surrogate(logits):
            u, v, a = (tokens[..., k] for k in range(TOKENS))
            of = [jax.nn.log_softmax(x) for x in logits]
            said = of[0][states, u], of[1][states, u, v], of[2][states, u, v, a]
            each = sum(advantage[..., k] * said[k] for k in range(TOKENS))
            return weight @ each.sum(axis=1)

        got = jax.grad(surrogate)(logits)
        true = jax.grad(lambda x: start @ values(x, reward, move)[0][0])(logits)
        wrong = [float(jnp.abs(g - t).max()) for g, t in zip(got, true, strict=True)]
        size = [float(jnp.abs(g).max()) for g in got]
        return wrong, size, float(jnp.abs(true[0]).max())


def test_a_loose_token_ahead_of_v_low_learns_nothing_from_a_low():
    wrong, size, truth = errors("loose")
    assert truth > 0.04 and size[0] < 1e-15 and wrong[0] == pytest.approx(truth)
    assert max(wrong[1:]) < 1e-15  # what stands after the read is right


def test_with_a_switch_it_learns_what_is_true():
    wrong, _, _ = errors("loose", switch_on_loose=True)
    assert max(wrong) < 1e-15


def test_a_subgoal_rewritten_while_kept_learns_nothing_as_published():
    """At the first turn it is A_high's; at the second, which keeps, nobody's."""
    wrong, _, _ = errors("subgoal")
    assert wrong[0] > 0.02 and max(wrong[1:]) < 1e-15


def test_with_switch_on_kept_it_learns_what_is_true():
    wrong, _, _ = errors("subgoal", switch_on_kept=True)
    assert max(wrong) < 1e-15
