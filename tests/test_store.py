"""What a store holds comes here whole; what is wrong with it is one line.

Through gcsfs and TensorStore to a bucket of our own: no real one was tried.
"""

import dataclasses
import os
import pathlib
import platform
import time

import fake_bucket
import jax.numpy as jnp
import numpy as np
import pytest

from hiper_jax import _store, workdir
from hiper_jax.experiments import folder, games, listing
from hiper_jax.experiments.config import Train
from hiper_jax.networks.acquire import find_model
from hiper_jax.workdir import carried
from hiper_jax.workdir import lease as leases
from hiper_jax.workdir.checked import Damaged


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    pytest.importorskip("gcsfs")
    found, told = fake_bucket.serving()
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HIPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_store, "_WAITS", (0.0, 0.0))
    found.objects.clear()
    yield found
    found.denied = False


@pytest.mark.parametrize(
    "path", ["gs://", "gs:///run", "gs://bucket//run", "gs://b/../c", "az://b/run"]
)
def test_what_names_no_object_is_refused(path):
    with pytest.raises(ValueError, match="write gs://BUCKET/PATH"):
        _store.named(path)


def test_one_name_in_two_forms_is_one_name():
    assert _store.named("gs://bucket/run/") == _store.named("gs://bucket/run")
    assert not _store.is_remote("runs/one") and not _store.is_remote(pathlib.Path("x"))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(_store._PACKAGES, "s3", ("no_such_package", "s3"))
    with pytest.raises(ImportError, match=r"no_such_package.*hiper-jax\[s3\]"):
        _store.file_system("s3://bucket/run")


@pytest.mark.parametrize(
    "name, config",
    [("out", Train(out="gs://nobody/run")), ("model", Train(model="gs://nobody/run"))],
)
def test_a_bucket_that_is_not_there_is_named_with_its_setting(bucket, name, config):
    del bucket
    with pytest.raises(OSError, match=f"--{name} gs://nobody/run.*no such bucket"):
        folder.check_places(config)


def test_a_listing_hides_nothing_that_is_written_after_it(bucket):
    """Not from Orbax either, which asks through the same file system."""
    del bucket
    import gcsfs

    system = _store.file_system("gs://bucket/run")
    system.pipe_file("bucket/run/state/one", b"1")
    assert list(_store.listed("gs://bucket/run")) == ["state/one"]
    another = gcsfs.GCSFileSystem(skip_instance_cache=True)
    another.pipe_file("bucket/run/state/parts/two", b"2")
    assert system.exists("bucket/run/state/parts")
    assert system.ls("bucket/run/state", detail=False)[-1].endswith("parts")


def test_a_bucket_that_refuses_is_one_line(bucket):
    bucket.denied = True
    with pytest.raises(OSError, match="gs://bucket/run cannot be .*Forbidden") as found:
        _store.check("gs://bucket/run")
    assert "\n" not in str(found.value)


def test_a_store_that_fails_for_a_moment_is_asked_again():
    tries = []

    def work():
        tries.append(len(tries))
        if len(tries) < 3:
            raise ConnectionResetError("gone")
        return "there"

    assert _store.patiently("gs://b/x", "read", work, (0.0, 0.0)) == "there"
    tries.clear()
    with pytest.raises(OSError, match="gs://b/x cannot be read .ConnectionResetError"):
        _store.patiently("gs://b/x", "read", work, (0.0,))


def test_no_name_of_a_store_leads_out_of_the_folder(bucket):
    bucket.put("bucket/run/../../evil", b"x")
    with pytest.raises(ValueError, match="no name of a file"):
        _store.listed("gs://bucket/run")


def test_a_copy_is_made_once_and_again_for_other_objects(bucket):
    """Another object of the same size counts as another."""
    bucket.put("bucket/model/config.json", b"{}")
    bucket.put("bucket/model/deep/part.bin", bytes(range(256)) * 5000)
    bucket.put("bucket/model/checkpoints/00000001/x", b"not copied")
    first = find_model("gs://bucket/model")
    assert (first / "deep" / "part.bin").stat().st_size == 256 * 5000
    assert not (first / "checkpoints").exists()
    read = len([a for a in bucket.asked if "config.json" in a[1]])
    assert find_model("gs://bucket/model/") == first
    assert len([a for a in bucket.asked if "config.json" in a[1]]) == read
    bucket.put("bucket/model/config.json", b"[]")
    second = find_model("gs://bucket/model")
    assert (second / "config.json").read_bytes() == b"[]"
    assert (first / "config.json").read_bytes() == b"{}"  # whoever reads it goes on
    with pytest.raises(FileNotFoundError, match="nothing lies at gs://bucket/other"):
        find_model("gs://bucket/other")


def test_games_of_a_store_are_played_from_a_copy(bucket):
    usual = Train().world
    lines = "\n".join(f"{i}" for i in range(3))
    bucket.put("bucket/games/list.txt", lines.encode())
    world = dataclasses.replace(usual, data="gs://bucket/games")
    found = games._here(world)
    assert (pathlib.Path(found.data) / "list.txt").read_text() == lines
    assert games._here(usual) is usual


def test_what_does_not_fit_the_disk_is_seen_before_anything_comes(bucket, monkeypatch):
    bucket.put("bucket/model/config.json", b"{}" * 1000)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(_store.shutil, "disk_usage", lambda path: usage)
    asked = len(bucket.asked)
    with pytest.raises(OSError, match="is full"):
        find_model("gs://bucket/model")
    assert all("alt=media" not in a[1] for a in bucket.asked[asked:])


def test_what_is_written_here_is_there_and_what_is_removed_is_gone(bucket):
    with workdir.spool("gs://bucket/run") as mirror:
        workdir.write_text(mirror.folder / "a.txt", "1")
        workdir.write_text(mirror.folder / "deep" / "b.txt", "2")
        mirror.push()
        assert bucket.names() == ["bucket/run/a.txt", "bucket/run/deep/b.txt"]
        writes = len(bucket.asked)
        mirror.push()
        assert len(bucket.asked) == writes  # nothing is new
        (mirror.folder / "a.txt").unlink()
        workdir.write_text(mirror.folder / "deep" / "b.txt", "3")
        mirror.push()
        place = mirror.folder
    assert bucket.names() == ["bucket/run/deep/b.txt"]
    assert bucket.objects["bucket/run/deep/b.txt"].data == b"3"
    assert not place.exists()


def test_files_are_sent_in_the_order_in_which_they_were_changed(bucket):
    with workdir.spool("gs://bucket/run") as mirror:
        for i, name in enumerate(("z", "a", "m")):
            workdir.write_text(mirror.folder / name, name)
            os.utime(mirror.folder / name, ns=(i, i))
        mirror.push()
    found = {name: one.generation for name, one in bucket.objects.items()}
    assert sorted(found, key=found.__getitem__) == [f"bucket/run/{n}" for n in "zam"]


def test_what_another_host_sends_comes_and_what_it_removes_goes(bucket):
    with workdir.spool("gs://bucket/run") as mirror:
        workdir.write_text(mirror.folder / "mine", "1")
        mirror.push()
        bucket.put("bucket/run/theirs", b"2")
        workdir.write_text(mirror.folder / "unsent", "3")
        mirror.pull()
        assert (mirror.folder / "theirs").read_text() == "2"
        bucket.objects.pop("bucket/run/theirs")
        mirror.pull()
        assert sorted(p.name for p in mirror.folder.glob("[!c]*")) == ["mine", "unsent"]
        mirror.push()
    assert bucket.names() == ["bucket/run/mine", "bucket/run/unsent"]


def test_a_reader_asks_only_for_what_is_new(bucket):
    bucket.put("bucket/run/config.json", b"{}")
    bucket.put("bucket/run/.lock", b"somebody")
    bucket.put("bucket/run/checkpoints/00000001/x", b"large")
    place = workdir.here("gs://bucket/run")
    assert (place / "config.json").read_bytes() == b"{}"
    bucket.put("bucket/run/metrics.jsonl", b"")
    begin = len(bucket.asked)
    assert workdir.here("gs://bucket/run") == place
    read = [a[1] for a in bucket.asked[begin:] if "/o/" in a[1]]
    assert read and all("metrics.jsonl" in name for name in read)
    with workdir.copied("gs://bucket/run") as (folder_, send):
        workdir.write_text(folder_ / "report.html", "page")
        send()
    assert "bucket/run/report.html" in bucket.objects
    assert "bucket/run/.lock" in bucket.objects  # it is not the reader's to remove


STATE = {"weights": jnp.arange(6.0).reshape(2, 3), "step": jnp.int32(3)}


@pytest.fixture(params=["by Orbax", "carried"])
def way(request, monkeypatch):
    """As to gs://, or as to a store that Orbax cannot write to."""
    if request.param == "carried":
        monkeypatch.setattr(carried, "_TAKEN", "none")


@pytest.mark.usefixtures("way")
def test_a_checkpoint_of_a_store_is_whole_once_its_manifest_is_there(bucket):
    run = "gs://bucket/run"
    for step in (1, 2, 3):
        workdir.save(run, step, STATE, {"at": step}, keep=2)
    assert workdir.latest_step(run) == 3
    assert "bucket/run/checkpoints/00000001/manifest.json" not in bucket.objects
    found, beside = workdir.restore(run, STATE, 2)
    np.testing.assert_array_equal(found["weights"], STATE["weights"])
    assert beside == {"at": 2}
    with workdir.spool(run) as mirror:  # a folder that says where they are
        assert workdir.latest_step(mirror.folder) == 3
    bucket.objects.pop("bucket/run/checkpoints/00000003/manifest.json")
    assert workdir.latest_step(run) == 2  # killed before its end
    workdir.save(run, 3, STATE, None, keep=1)
    left = {name.split("/")[3] for name in bucket.names("bucket/run/checkpoints/")}
    assert left == {"00000003"}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("how", ["gone", "cut", "changed"])
def test_a_damaged_checkpoint_of_a_store_is_set_aside(bucket, how):
    run = "gs://bucket/run"
    workdir.save(run, 1, STATE, None)
    workdir.save(run, 2, STATE, None)
    above = "bucket/run/checkpoints/00000002/state/"
    name = next(n for n in bucket.names(above) if "/d/" in n)
    data = bucket.objects.pop(name).data
    if how != "gone":
        bucket.put(name, data[:-1] if how == "cut" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(Damaged, match=f"00000002 is damaged.*{name[len(above) :][:8]}"):
        workdir.restore(run, STATE)
    said = []
    _, beside = workdir.restore_newest(run, STATE, say=said.append)
    assert beside is None and "looking at the one before it" in said[0]
    assert workdir.latest_step(run) == 1
    workdir.save(run, 2, STATE, None)
    workdir.restore(run, STATE, 2)


def test_what_is_carried_leaves_nothing_on_this_disk(bucket, monkeypatch):
    monkeypatch.setattr(carried, "_TAKEN", "none")
    with workdir.spool("gs://bucket/run") as mirror:
        workdir.save(mirror.folder, 1, STATE, None)
        workdir.restore(mirror.folder, STATE)
        here = [p.name for p in (mirror.folder / "checkpoints").iterdir()]
        assert here == [".at"]
        mirror.push()
    assert all("/checkpoints/00000001/" in name for name in bucket.names())


def test_a_store_that_does_not_take_what_is_carried_keeps_the_older(
    bucket, monkeypatch
):
    monkeypatch.setattr(carried, "_TAKEN", "none")
    run = "gs://bucket/run"
    workdir.save(run, 1, STATE, None)

    def refuse(place, files):
        raise OSError(f"{place} is not to be written")

    with monkeypatch.context() as patch:
        patch.setattr(carried._store, "send", refuse)
        with pytest.raises(OSError, match="cannot be written to gs://bucket/run"):
            workdir.save(run, 2, STATE, None)
    assert workdir.latest_step(run) == 1
    assert not list(carried.stage(run).iterdir())
    workdir.restore(run, STATE)


def test_several_processes_do_not_write_where_one_has_to_carry():
    hosts = type("Hosts", (), {"count": 2})()
    with pytest.raises(ValueError, match="s3://b/run takes .* one process.* are 2"):
        workdir.check_writers("s3://b/run", hosts)
    workdir.check_writers("gs://b/run", hosts)
    workdir.check_writers("s3://b/run", None)


def test_a_path_of_a_store_is_one_run_s(bucket):
    with (
        workdir.leased("gs://bucket/run", beat=0.1),
        pytest.raises(ValueError, match=f"process {os.getpid()} .*is at work here"),
        workdir.leased("gs://bucket/run", beat=0.1),
    ):
        pass
    assert bucket.names() == []


def test_a_dead_holder_of_this_machine_is_followed_at_once(bucket):
    text = f"process 4000000 on {platform.node()}\nbeat 1.0\nkey\n"
    bucket.put("bucket/run/.lock", text.encode())
    said = []
    with workdir.leased("gs://bucket/run", say=said.append):
        assert not said


def test_a_silent_holder_of_another_machine_is_followed_after_a_while(
    bucket, monkeypatch
):
    monkeypatch.setattr(leases, "_SETTLE", 0.0)
    bucket.put("bucket/run/.lock", b"process 1 on elsewhere\nbeat 1.0\nkey\n")
    said = []
    began = time.monotonic()
    with workdir.leased("gs://bucket/run", beat=0.1, say=said.append) as held:
        assert time.monotonic() - began >= 0.4
        assert "process 1 on elsewhere" in said[0]
        held.check()
        bucket.put("bucket/run/.lock", b"process 2 on elsewhere\nbeat 1.0\nkey\n")
        until = time.monotonic() + 10
        while not held.taken and time.monotonic() < until:
            time.sleep(0.02)
        with pytest.raises(ValueError, match="now of process 2 on elsewhere"):
            held.check()
    assert bucket.names() == ["bucket/run/.lock"]  # theirs


def test_a_list_of_runs_tells_which_of_a_store_live(tmp_path):
    lock = tmp_path / ".lock"
    lock.write_text(f"process 1 on elsewhere\nbeat {time.time():.3f}\nkey\n")
    assert listing.is_running(tmp_path)
    lock.write_text("process 1 on elsewhere\nbeat 1000.0\nkey\n")
    assert not listing.is_running(tmp_path)


def test_only_runs_are_written_to_a_store():
    with pytest.raises(ValueError, match="gs:/+bucket/x.* is a path of a store"):
        workdir.write_text("gs://bucket/x/y.json", "{}")
    with (
        pytest.raises(ValueError, match="is a path of a store"),
        workdir.locked("gs:/bucket/x"),
    ):
        pass
    assert not pathlib.Path("gs:").exists()
