"""A compiled function counts its programs as jax compiles them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations

from hiper_jax._programs import CountedJit


def scaled(x, *, by):
    return x * by


def test_one_program_per_shape_type_and_static_argument():
    double = CountedJit(scaled, static_argnames="by")
    calls = [
        (jnp.ones(3), 2),
        (jnp.zeros(3), 2),
        (np.ones(3, np.float32), 2),
        (jnp.ones(4), 2),
        (jnp.ones(4, jnp.int32), 2),
        (jnp.ones(3), 3),
    ]
    counts = []
    for x, by in calls:
        np.testing.assert_array_equal(double(x, by=by), x * by)
        counts.append(double.programs())
    assert counts == [1, 1, 1, 2, 3, 4]


def test_the_count_is_xlas():
    counted = CountedJit(lambda x: x + 1)
    inputs = [jnp.ones(n) for n in (2, 3, 2, 5)]
    with compilations() as compiled:
        for x in inputs:
            counted(x)
    assert counted.programs() == len(compiled) == 3


def test_a_partial_keeps_its_functions_name_and_is_lowered():
    double = CountedJit(functools.partial(scaled, by=2))
    text = double.lower(jax.ShapeDtypeStruct((3,), jnp.float32)).as_text()
    assert "@jit_scaled" in text
    assert double.programs() == 1


def test_the_harness_sees_a_second_trace():
    """`chex.assert_max_traces`, which other tests use, fails when it should."""
    once = jax.jit(chex.assert_max_traces(lambda x: x + 1, n=1))
    once(jnp.ones(2))
    with pytest.raises(AssertionError, match="traced > 1 times"):
        once(jnp.ones(3))
