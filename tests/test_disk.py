"""A disk that is full or closed: one line, nothing half-written, what was stays whole.

On a small file system of the test's own, where one may be mounted. And folders that
several processes want at once.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import small
import test_gguf
import tiny_runs

from hiper_jax import _disk, workdir
from hiper_jax.act.envs.worlds import alfworld, sokoban
from hiper_jax.act.envs.worlds.webshop import files, shelf
from hiper_jax.act.envs.worlds.webshop.make import make_shop
from hiper_jax.experiments import commands
from hiper_jax.experiments.report import report
from hiper_jax.networks.agent import save_agent

PAGE, PAGES = 4096, 512  # of the small file system


def write_metrics(disk, round_, sources):
    many = {f"loss/{i}": round_ + i / 7 for i in range(2000)}
    workdir.truncate_after(disk, round_ - 1)  # as a resumed run does
    workdir.append_metrics(disk, round_, many, {"seconds": 1.0})


def write_episodes(disk, round_, sources):
    workdir.write_episodes(disk, 1, small.episodes(round_, (3,) * 40, (True,) * 40))


def write_report(disk, round_, sources):
    played = {"game": "g", "task_type": "t", "won": True, "score": 1.0, "turns": 2}
    record = {"tag": "before", "split": "s", "step": 0, "episodes": [played] * round_}
    workdir.write_json(disk / "eval" / "before-s.json", record)
    workdir.write_json(disk / "config.json", {"seed": round_})
    report.write_report(disk)


def write_model(disk, round_, sources):
    agent, actor, critic = small.agent(round_)
    save_agent(disk / "model", agent, actor, critic, tokenizer=sources / "model")


def write_import(disk, round_, sources):
    source, target = str(sources / f"{round_}.gguf"), str(disk / "model")
    commands._import(commands.ImportModel(source, target))


def write_games(disk, round_, sources):
    alfworld.make(
        disk / f"games-{round_}", train=6, seen=0, unseen=0, seed=round_, workers=1,
        receptacles=(5, 6), objects=(5, 6), say=lambda line: None,
    )  # fmt: skip


def write_levels(disk, round_, sources):
    asked = tiny_runs.levels(disk, seed=round_, levels=60, cache=str(disk / "games"))
    sokoban.WORLD.prepare(asked, lambda line: None)


def write_shop(disk, round_, sources):
    make_shop(disk / f"shop-{round_}", products=30, seed=round_)


def write_shelf(disk, round_, sources):
    shop = disk / f"shop-{round_}"
    shelf.open_store(files.find_files(shop))


# What they write appears at once; of the others each file for itself does.
AT_ONCE = (
    write_episodes, write_model, write_import, write_games,
    write_levels, write_shop, write_shelf,
)  # fmt: skip
WRITERS = (*AT_ONCE, write_metrics, write_report)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """What is copied and converted, made where there is room."""
    place = tmp_path_factory.mktemp("sources")
    tiny_runs.saved(place)
    for round_, step in ((1, 1e-5), (2, 1e-6)):
        changes = {"llama__attention__layer_norm_rms_epsilon": step}
        test_gguf._made(place / f"{round_}.gguf", **changes)
    return place


@pytest.fixture
def disk(tmp_path):
    """A small file system; skips where none may be mounted."""
    folder, size = tmp_path / "disk", f"size={PAGES * PAGE}"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    if (
        not shutil.which("mount")
        or subprocess.run(words, capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def tree(folder) -> dict[str, bytes]:
    """All that lies there."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != "fill")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def fill(folder, left: int) -> None:
    """Leaves room for some pages."""
    free = os.statvfs(folder).f_bavail * PAGE - left * PAGE
    (folder / "fill").write_bytes(bytes(max(free, 0)))


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_or_closed_disk_is_one_line_and_what_was_there_is_whole(
    disk, sources, write, monkeypatch, capfd
):
    monkeypatch.setattr(shelf, "SMALL", 0)
    monkeypatch.setattr("time.time", lambda: 1e9)  # stands in TensorBoard's files
    monkeypatch.setenv("HIPER_CACHE", str(disk / "cache"))
    if write is write_shelf:
        for round_ in (1, 2):
            write_shop(disk, round_, sources)
    write(disk, 1, sources)
    before, full = tree(disk), 0
    afterwards = shutil.copytree(disk, disk.parent / "roomy" / "disk")
    write(afterwards, 2, sources)
    whole = tree(afterwards)
    for left in (0, 1, 2, 3, 5, 8, 13, 21, 34):
        fill(disk, left)
        try:
            write(disk, 2, sources)
        except OSError as error:
            full += 1
            assert "is full" in str(error) and "\n" not in str(error), error
        finally:
            (disk / "fill").unlink()
        found = tree(disk)
        if found == before:
            continue
        if write in AT_ONCE:
            assert found.keys() == whole.keys()  # there was room
            break
        for name, content in found.items():
            assert content in (before.get(name), whole.get(name)), name
    assert full
    before = tree(disk)
    remount = ["mount", "-o", "remount,ro", str(disk)]
    subprocess.run(remount, check=True)
    monkeypatch.setenv("HIPER_CACHE", str(disk / "cache"))
    if write is write_shelf:
        shutil.rmtree(sources / "shop-2", ignore_errors=True)
    with pytest.raises(OSError, match="cannot be written .Read-only") as caught:
        write(disk, 3 if write not in (write_import, write_shelf) else 2, sources)
    assert "\n" not in str(caught.value) and tree(disk) == before
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err


SAVE = """
import faulthandler, sys
faulthandler.dump_traceback_later(60, exit=True)
import jax.numpy as jnp
import numpy as np
from hiper_jax import workdir
run, step = sys.argv[1], int(sys.argv[2])
noise = np.random.default_rng(0).normal(size=30_000).astype(np.float32)
try:
    workdir.save(run, step, {"kernel": jnp.asarray(noise)}, keep=1)
except OSError as error:
    print(error)
print(workdir.restore(run, {"kernel": jnp.zeros(30_000)})[0]["kernel"][0] == noise[0])
"""


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_it(disk):
    """In a process of its own: Orbax's threads fail behind its back."""

    def save(step: int) -> list[str]:
        words = [sys.executable, "-c", SAVE, str(disk), str(step)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert not done.returncode and "Traceback" not in done.stderr, done.stderr
        return done.stdout.splitlines()

    assert save(1) == ["True"]
    before = tree(disk)
    fill(disk, 3)
    line, fine = save(2)
    assert f"the disk of {disk}/checkpoints is full" in line and fine == "True"
    assert tree(disk) == before
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    line, fine = save(2)
    assert f"{disk}/checkpoints cannot be written" in line and fine == "True"
    assert tree(disk) == before


MAKE = """
import sys
from hiper_jax.act.envs.world import settings_for
from hiper_jax.experiments import games
asked = settings_for(sys.argv[1])
import dataclasses
small = {"alfworld": {"train": 30, "seen": 0, "unseen": 6}, "sokoban": {"levels": 99}}
asked = dataclasses.replace(asked, cache=sys.argv[2], **small[sys.argv[1]])
print("ready", flush=True)
sys.stdin.readline()
print(games.games_folder(asked), flush=True)
"""


def started(*words: str) -> subprocess.Popen:
    """A process of its own, once it has imported what it needs."""
    process = subprocess.Popen(
        [sys.executable, "-c", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.parametrize("world", ["alfworld", "sokoban"])
def test_two_runs_that_need_the_same_games_share_them(tmp_path, world):
    """Two processes at once; before them one that was killed while it made them."""
    cache = tmp_path / "games"
    first, *both = (started(MAKE, world, str(cache)) for _ in range(3))
    go(first)
    while not list(cache.glob(".*.making")):
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    for process in both:
        go(process)
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    (folder,) = {out.splitlines()[-1] for out, _ in said}
    assert sum(out.startswith(("making", "drawing")) for out, _ in said) == 1
    assert [str(p) for p in cache.iterdir()] == [folder]
    assert any(pathlib.Path(folder).iterdir())


def test_what_killed_processes_left_is_removed_but_not_what_others_make(tmp_path):
    for name in ("dead", "alive"):
        (tmp_path / f".{name}.making").mkdir()
    script = """
import sys
from hiper_jax import _disk
from pathlib import Path
with _disk.one_at_a_time(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.readline()
"""
    process = started(script, str(tmp_path / ".alive.making"))
    _disk.made(tmp_path / "new", lambda place: place.mkdir())
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [".alive.making", ".alive.making.lock", "new"]
    with pytest.raises(TimeoutError, match="another process is at"):
        with _disk.one_at_a_time(tmp_path / ".alive.making", wait=0):
            pass
    go(process)
    process.communicate()
    assert not (tmp_path / ".alive.making.lock").exists()


def test_a_killed_sessions_folder_goes_when_the_next_session_begins(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    script = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from session_folder import session_folder
kept = session_folder("mine-")
print("ready", flush=True)
sys.stdin.readline()
"""
    killed = started(script)
    (first,) = tmp_path.iterdir()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    alive = started(script)
    (second,) = tmp_path.iterdir()
    last = started(script)
    assert first != second and second in tmp_path.iterdir()
    assert len(list(tmp_path.iterdir())) == 2
    for process in (alive, last):
        process.communicate("go\n")


def test_a_folder_without_its_mark_is_made_again(tmp_path):
    def make(place):
        place.mkdir()
        (place / "mark").write_text("")

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "half").write_text("")
    _disk.made(tmp_path / "a", make, mark="mark")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["mark"]
    _disk.made(tmp_path / "a", lambda place: 1 / 0, mark="mark")
    with pytest.raises(ZeroDivisionError):
        _disk.made(tmp_path / "b", lambda place: 1 / 0)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
