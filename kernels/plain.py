"""The recurrence x_t = a_t x_{t+1} + b_t in plain jax: in steps, and in parallel."""

import jax
import jax.numpy as jnp
from jax import lax


def by_scan(coefficient, offset):
    """The plain twin: one reverse `lax.scan`, one carry part per recurrence."""

    def step(after, now):
        a, b = now
        here = jax.tree.map(lambda a, x, b: a * x + b, a, after, b)
        return here, here

    end = jax.tree.map(lambda b: jnp.zeros_like(b[0]), offset)
    _, x = lax.scan(step, end, (coefficient, offset), reverse=True)
    return x


def by_associative_scan(coefficient, offset):
    """(a, b) ∘ (a′, b′) = (a a′, a b′ + b): log T steps, each over all of T."""
    return jax.tree.map(_solve, coefficient, offset)


def _solve(a, b):
    return lax.associative_scan(_compose, (a, b), reverse=True)[1]


def _compose(later, earlier):
    (a_later, b_later), (a, b) = later, earlier
    return a * a_later, a * b_later + b
