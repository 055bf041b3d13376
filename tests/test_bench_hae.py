"""The benchmark compares equal things: the plain stage gives our numbers."""

import json

import numpy as np

from hiper_jax.act.spans import token_masks
from hiper_jax.experiments.bench import hae as bench_hae
from hiper_jax.experiments.bench import hae_inputs, plain_hae


def test_plain_loops_give_our_numbers():
    turns = hae_inputs.random_turns(3, 7)
    ours = bench_hae.our_hae(turns)
    for call in plain_hae.per_turn(turns, bench_hae.RATES).values():
        for name, wanted, got in zip(ours._fields, ours, call(), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4, err_msg=name)


def test_plain_tokens_give_our_numbers():
    tokenizer = hae_inputs.small_tokenizer()
    tokens, mask = hae_inputs.tokenized(tokenizer, 12, 64)
    turn_index = np.tile(np.arange(4), 3)
    masks = token_masks(tokens, mask, turn_index, tokenizer, mode="paper")
    plain = plain_hae.decoded_masks(tokens, mask, turn_index, tokenizer)
    for name, wanted in plain.items():
        np.testing.assert_array_equal(getattr(masks, name), wanted, err_msg=name)
    turns = hae_inputs.random_turns(3, 4)
    turns = turns._replace(switch=masks.is_switch.reshape(3, 4))
    values = np.random.default_rng(0).normal(size=(3, 12, 64)).astype(np.float32)
    total, carries, returns = bench_hae.our_tokens(turns, values, masks)
    wanted = plain_hae.advantage_stage(turns, values, plain, bench_hae.RATES)
    for got, expected in zip((total, carries, *returns), wanted, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_command_writes_ratios_and_figure(tmp_path, capsys):
    result = bench_hae.main(tmp_path, shapes=((3, 7),), rounds=1)
    assert result["ratios"].keys() == bench_hae.AIMS.keys()
    assert json.loads((tmp_path / "bench_hae.json").read_text()) == result
    assert (tmp_path / "bench_hae.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "| C1 |" in printed and "| C2 |" in printed
