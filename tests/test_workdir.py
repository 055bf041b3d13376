"""Run folders: resumed equals uninterrupted, checkpoints are whole or not there."""

import errno
import json
import os
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hiper_jax import workdir
from hiper_jax.act.episode import Episode, Turn, to_json
from hiper_jax.workdir import events


def _episode(number):
    turn = Turn(
        prompt=np.array([1, 2, number], np.int32),
        response=np.array([3, 4], np.int32),
        log_prob=np.array([-0.1234567, -2.5], np.float32),
        text="<switch>SWITCH</switch>\u2028é",
        observation="You see a lamp.\nAnd a desk.",
        admissible=("look", "go to desk 1"),
        action="look",
        subgoal="find the lamp",
        switch=True,
        said_switch=True,
        format_valid=True,
        action_valid=True,
        reward=1.0,
    )
    return Episode(
        game=f"game-{number}",
        task="look at the lamp.",
        task_type="look_at_obj_in_light",
        turns=(turn, turn),
        terminated=True,
        truncated=False,
        won=True,
        score=1.0,
        next_prompt=np.array([], np.int32),
        credit={"advantage_low": [0.5, -0.25]},
    )


def _write(run, step):
    """An iteration that is a function of its step, as a real one is."""
    rng = np.random.default_rng(step)
    metrics = {
        "rollout/success": jnp.float32(rng.random()),
        "loss/kl": float("nan") if step == 2 else rng.normal() * 1e-9,
        "rollout/turns": int(rng.integers(50)),
    }
    workdir.append_metrics(run, step, metrics, {"seconds": rng.random()})
    workdir.write_episodes(run, step, [_episode(step), _episode(step + 1)])


def _state(scale=1.0):
    return {
        "layers": {"kernel": scale * jnp.arange(12.0).reshape(3, 4)},
        "low.precision": jnp.full(5, scale, jnp.bfloat16),
        "opt": (jnp.int32(7), jnp.ones((1, 2))),
        "key": jax.random.key_data(jax.random.key(3)),
    }


def _same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def _checkpoints(run):
    return sorted(os.listdir(run / "checkpoints"))


def _shown(run):
    """(step, values) that TensorBoard would show, in the order of the files."""
    found = []
    for file in sorted((run / "tensorboard").iterdir()):
        version, event = _records(file.read_bytes())
        assert dict(_fields(version))[3] == b"brain.Event:2"
        event = dict(_fields(event))
        values = [dict(_fields(v)) for n, v in _fields(event[5]) if n == 1]
        found.append((event[2], {v[1].decode(): v[2] for v in values}))
    return found


def _records(data):
    while data:
        length = struct.unpack("<Q", data[:8])[0]
        body = data[12 : 12 + length]
        for part, crc in ((data[:8], data[8:12]), (body, data[12 + length :][:4])):
            masked = (struct.unpack("<I", crc)[0] - 0xA282EAD8) % 2**32
            assert (masked << 15 | masked >> 17) % 2**32 == events.crc32c(part)
        yield body
        data = data[16 + length :]


def _fields(data):
    """A slow reader of protocol buffers: yields (number, value)."""

    def varint():
        nonlocal data
        value = shift = 0
        while True:
            byte, data = data[0], data[1:]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while data:
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}[kind] if kind != 2 else varint()
        value, data = data[:size], data[size:]
        form = {1: "<d", 5: "<f"}.get(kind)
        yield number, struct.unpack(form, value)[0] if form else value


def test_checksum_of_the_event_files_is_castagnolis():
    assert events.crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value
    assert events.crc32c(bytes(32)) == 0x8A9136AA


def test_resumed_run_equals_uninterrupted_run_byte_for_byte(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for run, steps in ((whole, (1, 2, 3, 4)), (resumed, (1, 2, 3))):
        run.mkdir()
        for step in steps:
            _write(run, step)
    # Killed while it wrote iteration 4, two iterations past its checkpoint.
    with open(resumed / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "rollout/suc')
    workdir.truncate_after(resumed, 2)
    assert [r["step"] for r in workdir.read_lines(resumed / "metrics.jsonl")] == [1, 2]
    assert list(workdir.episode_files(resumed)) == [1, 2]
    for step in (3, 4):
        _write(resumed, step)
    for name in (
        "metrics.jsonl",
        "timing.jsonl",
        *(f"episodes/{s:06d}.jsonl.gz" for s in (1, 2, 3, 4)),
    ):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
    assert _shown(resumed) == _shown(whole)
    assert [step for step, _ in _shown(whole)] == [1, 2, 3, 4]


def test_metrics_are_rounded_and_what_is_not_finite_is_named(tmp_path):
    metrics = {"a/b": np.float32(1 / 3), "n": 12345678901, "loss/x": float("-inf")}
    workdir.append_metrics(tmp_path, 5, metrics, {"seconds": 2.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == (
        '{"step": 5, "a/b": 0.3333333, "n": 12345678901, "loss/x": null, '
        '"not_finite": ["loss/x"]}\n'
    )
    assert (tmp_path / "timing.jsonl").read_text() == '{"step": 5, "seconds": 2.0}\n'
    expected = {"a/b": np.float32(1 / 3), "n": np.float32(1.2345678901e10)}
    assert _shown(tmp_path) == [(5, {**expected, "timing/seconds": 2.0})]


def test_episodes_come_back_as_written(tmp_path):
    path = workdir.write_episodes(tmp_path, 7, [_episode(1), _episode(2)])
    assert path == tmp_path / "episodes" / "000007.jsonl.gz"
    read = list(workdir.read_episodes(path))
    assert [to_json(e) for e in read] == [to_json(_episode(1)), to_json(_episode(2))]
    assert read[0].turns[0].log_prob.dtype == np.float32
    assert read[0].turns[0].admissible == ("look", "go to desk 1")


@pytest.mark.parametrize("abstract", [False, True])
def test_checkpoint_comes_back_exactly(tmp_path, abstract):
    extra = {
        "rng": np.random.default_rng(0).bit_generator.state,  # 128-bit integers
        "cursor": [3, [None, True]],
        "empty": {},
        "name": "lämp",
    }
    workdir.save(tmp_path, 3, _state(2.0), extra)
    like = _state(0.0)
    if abstract:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
    state, got = workdir.restore(tmp_path, like)
    _same(state, _state(2.0))
    assert got == extra


def test_checkpoint_is_restored_onto_the_asked_for_sharding(tmp_path):
    workdir.save(tmp_path, 1, {"w": jnp.arange(16.0)})
    mesh = jax.make_mesh((8,), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    like = {"w": jax.ShapeDtypeStruct((16,), jnp.float32, sharding=sharding)}
    state, _ = workdir.restore(tmp_path, like)
    assert state["w"].sharding == sharding
    np.testing.assert_array_equal(state["w"], np.arange(16.0))


def test_a_part_is_restored_and_nothing_is_allocated_for_the_rest(tmp_path):
    workdir.save(tmp_path, 1, _state(2.0), "beside")
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _state(0.0))
    before = {id(x) for x in jax.live_arrays()}
    state, extra = workdir.restore(tmp_path, like, only=("layers", "key"))
    fresh = [x for x in jax.live_arrays() if id(x) not in before]
    assert sorted(x.shape for x in fresh) == [(2,), (3, 4)]
    assert extra == "beside"
    _same(
        {k: state[k] for k in ("layers", "key")},
        {k: _state(2.0)[k] for k in ("layers", "key")},
    )
    assert state["opt"] == like["opt"]
    assert state["low.precision"] == like["low.precision"]


def test_a_part_is_not_read_where_the_whole_would_not_fit(tmp_path):
    workdir.save(tmp_path, 1, _state())
    wider = _state() | {"opt": (jnp.int32(7), jnp.ones((1, 3)))}
    with pytest.raises(ValueError, match=r"opt.1 is \(1, 2\) there and \(1, 3\) here"):
        workdir.restore(tmp_path, wider, only=["layers"])
    with pytest.raises(ValueError, match="no part 'layer'; choose key, layers, low"):
        workdir.restore(tmp_path, _state(), only=["layer"])


def test_newest_checkpoints_and_every_nth_are_kept(tmp_path):
    for step in (2, 3, 4, 5, 6):
        workdir.save(tmp_path, step, {"w": jnp.full(2, step)}, keep=2, keep_every=3)
    assert _checkpoints(tmp_path) == ["00000003", "00000005", "00000006"]
    assert workdir.latest_step(tmp_path) == 6
    state, _ = workdir.restore(tmp_path, {"w": jnp.zeros(2, jnp.int32)}, step=3)
    assert state["w"].tolist() == [3, 3]
    workdir.save(tmp_path, 6, {"w": jnp.full(2, 60)})
    state, _ = workdir.restore(tmp_path, {"w": jnp.zeros(2, jnp.int32)})
    assert state["w"].tolist() == [60, 60]


def test_half_written_checkpoints_are_passed_over_and_swept_away(tmp_path):
    assert workdir.latest_step(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        workdir.restore(tmp_path, _state())
    workdir.save(tmp_path, 1, _state())
    leftovers = ["00000002.partial", "00000002.partial.orbax-checkpoint-tmp"]
    for name in leftovers:
        (tmp_path / "checkpoints" / name / "state").mkdir(parents=True)
    assert workdir.latest_step(tmp_path) == 1
    workdir.save(tmp_path, 3, _state())
    assert _checkpoints(tmp_path) == ["00000001", "00000003"]


def test_a_checkpoint_of_another_shape_is_named_in_one_sentence(tmp_path):
    workdir.save(tmp_path, 1, _state())
    wider = _state() | {"layers": {"kernel": jnp.zeros((3, 5))}}
    with pytest.raises(ValueError) as caught:
        workdir.restore(tmp_path, wider)
    message = str(caught.value)
    assert "layers.kernel is (3, 4) there and (3, 5) here" in message
    assert "use the model and settings" in message and "\n" not in message
    with pytest.raises(ValueError, match=r"more is nothing there and \(2,\) here"):
        workdir.restore(tmp_path, _state() | {"more": jnp.zeros(2)})
    fewer = {k: v for k, v in _state().items() if k != "key"}
    with pytest.raises(ValueError, match=r"key is \(2,\) there and nothing here"):
        workdir.restore(tmp_path, fewer)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_good(tmp_path):
    workdir.save(tmp_path, 1, _state(1.0))
    workdir.save(tmp_path, 2, _state(2.0))
    (tmp_path / "checkpoints" / "00000002" / "extra" / "data.json").unlink()
    with pytest.raises(ValueError, match="00000002 is damaged.*data.json is gone"):
        workdir.restore(tmp_path, _state())
    state, _ = workdir.restore(tmp_path, _state(), step=1)
    _same(state, _state(1.0))


def test_a_full_disk_is_said_once_and_older_checkpoints_stay(
    tmp_path, monkeypatch, capfd
):
    from orbax.checkpoint import v1 as ocp

    workdir.save(tmp_path, 1, _state(1.0))

    def full(path, *_):
        os.makedirs(f"{path}.orbax-checkpoint-tmp/state")
        raise ValueError(  # as Orbax words it
            'RESOURCE_EXHAUSTED: Failed writing: "d/72": Failed to write 531 bytes to '
            "file 16: No space left on device [os_error_code='28']"
        )

    with monkeypatch.context() as patch:
        patch.setattr(ocp, "save_checkpointables_async", full)
        with pytest.raises(OSError, match="is full.*--resume") as caught:
            workdir.save(tmp_path, 2, _state(2.0))
    assert caught.value.errno == errno.ENOSPC
    assert _checkpoints(tmp_path) == ["00000001"]
    state, _ = workdir.restore(tmp_path, _state())
    _same(state, _state(1.0))
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_state_that_is_not_finite_is_never_saved(tmp_path, bad):
    workdir.save(tmp_path, 1, _state())
    broken = _state()
    broken["layers"]["kernel"] = broken["layers"]["kernel"].at[1, 2].set(bad)
    with pytest.raises(ValueError, match=r"layers.kernel .* not finite.* before it"):
        workdir.save(tmp_path, 2, broken)
    assert workdir.latest_step(tmp_path) == 1
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000001"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_when_metrics_are_written(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"the disk of {tmp_path} is full"):
        workdir.append_metrics(tmp_path, 1, {"a": 1.0}, {"seconds": 1.0})


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "deep" / "results.json"
    workdir.write_json(file, {"a": [1, "ü"]})
    before = file.read_bytes()
    assert json.loads(before) == {"a": [1, "ü"]}

    def torn(self, data):
        with open(self, "wb") as out:
            out.write(data[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(file), "write_bytes", torn)
    with pytest.raises(OSError, match="is full"):
        workdir.write_json(file, {"a": "another"})
    assert os.listdir(file.parent) == ["results.json"]
    assert file.read_bytes() == before
