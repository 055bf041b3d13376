"""Checkpoints know when they are damaged, and a full disk leaves the older ones."""

import os
import pathlib
import random
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from hiper_jax import workdir
from hiper_jax.workdir.checked import MANIFEST, Damaged


def state(scale=1.0):
    kernel = scale * np.random.default_rng(0).normal(size=(30, 40))
    return {"kernel": jnp.asarray(kernel, jnp.float32), "step": jnp.int32(scale)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    for step in (1, 2):
        workdir.save(run, step, state(step), {"of": step})
    return run


def copied(saved, tmp_path) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """A run, and the files of its newest checkpoint."""
    run = tmp_path / "run"
    shutil.copytree(saved, run)
    newest = run / "checkpoints" / "00000002"
    return run, sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)


def test_every_changed_byte_is_noticed(saved, tmp_path):
    run, files = copied(saved, tmp_path)
    draw = random.Random(0)
    for file in files:
        whole = file.read_bytes()
        for place in [0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in "ab")]:
            changed = bytearray(whole)
            changed[place] ^= 1 << draw.randrange(8)
            file.write_bytes(changed)
            try:
                found, _ = workdir.restore(run, state())
            except Damaged as error:
                assert "00000002 is damaged" in str(error)
                assert "\n" not in str(error)
            else:  # of the manifest itself: a space, or a digit of nothing
                assert file.name == MANIFEST
                np.testing.assert_array_equal(found["kernel"], state(2)["kernel"])
        file.write_bytes(whole)
    workdir.restore(run, state())


@pytest.mark.parametrize("damage", ["cut", "gone", "empty", "longer"])
def test_a_cut_or_missing_file_is_noticed_and_the_one_before_it_is_taken(
    saved, tmp_path, damage
):
    run, files = copied(saved, tmp_path)
    for file in files:
        whole = file.read_bytes()
        if damage == "gone":
            file.unlink()
        else:
            cut = {"cut": whole[:-1], "empty": b"", "longer": whole + b" "}[damage]
            file.write_bytes(cut)
        if file.name != MANIFEST or damage in ("gone", "empty"):
            with pytest.raises(Damaged, match="00000002 is damaged"):
                workdir.restore(run, state())
        file.write_bytes(whole)
    files[0].unlink()
    said = []
    found, beside = workdir.restore_newest(run, state(), say=said.append)
    assert beside == {"of": 1} and int(found["step"]) == 1
    (line,) = said
    assert "00000002 is damaged" in line and "gone" in line
    # Set aside: the run comes to that step again, and saves it.
    assert workdir.latest_step(run) == 1
    assert (run / "checkpoints" / "00000002.damaged").is_dir()
    workdir.save(run, 2, state(5), {"of": 2})
    assert int(workdir.restore(run, state())[0]["step"]) == 5


def test_where_none_is_whole_it_is_said_and_nothing_is_moved(saved, tmp_path):
    run, _ = copied(saved, tmp_path)
    for manifest in run.rglob(MANIFEST):
        manifest.write_text("{}")
    with pytest.raises(Damaged, match="none of its checkpoints is whole"):
        workdir.restore_newest(run, state())
    assert workdir.latest_step(run) == 2
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        workdir.restore_newest(tmp_path / "nowhere", state())


def test_other_settings_are_no_damage(saved, tmp_path):
    run, _ = copied(saved, tmp_path)
    with pytest.raises(ValueError, match="use the model and settings") as caught:
        workdir.restore_newest(run, state() | {"kernel": jnp.zeros(3)})
    assert not isinstance(caught.value, Damaged)


def test_checkpoints_from_before_there_were_manifests_load(saved, tmp_path):
    run, _ = copied(saved, tmp_path)
    newest = run / "checkpoints" / "00000002"
    beside = newest / "extra" / "data.json"
    assert '"sealed": true' in beside.read_text()
    beside.write_text('{"json": {"of": 2}}')
    (newest / MANIFEST).unlink()
    found, extra = workdir.restore(run, state())
    assert extra == {"of": 2} and int(found["step"]) == 2


FULL = """
import resource, sys
import jax.numpy as jnp
import numpy as np
from hiper_jax import workdir
noise = np.random.default_rng(0).normal(size=300_000)
run, state = sys.argv[1], {"kernel": jnp.asarray(noise, jnp.float32)}
workdir.save(run, 1, {"kernel": jnp.zeros(5)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
said = []
for write in (
    lambda: workdir.save(run, 2, state),
    lambda: workdir.write_bytes(run + "/b", bytes(200_000)),
    lambda: workdir.write_json(run + "/j", list(range(100_000))),
):
    try:
        write()
    except OSError as error:
        said.append(str(error))
print(*said, sep="\\n")
workdir.restore(run, {"kernel": jnp.zeros(5)})
"""


def test_a_disk_that_takes_no_more_is_said_and_what_was_there_is_whole(tmp_path):
    """A real limit on the size of files, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"XLA_FLAGS": ""},
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 3 and all("is full" in line for line in lines), done.stdout
    assert "Traceback" not in done.stderr
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000001"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (
        lambda: workdir.write_text(tmp_path / "file" / "deep" / "a", ""),
        lambda: workdir.save(tmp_path / "file", 1, state()),
    ):
        with pytest.raises(OSError, match="cannot be written .Not a directory"):
            write()
