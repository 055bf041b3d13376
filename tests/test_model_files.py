"""A model's folder as it was downloaded: which files count, and where it is."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizer_folders as folders

from hiper_jax import lm
from hiper_jax.act.spans import token_masks
from hiper_jax.experiments import config as configs
from hiper_jax.experiments import starts
from hiper_jax.lm import weights
from hiper_jax.lm.model_folder import cache_folder, find_folder
from hiper_jax.networks.agent import load_agent, read_agent, save_agent
from hiper_jax.networks.sampler import make_sampler

SIZES = dict(width=16, depth=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=24)
CONFIG = lm.tiny(300, **SIZES, family="llama", qkv_bias=False, rms_eps=1e-5)


@pytest.fixture(scope="module")
def params():
    return lm.init(CONFIG, jax.random.key(0))


@pytest.fixture
def folder(tmp_path, params):
    weights.save(tmp_path, params, CONFIG, dtype="float32")
    return tmp_path


def _loads(folder, params):
    loaded = weights.load(folder, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


OTHER = {"lora_A": np.zeros(3, np.float32)}


@pytest.mark.parametrize(
    "name", ["adapter_model", "consolidated", "model-00001-of-00002", "training_args"]
)
def test_model_safetensors_counts_alone(name, folder, params):
    safetensors.numpy.save_file(OTHER, folder / f"{name}.safetensors")
    stale = {"weight_map": {"lora_A": f"{name}.safetensors", "b": "gone.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(stale))
    _loads(folder, params)
    (folder / "model.safetensors.index.json").write_text("{")
    _loads(folder, params)


def test_of_shards_those_count_that_the_index_names(tmp_path, params):
    weights.save(tmp_path, params, CONFIG, dtype="float32", max_bytes=20_000)
    assert len(list(tmp_path.glob("model-*"))) > 1
    safetensors.numpy.save_file(OTHER, tmp_path / "consolidated.safetensors")
    safetensors.numpy.save_file(OTHER, tmp_path / "model-00009-of-00009.safetensors")
    _loads(tmp_path, params)


@pytest.mark.parametrize("name", ["adapter_model", "consolidated", "pytorch_model"])
def test_a_folder_without_a_whole_model_is_refused(name, folder):
    (folder / "model.safetensors").rename(folder / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match=f"{name}.*neither model.safetensors"):
        weights.load(folder, CONFIG)


@pytest.mark.parametrize(
    "index, message",
    [
        ("", "no index"),
        ("[]", "no index"),
        ('{"weight_map": []}', "no index"),
        ('{"weight_map": {"a": 3}}', "no index"),
        ('{"weight_map": {}}', "names no file"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "beside it"),
    ],
)
def test_an_index_that_is_none_is_refused(index, message, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=f"index.json .*{message}"):
        weights.load(folder, CONFIG)


@pytest.mark.parametrize(
    "variables, place",
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/c"}, "/c"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/d"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
    ],
)
def test_the_cache_is_where_hugging_face_keeps_it(variables, place):
    assert str(cache_folder(variables)) == place


def test_a_name_that_is_no_folder_is_looked_up_in_the_cache(
    folder, tmp_path, monkeypatch
):
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    name, kept = "some/tiny-model", cache / "models--some--tiny-model"
    run = configs.Train(model=name)
    assert find_folder(name) == starts.start_of(run)
    with pytest.raises(FileNotFoundError, match=f"hf download {name}.*{cache}"):
        starts.check_model(run)
    with pytest.raises(FileNotFoundError, match=f"in {name}.*hf download {name}"):
        load_agent(name)
    for commit in ("aaa", "bbb"):
        (kept / "snapshots" / commit).mkdir(parents=True)
    assert str(find_folder(name)) == name
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("bbb")
    assert find_folder(name) == kept / "snapshots" / "bbb"
    shutil.copy(folder / "config.json", find_folder(name))
    starts.check_model(run)
    assert weights.read_config(starts.start_of(run)) == CONFIG
    # A folder of that name comes first.
    (tmp_path / name).mkdir(parents=True)
    assert str(find_folder(name)) == name
    for other in ("../some/tiny-model", "a/b/c", "", "/some/tiny"):
        assert str(find_folder(other)) == str(pathlib.Path(other))


@pytest.fixture(scope="module")
def several_ends(tmp_path_factory, params):
    """A model of 300 rows for 268 tokens, which its files give three ends."""
    folder = folders.llama3(tmp_path_factory.mktemp("ends") / "model")
    weights.save(folder, params, CONFIG, dtype="float32")
    return folder


def test_every_end_stops_the_sampler_and_ends_the_masks(several_ends):
    agent, actor, _ = load_agent(several_ends, critic="none")
    assert agent.codec.end_ids == (267, 263, 266)
    assert agent.known.sum() == 268 and not agent.known[268:].any()
    for end in agent.codec.end_ids:
        # Nothing else can be drawn.
        only = dataclasses.replace(agent, known=np.arange(300) == end)
        sizes = {"slot_buckets": (1,), "prompt_buckets": (8,)}
        make = make_sampler(only, max_response=5, **sizes)
        sample = make(actor, jax.random.key(0), 1.0)
        zero = np.zeros(1, np.int32)
        (tokens,) = sample([np.arange(4, dtype=np.int32)], zero, zero).tokens
        assert list(tokens) == [end]
        said = agent.codec.encode_response("<action>go</action>")[:-1]
        row = np.array([[*said, end]], np.int32)
        masks = token_masks(row, row >= 0, zero, agent.pieces)
        assert masks.action.all()
        assert agent.codec.decode(row[0]) == "<action>go</action>"


def test_what_is_saved_ends_where_it_did(several_ends, tmp_path):
    agent, actor, _ = load_agent(several_ends, critic="none")
    for source in (several_ends, None):
        save_agent(tmp_path / "out", agent, actor, None, tokenizer=source)
        stored = json.loads((tmp_path / "out" / "generation_config.json").read_text())
        assert set(stored["eos_token_id"]) == set(agent.codec.end_ids)
        if source is None:
            continue
        again = read_agent(tmp_path / "out", critic="none").codec
        assert again.end_ids == agent.codec.end_ids
        assert again.encode_prompt("go <|eot_id|>") == agent.codec.encode_prompt(
            "go <|eot_id|>"
        )
        shutil.rmtree(tmp_path / "out")
