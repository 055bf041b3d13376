"""The bench against the device's limits: it runs on a CPU, and its FLOPs are XLA's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiper_jax import lm
from hiper_jax.experiments.bench import batch as bench_batch
from hiper_jax.experiments.bench import ceiling, models, update_sides

SMALL = lm.tiny(64, width=32, depth=2, num_heads=2, num_kv_heads=1, head_dim=16)


def test_flops_of_a_forward_pass_are_those_that_the_compiler_counts():
    """XLA computes the whole square of the causal attention, we count half of it."""
    n = 64
    params = jax.eval_shape(lambda: lm.init(SMALL, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((1, n), jnp.int32)
    # Unrolled: XLA counts a loop's body once.
    once = jax.jit(lambda p, t: lm.forward(lm.unstack_layers(p), SMALL, t))
    costs = once.lower(params, tokens).compile().cost_analysis()
    assert costs is not None
    counted = costs["flops"]
    ours = ceiling.forward_flops(SMALL, np.array([n]))
    square = 2.0 * SMALL.depth * SMALL.num_heads * SMALL.head_dim * n**2
    assert ours + square == pytest.approx(counted, rel=0.15)


def test_one_command_prints_each_ratio_beside_what_is_wanted(
    tmp_path, capsys, monkeypatch
):
    for module in (bench_batch, update_sides):
        monkeypatch.setattr(module, "published", lambda scale: (64, 16, (80,)))
    monkeypatch.setitem(models.MODELS, "tiny", SMALL)
    flags = ceiling.Ceiling(
        slots=8, new=4, scale=32, episodes=2, turns=2, rounds=1, out=str(tmp_path)
    )
    result = ceiling.main(flags)
    saved = json.loads((tmp_path / "bench_ceiling.json").read_text())
    assert saved["G1"] == result["G1"] > 0 and saved["G9"] > 0
    assert saved["turn"]["decode bytes"] > 4 * lm.num_params(SMALL)
    shown = capsys.readouterr().out
    assert "| G1 | update over matmul ceiling, tiny |" in shown
    assert "| G9 | turn with 2 of 8 live over a full one |" in shown
    assert "at most 0.45" in shown
