"""A checkpoint is written while the program goes on, and counts when all of it is."""

import errno
import os
import pathlib
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import until
from host_threads import each
from jax.sharding import NamedSharding, PartitionSpec

from hiper_jax import workdir
from hiper_jax.experiments.bench.kills import Family
from hiper_jax.hosts import HostError
from hiper_jax.workdir import checked
from hiper_jax.workdir.behind import Behind


@pytest.fixture
def held(monkeypatch):
    """Nothing is written behind the program's back until the event is set."""
    go, made = threading.Event(), os.mkdir

    def mkdir(*args, **options):
        if threading.current_thread() is not threading.main_thread():
            assert go.wait(60)
        made(*args, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    yield go
    go.set()


def begun():
    """A state of many placements on eight devices, and what changes it in its place."""
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    noise = np.random.default_rng(0).normal(size=(64, 30)).astype(np.float32)
    specs = {
        "split": (noise, PartitionSpec("data", "model")),
        "rows": (noise, PartitionSpec("data")),
        "whole": (noise, PartitionSpec()),
        "odd": (noise[:3, :7], PartitionSpec()),
        "step": (np.float32(3), PartitionSpec()),
    }
    state = {
        name: jax.device_put(value, NamedSharding(mesh, spec))
        for name, (value, spec) in specs.items()
    } | {"alone": jnp.asarray(noise)}
    change = jax.jit(
        lambda state: jax.tree.map(lambda x: 2 * x + 1, state), donate_argnums=0
    )
    return state, change


def steps(run):
    found = (run / "checkpoints").glob("*")
    return sorted(p.name for p in found if p.name.isdecimal())


def test_what_is_saved_is_what_was_there_though_its_buffers_were_donated(
    tmp_path, held
):
    expected, _ = begun()  # to look at the state itself would keep its buffers
    state, change = begun()
    saver = workdir.Saver(tmp_path, "beside")
    saver.begin(7, state)
    for number in range(3):
        old, state = state, change(state)
        kept = [name for name, x in old.items() if not x.is_deleted()]
        # On a CPU Orbax reads most buffers where they are, and XLA reuses none of them
        # until it has; on other devices it reads copies.
        assert number == 0 or not kept
    jax.block_until_ready(state)
    assert saver.step == 7 and workdir.latest_step(tmp_path) is None
    saver.check()
    held.set()
    saver.wait()
    found, extra = workdir.restore(tmp_path, state)
    assert extra == "beside" and steps(tmp_path) == ["00000007"]
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_next_one_waits_for_it_and_old_ones_go_only_then(tmp_path, held):
    state, _ = begun()
    saver = workdir.Saver(tmp_path, keep=1)
    saver.begin(1, state)
    threading.Timer(0.3, held.set).start()
    saver.begin(2, state)
    assert "00000001" in steps(tmp_path)
    saver.wait()
    assert steps(tmp_path) == ["00000002"]
    held.clear()
    saver.begin(3, state)
    time.sleep(0.2)
    assert steps(tmp_path) == ["00000002"]
    held.set()
    saver.wait()
    assert steps(tmp_path) == ["00000003"]


def test_what_fails_behind_the_program_is_said_and_what_was_whole_stays(
    tmp_path, monkeypatch
):
    state, _ = begun()
    workdir.save(tmp_path, 1, state)
    saver = workdir.Saver(tmp_path, keep=1)

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checked, "seal", full)
        saver.begin(2, state)
        with pytest.raises(OSError, match="checkpoints is full; what was finished"):
            while True:
                saver.check()
        saver.settle()  # raises nothing
    taken = workdir.Saver(tmp_path, keep=1, check=lambda: {}["taken"])
    taken.begin(2, state)
    with pytest.raises(KeyError, match="taken"):
        taken.wait()
    assert os.listdir(tmp_path / "checkpoints") == ["00000001"]
    saver.begin(3, state)  # there is room again
    saver.wait()
    assert os.listdir(tmp_path / "checkpoints") == ["00000003"]


def test_waiting_ends_with_what_is_waited_for():
    go = threading.Event()
    slow = Behind("the checkpoint of step 4 in /here", lambda: go.wait(60))
    with pytest.raises(TimeoutError, match="^the checkpoint of step 4 in /here is not"):
        slow.wait(0.1)
    go.set()
    slow.wait(5)


def test_a_host_that_cannot_write_ends_those_that_wait_for_its_part():
    def work(hosts):
        def write():
            if hosts.index == 1:
                raise OSError("the disk is full")
            never.wait(60)

        saving = Behind("a checkpoint", write, hosts)
        try:
            saving.wait(60)
        except OSError as error:
            hosts.fail(str(error))
            raise

    never, began = threading.Event(), time.monotonic()
    said, _ = each(work)
    never.set()
    assert time.monotonic() - began < 10
    assert isinstance(said[0], HostError) and isinstance(said[1], OSError)
    assert "process 1 on " in str(said[0]) and "the disk is full" in str(said[0])


def test_it_counts_on_no_host_before_it_counts_on_the_first():
    done = []

    def work(hosts):
        def write():
            if hosts.writes:
                time.sleep(0.2)
                done.append("counts")
            hosts.after_first("a checkpoint's end")

        saving = Behind("a checkpoint", write, hosts)
        hosts.exchange("iteration", None)  # meanwhile
        saving.wait(5)
        done.append(hosts.index)

    each(work, count=3)
    assert done[0] == "counts" and sorted(done[1:]) == [0, 1, 2]


def test_of_two_processes_one_may_die_while_both_write_or_have_a_full_disk(tmp_path):
    """What was whole stays so; what they saved before is what they trained."""
    script = str(pathlib.Path(__file__).with_name("saver_run.py"))

    def started(how):
        words = [str(tmp_path), how]
        return Family(words, 2, 2, program=lambda index: [script])

    family = started("held")
    until(family, (tmp_path / "checkpoints" / "00000002.partial").exists, 100)
    family.signal(1, signal.SIGKILL)
    assert family.wait(60) == [2, -signal.SIGKILL], family.lines
    assert "process 1" in family.named(1) and "is lost" in family.named(1)
    assert steps(tmp_path) == ["00000001"]
    family = started("full")
    assert family.wait(120) == [2, 2], family.lines
    for said in family.lines:
        expected = ["3 counts", "1 True", "2 True", "3 True"]
        assert said[-5:-1] == expected, family.lines
    ends = [said[-1] for said in family.lines]
    assert ends[1].startswith("OSError: ") and "checkpoints is full" in ends[1], ends
    assert ends[0].startswith("HostError: process 1 on "), ends
    assert "checkpoints is full" in ends[0], ends
    assert steps(tmp_path) == [f"{i:08d}" for i in (1, 2, 3)]
