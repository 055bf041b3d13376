"""Readers trust nothing: a damaged file is refused in one line that names it.

HIPER_FUZZ=100000 tries as many files as it says.
"""

import functools
import gzip
import itertools
import json
import os
import random
import struct
import time

import jax
import numpy as np
import pytest
import small
import tiny_runs
import yaml

from hiper_jax import lm, workdir
from hiper_jax.act.codec import load_codec
from hiper_jax.act.envs.worlds import alfworld
from hiper_jax.act.envs.worlds.alfworld import data, game
from hiper_jax.act.envs.worlds.webshop.make import make_shop
from hiper_jax.act.envs.worlds.webshop.shop import load as load_shop
from hiper_jax.act.envs.worlds.webshop.splits import list_goals
from hiper_jax.experiments import cli, folder
from hiper_jax.experiments.config import Train
from hiper_jax.experiments.eval import settings_of
from hiper_jax.experiments.report import tables
from hiper_jax.experiments.report.episode_page import episode_page
from hiper_jax.experiments.settings import read_file, replaced
from hiper_jax.lm import gguf, tensor_files, weights

MANY = int(os.environ.get("HIPER_FUZZ", "2000"))
ODD = [
    None,
    True,
    -1,
    2**63,
    10**400,
    0.5,
    float("nan"),
    "",
    "x",
    [],
    {},
    [[]],
    "\ud800",
]
TINY = lm.tiny(40, width=8, depth=1, num_heads=2, num_kv_heads=1, head_dim=4)


def cut_or_flipped(content: bytes, draw: random.Random) -> bytes:
    """Bytes changed, cut, repeated or put in."""
    out = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        place = draw.randrange(len(out) + 1)
        match draw.randrange(5):
            case 0:
                del out[place:]
            case 1:
                out[place : place + draw.randrange(9)] = b""
            case 2:
                out[place:place] = draw.randbytes(draw.randrange(9))
            case 3:
                out[place:place] = out[: draw.randrange(99)]
            case _ if place < len(out):
                out[place] = draw.choice([0, 255, draw.randrange(256)])
    return bytes(out)


def another_value(content: bytes, draw: random.Random) -> bytes:
    """JSON with one of its values another one, or gone."""
    value = json.loads(content)
    places = []

    def walk(part):
        names = part if isinstance(part, dict) else range(len(part))
        for name in names:
            places.append((part, name))
            if isinstance(part[name], dict | list):
                walk(part[name])

    walk(value)
    part, name = draw.choice(places)
    if draw.random() < 0.2:
        del part[name]
    else:
        part[name] = draw.choice(ODD)
    return json.dumps(value).encode()


def damaged(content: bytes, kind: str, draw: random.Random) -> bytes:
    if kind == "bytes" or draw.random() < 0.4:
        return cut_or_flipped(content, draw)
    if kind == "gzip":
        lines = gzip.decompress(content).splitlines()
        lines[0] = another_value(lines[0], draw)
        return gzip.compress(b"\n".join(lines))
    if kind == "lines":
        lines = content.splitlines()
        place = draw.randrange(len(lines))
        lines[place] = another_value(lines[place], draw)
        return b"\n".join(lines)
    if kind == "safetensors":
        size = struct.unpack("<Q", content[:8])[0]
        header = another_value(content[8 : 8 + size], draw)
        return struct.pack("<Q", len(header)) + header + content[8 + size :]
    return another_value(content, draw)


def read_model(file):
    config = tensor_files.read_config(file.parent)
    if lm.num_params(config) < 10**6:
        weights.load(file.parent, config)


def read_all_episodes(file):
    for episode in workdir.read_episodes(file):
        episode_page(episode, title="t")


def read_run_settings(file):
    folder.changes(folder.read(file.parent), Train())
    settings_of(file.parent, Train())


def read_evaluations(file):
    tables.rows_of(file.parent.parent)


def read_yaml(file):
    replaced(Train(), read_file(file))


def read_tokenizer(file):
    codec = load_codec(file.parent)
    codec.decode(codec.encode_prompt("go to desk 1"))


def read_shop(file):
    shop = load_shop(str(file.parent))
    for goal in list_goals(shop, "train").games[:3]:
        shop.goal(goal)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What is read: name -> (file, kind of damage, reader)."""
    import transformers

    # Some damage has it choose a class itself; what that loads takes its time once.
    assert transformers.AutoTokenizer
    place = tmp_path_factory.mktemp("files")
    model = place / "model"
    weights.save(model, lm.init(TINY, jax.random.key(0)), TINY, dtype="float32")
    run = place / "run"
    world = {"environment": "sokoban", "levels": 9}
    record = {"seed": 3, "learn": {"gamma": 0.9}, "world": world}
    workdir.write_json(run / "config.json", record)
    for step in (1, 2):
        workdir.append_metrics(run, step, {"loss/kl": 0.1 * step}, {"seconds": 1.0})
    one = {"game": "g", "task_type": "t", "won": True, "score": 1.0, "turns": 2}
    record = {"tag": "before", "split": "s", "step": 0, "episodes": [one, one]}
    workdir.write_json(run / "eval" / "before-s.json", record)
    workdir.write_episodes(run, 1, small.episodes(0, (2,), (True,)))
    alfworld.make(
        place / "games", train=1, seen=0, unseen=0, seed=0, workers=1,
        receptacles=(5, 6), objects=(5, 6), say=lambda line: None,
    )  # fmt: skip
    (made,) = (place / "games").rglob("game.tw-pddl")
    sharded = place / "sharded"
    weights.save(sharded, lm.init(TINY, jax.random.key(0)), TINY, dtype="float32")
    whole = sharded / "model.safetensors"
    names = _names_in(whole)
    whole.rename(sharded / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    workdir.write_json(sharded / "model.safetensors.index.json", index)
    words = tiny_runs.saved(place)
    shop = make_shop(place / "shop", products=12, seed=0)
    (items,) = shop.glob("items_shuffle*.json")
    settings = place / "s.yaml"
    settings.write_text(yaml.safe_dump({"seed": 1, "world": {"max_turns": 3}}))
    (place / "m.gguf").write_bytes(gguf_bytes())
    listed = functools.partial(data.list_games, str(place / "games"), "train")
    return {
        "safetensors": (model / "model.safetensors", "safetensors", read_model),
        "config.json": (model / "config.json", "json", read_model),
        "gguf": (place / "m.gguf", "bytes", gguf.read),
        "game": (made, "json", lambda file: game.load(str(file))),
        "traj_data": (made.parent / "traj_data.json", "json", lambda file: listed()),
        "episodes": (run / "episodes" / "000001.jsonl.gz", "gzip", read_all_episodes),
        "metrics": (run / "metrics.jsonl", "lines", workdir.read_lines),
        "run": (run / "config.json", "json", read_run_settings),
        "eval": (run / "eval" / "before-s.json", "json", read_evaluations),
        "settings": (settings, "bytes", read_yaml),
        "index": (sharded / "model.safetensors.index.json", "json", read_model),
        "tokenizer": (words / "tokenizer.json", "json", read_tokenizer),
        "tokenizer_config": (words / "tokenizer_config.json", "json", read_tokenizer),
        "shop": (items, "json", read_shop),
    }  # fmt: skip


def _names_in(file) -> list[str]:
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    return [name for name in header if name != "__metadata__"]


def gguf_bytes() -> bytes:
    def text(words):
        return struct.pack("<Q", len(words)) + words

    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    head += text(b"general.architecture") + struct.pack("<I", 8) + text(b"qwen2")
    head += text(b"a") + struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 3)
    head += text(b"t") + struct.pack("<IQQIQ", 2, 2, 3, 0, 0)
    return head + bytes(-len(head) % 32) + np.ones(6, np.float32).tobytes()


NAMES = (
    "safetensors", "config.json", "gguf", "game", "traj_data", "episodes", "metrics",
    "run", "eval", "settings", "index", "tokenizer", "tokenizer_config", "shop",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_or_refused_by_name(files, name):
    """ValueError or FileNotFoundError that names it, within five seconds."""
    file, kind, read = files[name]
    whole, draw, refused = file.read_bytes(), random.Random(name), 0
    read(file)
    try:
        for _ in range(MANY // len(NAMES)):
            content = damaged(whole, kind, draw)
            file.write_bytes(content)
            began = time.monotonic()
            try:
                read(file)
            except (ValueError, FileNotFoundError) as error:
                refused += 1
                named = any(str(p) in str(error) for p in [file, *file.parents[:3]])
                if name != "settings" and not named:
                    raise AssertionError(
                        f"{content!r} is refused so: {error}"
                    ) from error
            except Exception as error:
                raise AssertionError(f"{content!r} breaks its reader") from error
            assert time.monotonic() - began < 5, content
    finally:
        file.write_bytes(whole)
    assert refused or name == "metrics"


OF_ANOTHER_KIND = {
    "empty": b"",
    "zeros": bytes(64),
    "deep": b"[" * 200_000,
    "deep too": b'{"a":' * 200_000,
    "null": b"null",
    "text": b'"x"',
    "number": b"1e999",
    "digits": b"9" * 10_000,
    "object": b"{}",
    "list": b"[]",
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "half": b'{"a": "\\ud800"}',
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_kind_is_read_or_refused_by_name(files, name):
    file, kind, read = files[name]
    whole = file.read_bytes()
    try:
        for word, content in OF_ANOTHER_KIND.items():
            if kind == "gzip":
                content = gzip.compress(content)
            elif kind == "safetensors":
                content = struct.pack("<Q", len(content)) + content
            file.write_bytes(content)
            began = time.monotonic()
            try:
                read(file)
            except (ValueError, FileNotFoundError) as error:
                named = any(str(p) in str(error) for p in [file, *file.parents[:3]])
                assert named or name == "settings", (word, error)
            except Exception as error:
                raise AssertionError(f"{word} breaks its reader") from error
            assert time.monotonic() - began < 5, word
    finally:
        file.write_bytes(whole)


def test_settings_that_grow_without_end_are_refused_at_once(tmp_path):
    """Ten names of ten of the one before each: 10^9 numbers in 400 characters."""
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    for i in range(1, 9):
        lines.append(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]")
    file = tmp_path / "s.yaml"
    for last in ("seed: *a8", "world: *a8", "world: {receptacles: *a8}"):
        file.write_text("\n".join([*lines, last]))
        began = time.monotonic()
        with pytest.raises(ValueError) as caught:
            read_yaml(file)
        assert time.monotonic() - began < 5 and len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_hidden_layers": 10**9}, "depth must be a whole number from 1 to 10000"),
        ({"vocab_size": 2**63}, "vocab_size must be"),
        ({"hidden_size": -8}, "width must be"),
        ({"num_attention_heads": 0}, "config.json"),
        ({"intermediate_size": 2.5}, "mlp_width must be"),
        ({"hidden_size": "8"}, "config.json"),
    ],
)
def test_a_shape_that_no_model_has_is_refused_before_it_is_allocated(
    tmp_path, change, words
):
    weights.save(tmp_path, lm.init(TINY, jax.random.key(0)), TINY, dtype="float32")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=words) as caught:
        tensor_files.read_config(tmp_path)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"dtype": "I32"}, "embed_tokens.weight is stored as int32, without scales"),
        ({"dtype": "I8", "data_offsets": [0, 320]}, "stored as int8, without scales"),
        ({"shape": [2**63, 2**63]}, "stores 1280 bytes"),
        ({"shape": [-40, -8]}, "no safetensors header"),
        ({"data_offsets": [-1280, 0]}, "no safetensors header"),
        ({"data_offsets": [1280, 0]}, "no safetensors header"),
        ({"data_offsets": [0, 2**62]}, "cut short"),
        ({"data_offsets": [4, 1284]}, "within another one"),
        ({"dtype": "F4"}, "stores model.embed_tokens.weight as F4"),
    ],
)
def test_a_tensor_of_another_kind_or_size_is_refused(tmp_path, entry, words):
    weights.save(tmp_path, lm.init(TINY, jax.random.key(0)), TINY, dtype="float32")
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    header["model.embed_tokens.weight"] |= entry
    head = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head + content[8 + size :])
    with pytest.raises(ValueError, match=words) as caught:
        weights.load(tmp_path, TINY)
    assert str(tmp_path) in str(caught.value)
    file.write_bytes(struct.pack("<Q", 2**62) + content[8:])
    with pytest.raises(ValueError, match="cut short or not a safetensors file"):
        weights.load(tmp_path, TINY)
    file.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="is damaged: its tensors end at byte"):
        weights.load(tmp_path, TINY)
    twice = content[8 : 8 + size].replace(b"self_attn.k_proj", b"self_attn.q_proj")
    file.write_bytes(content[:8] + twice + content[8 + size :])
    with pytest.raises(ValueError, match="no safetensors header"):
        weights.load(tmp_path, TINY)


def test_more_games_than_anybody_means_are_refused_at_once(capsys):
    for flag, number in itertools.product(("--train", "--test"), (10**12, 2**63)):
        with pytest.raises(SystemExit) as ended:
            cli.main(["games", "make", "--out", "x", flag, str(number)])
        said = capsys.readouterr().err
        assert ended.value.code and "10000000" in said and "Traceback" not in said


def test_what_nobody_expected_is_called_a_fault_of_ours(capsys, monkeypatch):
    def fails(argv):
        raise KeyError("a\x1b[31m\nkey")

    monkeypatch.setattr(cli, "_run", fails)
    monkeypatch.delenv("HIPER_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 3
    said = capsys.readouterr().err
    assert "KeyError" in said and "this is a fault of hiper_jax" in said
    assert "set HIPER_TRACEBACK=1 to see where" in said and said.count("\n") == 1
    assert "\x1b" not in said
    monkeypatch.setenv("HIPER_TRACEBACK", "1")
    with pytest.raises(KeyError):
        cli.main([])
