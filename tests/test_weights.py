"""Weights on disk: what is written is read back, and what is wrong is named."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec

from hiper_jax.lm import qwen, weights
from hiper_jax.lm import safetensors as files
from hiper_jax.lm import value_heads as heads
from hiper_jax.lm.config import tiny

SIZES = dict(width=16, depth=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=24)
CONFIG = tiny(31, **SIZES)


@pytest.fixture(scope="module")
def params():
    return qwen.init(CONFIG, jax.random.key(0))


def _equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("max_bytes", [10**9, 4000])
def test_round_trip(tmp_path, tied, max_bytes):
    config = tiny(31, **SIZES, tied=tied)
    params = qwen.init(config, jax.random.key(0))
    weights.save(tmp_path, params, config, dtype=jnp.float32, max_bytes=max_bytes)
    assert (tmp_path / "model.safetensors").exists() == (max_bytes == 10**9)
    assert weights.read_config(tmp_path) == config
    _equal(weights.load(tmp_path, config), params)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_files(tmp_path, params, dtype):
    weights.save(tmp_path, params, CONFIG, dtype=dtype)
    rounded = jax.tree.map(lambda a: a.astype(dtype).astype(jnp.float32), params)
    _equal(weights.load(tmp_path, CONFIG), rounded)
    kept = weights.load(tmp_path, CONFIG, dtype=jnp.bfloat16)
    assert {a.dtype for a in jax.tree.leaves(kept)} == {jnp.dtype("bfloat16")}


def test_the_usual_reader_reads_our_files_and_we_read_its(tmp_path, params):
    weights.save(tmp_path, params, CONFIG, dtype=jnp.float32)
    theirs = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    ours = files.read_file(tmp_path / "model.safetensors")
    assert set(theirs) == set(ours)
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(tensor, ours[name])
    q = np.asarray(params["layers"]["q"][1])
    np.testing.assert_array_equal(
        theirs["model.layers.1.self_attn.q_proj.weight"], q.reshape(16, 32).T
    )
    safetensors.numpy.save_file(theirs, tmp_path / "model.safetensors")
    _equal(weights.load(tmp_path, CONFIG), params)


def test_fewer_files_leave_no_stale_ones(tmp_path, params):
    weights.save(tmp_path, params, CONFIG, max_bytes=4000)
    weights.save(tmp_path, params, CONFIG)
    assert [f.name for f in tmp_path.glob("model*")] == ["model.safetensors"]


def test_critic_starts_from_a_language_model_and_is_stored(tmp_path, params):
    weights.save(tmp_path / "lm", params, CONFIG, dtype=jnp.float32)
    critic = weights.load_critic(tmp_path / "lm", CONFIG)
    _equal(critic["trunk"], params)
    assert (critic["value"] == 0).all() and critic["value"].shape == (16, 3)
    critic["value"] = jax.random.normal(jax.random.key(1), (16, 3))
    weights.save(tmp_path / "critic", critic, CONFIG, dtype=jnp.float32)
    _equal(weights.load_critic(tmp_path / "critic", CONFIG), critic)
    assert set(critic) == set(heads.abstract(CONFIG))


def test_each_device_reads_its_slice(tmp_path, params):
    weights.save(tmp_path, params, CONFIG, dtype=jnp.float32)
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    specs = jax.tree.map(lambda _: PartitionSpec(), params)
    specs["layers"]["gate"] = PartitionSpec(None, "a", "b")
    specs["layers"]["o"] = PartitionSpec("a", "b")
    shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), specs)
    loaded = weights.load(tmp_path, CONFIG, shardings=shardings)
    _equal(loaded, params)
    assert loaded["layers"]["gate"].addressable_shards[0].data.shape == (2, 8, 6)
    assert loaded["layers"]["o"].addressable_shards[0].data.shape == (1, 1, 8, 16)


def _edit(path, change):
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("model.norm.weight"), "lack model.norm.weight"),
        (
            lambda t: t.update({"model.extra": np.zeros(2, np.float32)}),
            "hold model.extra",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(2, np.float32)}),
            r"model.norm.weight has shape \(2,\).*asks for \(16,\)",
        ),
    ],
)
def test_wrong_tensors_are_named(tmp_path, params, change, message):
    weights.save(tmp_path, params, CONFIG, dtype=jnp.float32)
    _edit(tmp_path / "model.safetensors", change)
    with pytest.raises(ValueError, match=message):
        weights.load(tmp_path, CONFIG)


def test_a_stored_head_of_a_tied_model_is_not_an_extra_tensor(tmp_path, params):
    weights.save(tmp_path, params, CONFIG, dtype=jnp.float32)
    head = {"lm_head.weight": np.asarray(params["embed"])}
    _edit(tmp_path / "model.safetensors", lambda t: t.update(head))
    _equal(weights.load(tmp_path, CONFIG), params)


@pytest.mark.parametrize("leaf, named", [("q", "q of layer 1"), ("embed", "embed")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_not_finite_are_refused(tmp_path, params, leaf, named, dtype):
    """The whole file is read; the largest finite weights are no fault."""
    changed = jax.tree.map(lambda a: a, params)
    place = changed["layers"] if leaf in changed["layers"] else changed
    large = np.array(place[leaf])
    large[-1, :2] = 3e38
    place[leaf] = jnp.asarray(large)
    weights.save(tmp_path, changed, CONFIG, dtype=dtype)
    weights.load(tmp_path, CONFIG)
    large[-1, -1] = np.nan
    place[leaf] = jnp.asarray(large)
    weights.save(tmp_path, changed, CONFIG, dtype=dtype)
    with pytest.raises(ValueError, match=f"model.safetensors .* finite, in {named};"):
        weights.load(tmp_path, CONFIG)


def test_pickles_are_refused(tmp_path, params):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="pickle"):
        weights.load(tmp_path, CONFIG)


def test_missing_files_are_named(tmp_path, params):
    with pytest.raises(FileNotFoundError, match="no config.json"):
        weights.read_config(tmp_path)
    with pytest.raises(FileNotFoundError, match="no \\*.safetensors"):
        weights.load(tmp_path, CONFIG)
    weights.save(tmp_path, params, CONFIG, max_bytes=4000)
    gone = sorted(tmp_path.glob("model-*"))[1]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=gone.name):
        weights.load(tmp_path, CONFIG)


@pytest.mark.parametrize("keep", [4, 100, -8])
def test_cut_short_files_are_named(tmp_path, params, keep):
    weights.save(tmp_path, params, CONFIG)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="fetch it again"):
        weights.load(tmp_path, CONFIG)


def test_stored_config_names_the_type(tmp_path, params):
    weights.save(tmp_path, params, CONFIG)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["torch_dtype"] == "bfloat16"
    assert stored["architectures"] == ["Qwen2ForCausalLM"]
