"""What a step of a loop takes from memory: by hand, and of compiled loops."""

import jax
import jax.numpy as jnp
import pytest

from hiper_jax.experiments.capacity import reads

# As a TPU's program is written: S(1) is memory beside the arithmetic.
TEXT = """HloModule program

%fused.1 (a: bf16[64,8], i: s32[]) -> bf16[1,8] {
  %a = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %take = bf16[1,8]{1,0} dynamic-slice(%a, %i, %zero), dynamic_slice_sizes={1,8}
}

%fused.2 (c: f32[16,4], u: f32[1,4], j: s32[]) -> f32[16,4] {
  %c = f32[16,4]{1,0:T(8,128)} parameter(0)
  %u = f32[1,4]{1,0:T(8,128)S(1)} parameter(1)
  %j = s32[]{:T(128)S(1)} parameter(2)
  %none = s32[]{:T(128)} constant(0)
  ROOT %put = f32[16,4]{1,0:T(8,128)} dynamic-update-slice(%c, %u, %j, %none)
}

%body (p: (s32[], bf16[64,8], f32[16,4], f32[32,32])) -> (s32[], bf16[64,8]) {
  %p = (s32[]{:T(128)S(1)}, bf16[64,8]{1,0}, f32[16,4]{1,0}) parameter(0)
  %n = s32[]{:T(128)S(1)} get-tuple-element(%p), index=0
  %table = bf16[64,8]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %cache = f32[16,4]{1,0:T(8,128)} get-tuple-element(%p), index=2
  %w = f32[32,32]{1,0:T(8,128)} get-tuple-element(%p), index=3
  %row = bf16[1,8]{1,0:T(8,128)(2,1)S(1)} fusion(%table, %n), calls=%fused.1
  %go = ((f32[32,32]{1,0}), f32[16,32]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%w)
  %half = f32[16,32]{1,0:T(8,128)S(1)} slice-done(%go)
  %new = f32[1,4]{1,0:T(8,128)S(1)} fusion(%row, %half), calls=%fused.3
  %kept = f32[16,4]{1,0:T(8,128)} fusion(%cache, %new, %n), calls=%fused.2
  ROOT %out = (s32[], bf16[64,8]) tuple(%n, %table)
}

%test (q: (s32[], bf16[64,8])) -> pred[] {
  %q = (s32[]{:T(128)}, bf16[64,8]{1,0}) parameter(0)
  ROOT %more = pred[]{:T(512)} constant(true)
}

ENTRY %main (x: s32[]) -> s32[] {
  %x = s32[]{:T(128)} parameter(0)
  %loop = (s32[], bf16[64,8]) while(%x), condition=%test, body=%body
  ROOT %y = s32[]{:T(128)} get-tuple-element(%loop), index=0
}
"""


def test_parts_count_as_parts_and_near_memory_not_at_all():
    a_row, half, one_update = 1 * 8 * 2, 16 * 32 * 4, 1 * 4 * 4
    assert reads.of_loop(TEXT) == a_row + half + 2 * one_update


def test_what_lies_in_memory_counts_whole():
    near = "f32[16,32]{1,0:T(8,128)S(1)} slice-done"
    far = TEXT.replace(
        "S(1)}, s32[]{:S(2)}) slice-start", "}, s32[]{:S(2)}) slice-start"
    )
    far = far.replace(near, near.replace("S(1)", ""))
    assert reads.of_loop(far) - reads.of_loop(TEXT) == 2 * 16 * 32 * 4


def test_a_program_without_a_loop_is_named():
    with pytest.raises(ValueError, match="no loop"):
        reads.of_loop(TEXT.replace("body=%body", "tail=%body"))


@pytest.mark.parametrize("whole", [False, True])
def test_of_a_compiled_loop_weights_count_and_a_cache_where_it_is_read(whole):
    def step(carry):
        i, x, cache, w = carry
        x = jnp.tanh(x @ w)
        cache = jax.lax.dynamic_update_slice_in_dim(cache, x, i, 0)
        if whole:
            x = x + (cache @ w).max(axis=0, keepdims=True)
        return i + 1, x, cache, w

    def loop(x, cache, w):
        return jax.lax.while_loop(
            lambda carry: carry[0] < 50, step, (jnp.int32(0), x, cache, w)
        )

    shapes = [
        jax.ShapeDtypeStruct(s, "float32") for s in ((1, 256), (512, 256), (256, 256))
    ]
    text = jax.jit(loop).lower(*shapes).compile().as_text()
    w, cache = 4 * 256 * 256, 4 * 512 * 256
    counted = reads.of_loop(text)
    if whole:
        assert counted > 2 * w + cache
    else:
        assert w < counted < 1.1 * w
