"""The pool loses no episode and names whoever stands still."""

import os
import random
import signal
import subprocess
import sys
import time

import pool_envs
import pytest

from hiper_jax.act.envs.env import Env
from hiper_jax.act.envs.pool import Pool, PoolError


def _episodes(pool, size, *, kill_at=None):
    """Plays the same pseudo-random episodes in all slots; returns what was seen."""
    rng = random.Random(7)
    seen = [[result[0]] for result in pool.reset(range(size), list("abcdefgh")[:size])]
    live, turn = list(range(size)), 0
    while live:
        if turn == kill_at:
            os.kill(pool.pids()[0], signal.SIGKILL)
        actions = [rng.choice(["left", "right"]) for _ in range(size)]
        results = pool.step(live, [actions[i] for i in live])
        for slot, result in zip(live, results, strict=True):
            seen[slot].append(result)
        live = [
            slot
            for slot, result in zip(live, results, strict=True)
            if not (result[2] or result[3])
        ]
        turn += 1
    return seen


def _gone(pid, timeout=30.0):
    """Whether the process ends within the time."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_toy_is_an_env():
    assert isinstance(pool_envs.Counter(), Env)


def test_a_killed_worker_loses_no_episode():
    with Pool(pool_envs.Counter, 5, workers=2) as pool:
        undisturbed = _episodes(pool, 5)
        assert pool.restarts == 0
        assert _episodes(pool, 5, kill_at=3) == undisturbed
        assert pool.restarts == 1
    ends = [episode[-1] for episode in undisturbed]
    assert all(end[2] != end[3] for end in ends)


def test_results_come_in_the_order_of_the_slots():
    with Pool(pool_envs.Counter, 4, workers=2) as pool:
        observations = [obs for obs, _ in pool.reset([3, 0, 2], ["x", "y", "z"])]
        assert observations == ["x", "y", "z"]
        steps = pool.step([2, 3], ["left", "right"])
        assert [step[0] for step in steps] == ["z left", "x right"]
        assert steps[0][1:4] == (0.0, False, False)


def test_a_game_is_played_where_it_is_loaded():
    """Every game twice, in another order, and in groups: each is loaded once."""
    games = list("abcdefgh")
    with Pool(pool_envs.Loading, 8, workers=2) as pool:
        for order in (games, games[::-1], games[3:] + games[:3]):
            slots = pool.choose_slots(range(8), order)
            assert sorted(slots) == list(range(8))
            loads = {obs for obs, _ in pool.reset(slots, order)}
        assert loads == {"4 loaded"}
        groups = ["x", "y"] * 4
        pool.reset(pool.choose_slots(range(8), groups), groups)
        assert {obs for obs, _ in pool.reset([0, 1], ["x", "y"])} <= {"5 loaded"}
        # One worker full: the other loads it, too, and nobody waits for a slot.
        (home,) = pool.choose_slots(range(8), ["x"])
        (slot,) = pool.choose_slots([home + 1], ["x"])
        assert pool.reset([slot], ["x"])[0][0] == "6 loaded"


def test_answers_arrive_while_others_still_play():
    with Pool(pool_envs.Counter, 2, workers=2) as pool:
        pool.reset([0, 1], ["a", "b"])
        pool.send_step([0, 1], ["nap", "left"])
        assert pool.pending == [0, 1]
        assert [slot for slot, _ in pool.recv()] == [1]
        pool.send_step([1], ["left"])
        late = dict(pool.recv())
        while pool.pending:
            late |= dict(pool.recv())
        assert late[0][0] == "a nap" and late[1][0] == "b left left"
        with pytest.raises(RuntimeError, match="send a request first"):
            pool.recv()


def test_a_stuck_worker_is_killed_and_then_named():
    with Pool(pool_envs.Counter, 3, workers=1, step_timeout=1.0) as pool:
        pool.reset([0, 1, 2], ["a", "b", "c"])
        pool.step([0, 1, 2], ["left", "left", "left"])
        stuck = pool.pids()[0]
        with pytest.raises(PoolError) as error:
            pool.step([0, 1, 2], ["left", "hang", "left"])
        text = str(error.value)
        assert "Worker 0" in text and "'hang'" in text and "task b" in text
        assert pool.restarts == 2
        assert _gone(stuck)


def test_a_nondeterministic_environment_is_noticed_at_the_replay():
    with Pool(pool_envs.Forgetful, 1, workers=1) as pool:
        pool.reset([0], ["a"])
        pool.step([0], ["left"])
        os.kill(pool.pids()[0], signal.SIGKILL)
        with pytest.raises(PoolError, match="not deterministic"):
            pool.step([0], ["left"])


def test_an_error_names_the_task_and_leaves_the_pool_usable():
    with Pool(pool_envs.Counter, 2, workers=1) as pool:
        with pytest.raises(FileNotFoundError, match="list the games again.*slot 0"):
            pool.reset([0], ["missing"])
        with pytest.raises(RuntimeError, match="(?s)KeyError.*grammar.*broken"):
            pool.reset([1], ["broken"])
        assert pool.reset([0, 1], ["a", "b"])[1][0] == "b"
        assert pool.restarts == 0


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="at least one slot"):
        Pool(pool_envs.Counter, 0)
    with pytest.raises(ValueError, match="seconds above 0"):
        Pool(pool_envs.Counter, 1, step_timeout=0.0)
    with pytest.raises(ValueError, match="make_env cannot be sent"):
        Pool(lambda: pool_envs.Counter(), 1, workers=1)
    with Pool(pool_envs.Counter, 2, workers=1) as pool:
        with pytest.raises(RuntimeError, match="reset it first"):
            pool.step([0], ["left"])
        with pytest.raises(ValueError, match="each slot once"):
            pool.reset([0, 0], ["a", "b"])
        pool.send_reset([0], ["a"])
        with pytest.raises(RuntimeError, match="still waits"):
            pool.send_reset([0], ["b"])


def test_workers_do_not_load_jax_and_end_with_the_pool():
    with Pool(pool_envs.Modules, 2, workers=2) as pool:
        pool.reset([0, 1], ["a", "b"])
        assert [step[0] for step in pool.step([0, 1], ["", ""])] == ["", ""]
        pids = pool.pids()
    assert all(_gone(pid) for pid in pids)


def test_workers_leave_a_ctrl_c_to_the_parent():
    with Pool(pool_envs.Counter, 1, workers=1) as pool:
        pool.reset([0], ["a"])
        os.kill(pool.pids()[0], signal.SIGINT)
        assert pool.step([0], ["left"])[0][0] == "a left"
        assert pool.restarts == 0


def test_workers_end_when_the_parent_is_killed_in_mid_step():
    code = (
        "import sys, time; sys.path[:] = %r\n"
        "import pool_envs\n"
        "from hiper_jax.act.envs.pool import Pool\n"
        "pool = Pool(pool_envs.Counter, 2, workers=2)\n"
        "pool.reset([0, 1], ['a', 'b']); pool.send_step([0, 1], ['hang', 'hang'])\n"
        "print(*pool.pids(), flush=True); time.sleep(1000)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code % sys.path], stdout=subprocess.PIPE, text=True
    ) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    assert all(_gone(pid) for pid in pids)


# What a script, a notebook or standard input defines, and how it is played.
SCRIPT = """
import functools, sys
sys.path += {path!r}
from hiper_jax.act.envs.pool import Pool
import pool_envs

class Mine(pool_envs.Counter):
    def step(self, action):
        import os
        seen = super().step(action)
        return (seen[0] + " by " + str(os.getpid()), *seen[1:])

def make(length):
    return Mine(length)

def play(make_env, **options):
    with Pool(make_env, 2, **options) as pool:
        pool.reset([0, 1], ["a", "b"])
        return {{step[0].split()[-1] for step in pool.step([0, 1], ["left", "left"])}}
"""
PLAYS = "print(len(play(functools.partial(make, 3), workers=2)))\n"


def _run(*words, **options):
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=99,
        **options,
    )


def _last_line(done):
    """The error's line, of a process whose only traceback is its own."""
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1, done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def text():
    return SCRIPT.format(path=sys.path)


def test_what_a_script_defines_is_played_in_worker_processes(tmp_path, text):
    script = tmp_path / "script.py"
    script.write_text(text + "if __name__ == '__main__':\n    " + PLAYS)
    done = _run(str(script))
    assert done.stdout == "2\n", done.stderr
    done = _run("-m", "script", cwd=tmp_path)
    assert done.stdout == "2\n", done.stderr


def test_a_script_that_guards_nothing_is_told_to(tmp_path, text):
    script = tmp_path / "script.py"
    script.write_text(text + PLAYS)
    said = _last_line(_run(str(script)))
    assert "PoolError: worker processes cannot load the environment" in said
    assert 'if __name__ == "__main__":' in said


def test_what_workers_cannot_import_is_refused_in_one_line(text):
    """From standard input, as from a notebook, there is nothing to import."""
    said = _last_line(_run("-", input=text + PLAYS))
    assert "notebook or on standard input" in said and "workers=0" in said
    for code in ("lambda: make(3)", "(lambda n: lambda: make(n))(3)"):
        said = _last_line(_run("-c", f"{text}\nplay({code}, workers=1)"))
        assert said.startswith("ValueError: make_env cannot be sent to a worker")
        assert "a module defines" in said and "workers=0" in said


def test_anything_is_played_in_this_process_without_workers(text):
    plays = "import os\nprint(play(lambda: make(3), workers=0) == {str(os.getpid())})\n"
    for done in (_run("-", input=text + plays), _run("-c", text + plays)):
        assert done.stdout == "True\n", done.stderr


def test_a_module_that_workers_cannot_import_is_named(tmp_path):
    """Found in the parent by a path that it forgets again."""
    (tmp_path / "vanishing.py").write_text(
        "from pool_envs import Counter as Env\nclass Mine(Env): pass\n"
    )
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"sys.path.insert(0, {str(tmp_path)!r}); import vanishing; sys.path.pop(0)\n"
        "from hiper_jax.act.envs.pool import Pool\n"
        "with Pool(vanishing.Mine, 2, workers=2) as pool: pool.reset([0], ['a'])\n"
    )
    said = _last_line(_run("-c", code))
    assert "No module named 'vanishing'" in said and "workers=0" in said


def test_without_workers_the_same_is_seen_and_errors_are_the_environments_own():
    with Pool(pool_envs.Counter, 5, workers=2) as pool:
        seen = _episodes(pool, 5)
    with Pool(lambda: pool_envs.Counter(), 5, workers=0) as pool:
        assert _episodes(pool, 5) == seen
        assert pool.pids() == [] and pool.restarts == 0
        pool.send_reset([3, 1], ["a", "b"])
        assert pool.pending == [1, 3]
        assert [slot for slot, _ in pool.recv()] == [3]
        with pytest.raises(KeyError, match="grammar") as error:
            pool.reset([2], ["broken"])
        assert error.value.__notes__ == ["slot 2, reset of broken"]
        assert pool.reset([2], ["c"])[0][0] == "c"


def test_a_notebooks_environment_is_refused_by_workers_and_played_without(text):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    cell = nbformat.v4.new_code_cell(
        text
        + "import os\nprint(play(lambda: Mine(3), workers=0) == {str(os.getpid())})\n"
        "try:\n    Pool(Mine, 2)\nexcept ValueError as error:\n    print(error)"
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=120).execute()
    said = "".join(output["text"] for output in cell["outputs"]).splitlines()
    assert said[0] == "True" and len(said) == 2
    assert said[1].startswith("make_env is defined in a notebook")
