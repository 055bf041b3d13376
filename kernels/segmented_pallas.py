"""The recurrence x_t = a_t x_{t+1} + b_t as a Pallas kernel for TPUs.

On a CPU the kernel is interpreted, so that it can be tested. A GPU takes the
associative scan instead: jax 0.12 deprecates Pallas' Triton backend, and the kernel was
never run on a card that its successor is for.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl

from hiper_jax.kernels.plain import by_associative_scan

ROWS = 64  # steps one program walks
COLUMNS = 128  # recurrences one program carries: a vector register row on TPU


def by_kernel(coefficient, offset):
    """Pallas: every recurrence, of every trajectory of the batch, is a column."""
    a, tree = jax.tree.flatten(coefficient)
    b = jax.tree.leaves(offset)
    x = _kernel_scan(jnp.stack(a, axis=1), jnp.stack(b, axis=1))
    return jax.tree.unflatten(tree, [x[:, k] for k in range(len(a))])


@jax.custom_vjp
def _kernel_scan(a: Array, b: Array) -> Array:
    """[T, C] columns solved by the kernel; a batch axis becomes more columns."""
    return _solve(a, b)


def _forward(a: Array, b: Array):
    x = _solve(a, b)
    return x, (a, x)


def _backward(saved, g: Array):
    # λ_t = g_t + a_{t-1} λ_{t-1} runs forwards: the same kernel on the reversed axis.
    a, x = saved
    before = jnp.concatenate([jnp.zeros_like(a[:1]), a[:-1]])
    adjoint = _solve(before[::-1], g[::-1])[::-1]
    after = jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])
    return adjoint * after, adjoint


_kernel_scan.defvjp(_forward, _backward)


@custom_vmap
def _solve(a: Array, b: Array) -> Array:
    return solve_columns(a, b)


@_solve.def_vmap
def _solve_batch(size, in_batched, a: Array, b: Array):
    a, b = (
        x if batched else jnp.broadcast_to(x, (size, *x.shape))
        for x, batched in zip((a, b), in_batched, strict=True)
    )
    B, T, C = a.shape
    x = _solve(*(jnp.moveaxis(y, 0, 1).reshape(T, B * C) for y in (a, b)))
    return jnp.moveaxis(x.reshape(T, B, C), 1, 0), True


def solve_columns(a: Array, b: Array) -> Array:
    """[T, C] columns: by chunks where the kernel runs, else by associative scan."""
    return lax.platform_dependent(
        a,
        b,
        cpu=functools.partial(solve_by_chunks, interpret=True),
        tpu=solve_by_chunks,
        default=by_associative_scan,
    )


def solve_by_chunks(a: Array, b: Array, *, interpret: bool = False) -> Array:
    """[T, C] columns: the kernel on chunks of steps, then the chunks' carries.

    Each chunk is solved from zero, together with the product of its coefficients from
    each step to its end; with y the chunk's first solution after it, x + product · y is
    the solution. So T is walked in T / ROWS parallel programs.
    """
    T, C = a.shape
    pad = ((0, -T % ROWS), (0, -C % COLUMNS))
    padded = jnp.pad(a, pad), jnp.pad(b, pad)
    local, product = chunk_kernel(*padded, interpret=interpret)
    chunks = (-1, ROWS, padded[0].shape[1])
    local, product = local.reshape(chunks), product.reshape(chunks)
    first = by_associative_scan(product[:, 0], local[:, 0])
    enters = jnp.concatenate([first[1:], jnp.zeros_like(first[:1])])
    x = local + product * enters[:, None]
    return x.reshape(padded[0].shape)[:T, :C]


def chunk_kernel(a: Array, b: Array, *, interpret: bool = False) -> tuple[Array, Array]:
    """Solves every chunk of ROWS steps from zero.

    Args:
      a: [T, C] coefficients, T a multiple of ROWS, C of COLUMNS.
      b: [T, C] offsets.
      interpret: run the kernel as plain operations.

    Returns:
      [T, C] solutions, [T, C] products of a from each step to its chunk's end.
    """
    tile = pl.BlockSpec((ROWS, COLUMNS), lambda i, j: (i, j))
    shape = jax.ShapeDtypeStruct(a.shape, a.dtype)
    return pl.pallas_call(
        _walk,
        grid=(a.shape[0] // ROWS, a.shape[1] // COLUMNS),
        in_specs=[tile, tile],
        out_specs=[tile, tile],
        out_shape=[shape, shape],
        interpret=interpret,
        name="segmented_scan",
    )(a, b)


def _walk(a_ref, b_ref, x_ref, product_ref):
    last = ROWS - 1
    x, product = b_ref[last, :], a_ref[last, :]
    x_ref[last, :], product_ref[last, :] = x, product

    def step(i, carry):
        x, product = carry
        t = ROWS - 2 - i
        a = a_ref[t, :]
        x, product = a * x + b_ref[t, :], a * product
        x_ref[t, :], product_ref[t, :] = x, product
        return x, product

    lax.fori_loop(0, last, step, (x, product))
