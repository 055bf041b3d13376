"""Work on several processes: in order, and no wait without end."""

import os
import subprocess
import sys
import time

import pytest

from hiper_jax.act.envs.parallel import mapper


def double(job):
    time.sleep(0.05 if job == 0 else 0.0)
    return 2 * job


def misbehave(job):
    if job == "die":
        os._exit(3)
    if job == "hang":
        time.sleep(600)
    if job == "raise":
        raise TimeoutError("the job's own")
    return job


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers):
    with mapper(workers) as map_all:
        for _ in range(2):
            assert list(map_all(double, range(6))) == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("job", "error", "says"),
    [
        ("die", RuntimeError, "worker process died at or before die"),
        ("hang", RuntimeError, "no result in 5 s from the worker on hang"),
        ("raise", TimeoutError, "the job's own"),
    ],
)
def test_what_goes_wrong_names_the_job_and_leaves_nobody_behind(job, error, says):
    began = time.monotonic()
    with pytest.raises(error, match=says):
        with mapper(2, timeout=5.0) as map_all:
            list(map_all(misbehave, [job]))
    assert time.monotonic() - began < 60


def test_from_standard_input_it_says_what_to_do():
    """Workers import the main module, which standard input is not: no endless loop."""
    script = (
        "from hiper_jax.act.envs.parallel import mapper\n"
        "with mapper(2) as map_all:\n    print(list(map_all(abs, [-1, -2])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, timeout=120
    )
    assert done.returncode and "use workers=1" in done.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from hiper_jax.act.envs.parallel import mapper\n"
        "def who(job):\n    time.sleep(0.2)\n    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    with mapper(2) as map_all:\n"
        "        print(*set(map_all(who, range(4))), flush=True)\n"
        "        time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    )
    try:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert workers and all(alive(pid) for pid in workers)
    finally:
        parent.kill()
        parent.communicate(timeout=60)
    until = time.monotonic() + 30
    while any(alive(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in workers if alive(pid)]


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be buried does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False
