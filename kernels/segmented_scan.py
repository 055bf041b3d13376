"""The recurrence under every estimator here: x_t = a_t x_{t+1} + b_t, backwards.

A zero in `a` cuts the recurrence, so one scan serves many segments. Three ways to the
same numbers: `lax.scan` (the plain twin), an associative scan, and, on TPUs, a Pallas
kernel.

Timing on the device at hand: `python -m hiper_jax.kernels.segmented_scan`.
"""

import functools
import time
from typing import Any

import chex
import jax
from jax import lax

from hiper_jax.kernels.plain import by_associative_scan, by_scan
from hiper_jax.kernels.segmented_pallas import by_kernel

IMPLEMENTATIONS = {
    "scan": by_scan,
    "associative": by_associative_scan,
    "kernel": by_kernel,
}


def reverse_affine_scan(
    coefficient: Any, offset: Any, *, implementation: str = "auto"
) -> Any:
    """Solves x_t = a_t x_{t+1} + b_t along the leading axis, from x_T = 0 down.

    Args:
      coefficient: [T] a, or a tuple of such arrays, each its own recurrence.
      offset: [T] b, shaped as `coefficient`.
      implementation: "scan" (one lax.scan, the carry has a part per recurrence),
        "associative" (log T parallel steps), "kernel" (Pallas on a TPU; interpreted on
        a CPU, "associative" on a GPU), or "auto": "scan" on CPU, "associative"
        elsewhere.

    Returns:
      [T] x, or a tuple of such arrays; the numbers agree to rounding.

    Raises:
      ValueError: unknown implementation.
    """
    chex.assert_trees_all_equal_shapes(coefficient, offset)
    if implementation == "auto":
        return _by_platform(coefficient, offset)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f'implementation must be "auto" or one of {sorted(IMPLEMENTATIONS)}, '
            f"but it is {implementation!r}."
        )
    return IMPLEMENTATIONS[implementation](coefficient, offset)


@jax.jit  # so that calls outside of any jit are compiled once
def _by_platform(coefficient, offset):
    return lax.platform_dependent(
        coefficient, offset, cpu=by_scan, default=by_associative_scan
    )


def main(rows: int = 128, lengths: tuple[int, ...] = (50, 512, 16384)) -> None:
    """Prints milliseconds per call of each implementation on this device."""
    for length in lengths:
        key = jax.random.key(0)
        a, b = jax.random.uniform(key, (2, 3, rows, length))
        line = f"{jax.default_backend()} [{rows}, {length}] x 3:"
        for name in ("scan", "associative", "kernel"):
            if name == "kernel" and jax.default_backend() != "tpu":
                continue
            solve = jax.jit(
                jax.vmap(
                    functools.partial(reverse_affine_scan, implementation=name),
                )
            )
            arguments = tuple(a), tuple(b)
            jax.block_until_ready(solve(*arguments))
            seconds = []
            for _ in range(20):
                begin = time.perf_counter()
                jax.block_until_ready(solve(*arguments))
                seconds.append(time.perf_counter() - begin)
            line += f"  {name} {1e3 * sorted(seconds)[10]:.3f} ms"
        print(line)


if __name__ == "__main__":
    main()
