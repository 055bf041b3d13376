"""Credit of every decision by each estimator, and the gradients that follow from it."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from hiper_jax.credit import boundaries, gae, hae
from hiper_jax.experiments.variance.tabular import (
    Policy,
    Process,
    Trajectories,
    Values,
)


def advantages(
    process: Process,
    values: Values,
    paths: Trajectories,
    *,
    lambda_: float,
    lambda_segment: float,
    lambda_boundary: float = 0.0,
) -> dict[str, tuple[Array, Array, Array]]:
    """Credit of the three decisions of every turn, [M, T] each, per estimator.

    hae          exact V_low, V_high, V_switch
    gae_turn     GAE over turns with a critic that knows the state only
    gae_token    GAE over the decisions in order, λ^(1/3) from one to the next; its
                 critic reads the turn's decisions so far, but of the subgoal in force
                 only what they say
    monte_carlo  return from here on, less its mean at this turn: no critic
    """
    turn = jnp.arange(paths.state.shape[1])[None, :]
    reward = process.reward[paths.state, paths.action]
    done = jnp.broadcast_to(turn == turn[0, -1], reward.shape)
    real = jnp.ones_like(done)
    low = values.low[turn, paths.state, paths.subgoal]
    high = values.high[turn, paths.state]
    waits = jnp.where(turn == 0, high, values.switch[turn, paths.state, paths.before])
    flat = values.flat[turn, paths.state]

    estimate = jax.vmap(
        lambda *a: hae(
            *a,
            gamma=process.gamma,
            lambda_turn=lambda_,
            lambda_segment=lambda_segment,
            lambda_boundary=lambda_boundary,
        )
    )(reward, done, real, paths.switch, low, high, waits)
    by_turn, _ = jax.vmap(lambda *a: gae(*a, gamma=process.gamma, lambda_=lambda_))(
        reward, done, real, flat
    )
    _, to_go = jax.vmap(lambda *a: gae(*a, gamma=process.gamma))(
        reward, done, real, flat
    )
    above_mean = to_go - paths.weight[None, :] @ to_go
    by_token = _token_gae(
        process, values, paths, reward, low, high, flat, lambda_ ** (1 / 3)
    )
    return {
        "hae": estimate[:3],
        "gae_turn": (by_turn, by_turn, by_turn),
        "gae_token": by_token,
        "monte_carlo": (above_mean, above_mean, above_mean),
    }


def _token_gae(process, values, paths, reward, low, high, flat, lambda_):
    """Three tokens a turn: switch, subgoal, action; γ per turn, λ per token."""
    M, T = reward.shape
    turn = jnp.arange(T)[None, :]
    # Scaling rewards and values of turn t by γᵗ leaves γ = 1 between tokens.
    scale = process.gamma**turn
    after_switch = jnp.where(paths.switch, high, values.kept[turn, paths.state])
    value = jnp.stack([flat, after_switch, low], axis=-1) * scale[..., None]
    rewards = jnp.stack([jnp.zeros_like(reward)] * 2 + [reward], -1) * scale[..., None]
    shape = (M, 3 * T)
    done = jnp.broadcast_to(jnp.arange(3 * T)[None, :] == 3 * T - 1, shape)
    advantage, _ = jax.vmap(lambda *a: gae(*a, lambda_=lambda_))(
        rewards.reshape(shape), done, jnp.ones_like(done), value.reshape(shape)
    )
    advantage = advantage.reshape(M, T, 3) / scale[..., None]
    return advantage[..., 2], advantage[..., 1], advantage[..., 0]


def gradients(process: Process, policy: Policy, paths: Trajectories, credit) -> Array:
    """[M, P] each trajectory's estimate of the gradient by the policy's logits.

    Σₜ γᵗ [ A_low ∇log π(aₜ) + bₜ A_high ∇log π(gₜ) + A_switch ∇log π(qₜ) ], where the
    switch decides nothing at turn 0.
    """
    (S, G), A = policy.plan.shape, policy.act.shape[-1]
    turn = jnp.arange(paths.state.shape[1])[None, :]
    real = jnp.ones_like(paths.switch)
    starts = jax.vmap(boundaries)(paths.switch, real)
    low, high, switch = (process.gamma**turn * a for a in credit)
    high, switch = high * starts, switch * (turn > 0)
    old = jnp.maximum(paths.before, 0)

    one_hot = functools.partial(jax.nn.one_hot, dtype=low.dtype)
    at_state = one_hot(paths.state, S)
    act_score = (
        one_hot(paths.action, A)
        - jax.nn.softmax(policy.act)[paths.state, paths.subgoal]
    )
    plan_score = one_hot(paths.subgoal, G) - jax.nn.softmax(policy.plan)[paths.state]
    switch_score = paths.switch - jax.nn.sigmoid(policy.switch)[paths.state, old]
    by_switch = jnp.einsum(
        "mt,mts,mtg->msg", switch * switch_score, at_state, one_hot(old, G)
    )
    by_plan = jnp.einsum("mt,mts,mtg->msg", high, at_state, plan_score)
    by_act = jnp.einsum(
        "mt,mts,mtg,mta->msga", low, at_state, one_hot(paths.subgoal, G), act_score
    )
    M = low.shape[0]
    return jnp.concatenate([x.reshape(M, -1) for x in (by_switch, by_plan, by_act)], 1)
