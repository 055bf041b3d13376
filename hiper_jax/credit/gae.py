"""Generalised advantage estimation over turns: the flat baseline of HAE."""

import jax.numpy as jnp
from jax import Array

from hiper_jax.credit.common.arrays import end_value, one_trajectory, run_ends
from hiper_jax.kernels.segmented_scan import reverse_affine_scan


def gae(
    reward: Array,
    terminated: Array,
    valid: Array,
    value: Array,
    *,
    gamma: float | Array = 1.0,
    lambda_: float = 1.0,
    bootstrap: str = "none",
    value_next: Array | None = None,
    implementation: str = "auto",
) -> tuple[Array, Array]:
    """Estimates one advantage per turn of one trajectory.

        δₜ = rₜ + γ (1 − doneₜ) Vₜ₊₁ − Vₜ
        Aₜ = δₜ + γ λ (1 − doneₜ) Aₜ₊₁
        Rₜ = Aₜ + Vₜ

    After the last turn, V is 0 (`bootstrap="none"`), the last turn's own value
    ("same_state") or `value_next` ("next_state"), unless that turn terminated.

    Args:
      reward: [T] rewards.
      terminated: [T] true where the episode ended for good at this turn.
      valid: [T] true on real turns, one run of them; the rest is padding.
      value: [T] critic's value of the state before each turn.
      gamma: discount per turn.
      lambda_: trace decay; 1 is Monte-Carlo.
      bootstrap: "none", "same_state" or "next_state".
      value_next: [] value after the last turn, for "next_state"; [T] is read there.
      implementation: as in `reverse_affine_scan`.

    Returns:
      ([T] advantages, [T] returns), zero on padding. Gradients flow into the values;
      stop them in the loss.

    Raises:
      ValueError: shapes differ, there is no turn, or `bootstrap` is unknown or lacks
        its value.

    Source: Schulman et al., arXiv 1506.02438, equations 16 to 18.
    """
    reward, terminated, valid, value = one_trajectory(
        "gae", reward=reward, terminated=terminated, valid=valid, value=value
    )
    kind = jnp.result_type(reward, value, 0.0)
    dtype = jnp.promote_types(kind, jnp.float32)  # what is summed up must not round
    valid = valid.astype(bool)
    reward = jnp.where(valid, reward, 0).astype(dtype)
    value = jnp.where(valid, value, 0).astype(dtype)
    goes_on = (valid & ~terminated.astype(bool)).astype(dtype)
    _, last = run_ends(valid)

    after = jnp.roll(value, -1)
    value_after = jnp.where(last, end_value(bootstrap, value_next, value, dtype), after)
    delta = reward + gamma * goes_on * value_after - value
    trace = gamma * lambda_ * goes_on * ~last
    advantage = reverse_affine_scan(trace, delta, implementation=implementation)
    return advantage.astype(kind), (advantage + value).astype(kind)
