"""What a run tells while it goes looks right in a terminal and in a file."""

import os
import pty
import re
import subprocess
import sys
import textwrap

import pytest

from hiper_jax.experiments import progress

METRICS = {
    "rollout/success": 0.4375,
    "rollout/score": 0.4375,
    "rollout/turns": 21.3,
    "policy/switch_rate": 0.48,
    "policy/entropy": 0.0651,
    "loss/kl": 0.00312,
}
TIMING = {
    "seconds": 12.0,
    "environment": 3.0,
    "generation": 6.0,
    "update": 2.4,
    "left": 312.0,
}
WHOLE = (
    "iteration 3/30  success  44 %  turns 21.3  switches 48 %  kl 0.0031  "
    "entropy 0.065  12 s  (environment 25 %, generation 50 %, update 20 %)  "
    "5.2 min left"
)
SCRIPT = """
import time
from hiper_jax.experiments import progress
{setup}
show = progress.bar("iteration 1: rollout", every={every})
for done in (0, 1, 3, 4):
    show(done, 4)
    time.sleep(0.15)
progress.print_iteration(1, 2, {metrics}, {timing})
"""


def script(every: float) -> list[str]:
    code = SCRIPT.format(setup="", every=every, metrics=METRICS, timing=TIMING)
    return [sys.executable, "-c", textwrap.dedent(code)]


def in_terminal(command: list[str], columns: int) -> str:
    """What a command writes to a terminal of that width."""
    ours, its = pty.openpty()
    env = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen(command, stdout=its, env=env) as process:
        os.close(its)
        said = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            said += part
        assert process.wait(60) == 0
    os.close(ours)
    return said.decode().replace("\r\n", "\n")


def on_screen(said: str) -> list[str]:
    """The lines that a terminal shows in the end: `\\r` goes back to a line's start."""
    lines = []
    for line in said.split("\n"):
        shown = ""
        for part in line.split("\r"):
            part = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", part)
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]


def test_a_line_tells_all_that_there_is():
    assert progress.iteration_line(3, 30, METRICS, TIMING) == WHOLE


def test_a_score_is_told_where_it_is_not_the_success():
    line = progress.iteration_line(3, 30, METRICS | {"rollout/score": 0.77}, TIMING)
    assert "success  44 %  score 0.77  turns" in line


@pytest.mark.parametrize("missing", ["loss/kl", "policy/switch_rate", "policy/entropy"])
def test_a_metric_that_is_not_there_is_left_out(missing):
    metrics = {name: value for name, value in METRICS.items() if name != missing}
    line = progress.iteration_line(3, 30, metrics, TIMING)
    word = {"loss/kl": "kl", "policy/switch_rate": "switches"}.get(missing, "entropy")
    assert word not in line and "nan" not in line
    assert line.count("  ") >= WHOLE.count("  ") - 2


def test_a_run_without_any_known_metric_still_tells_how_far_it_is(capsys):
    progress.print_iteration(3, 30, {}, TIMING)
    assert capsys.readouterr().out.startswith("iteration 3/30  12 s  (")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_a_line_fits_a_terminal_and_keeps_what_matters_most(width):
    line = progress.iteration_line(3, 30, METRICS, TIMING, width)
    assert len(line) <= width
    assert line.startswith("iteration 3/30  success  44 %")
    assert width < 60 or line.endswith("5.2 min left")


def test_a_collapsed_planner_is_warned_of(capsys):
    progress.print_iteration(1, 2, METRICS | {"policy/switch_rate": 0.01}, TIMING)
    assert "--learn.keep-penalty" in capsys.readouterr().out
    progress.print_iteration(1, 2, METRICS, TIMING)
    assert "warning" not in capsys.readouterr().out


def test_it_is_said_once_when_penalties_lead(capsys):
    for step, share in ((1, 0.6), (1, 0.1), (2, 0.6)):
        metrics = METRICS | {"group/of_penalties": share}
        progress.print_iteration(step, 2, metrics, TIMING)
        said = capsys.readouterr().out
        assert ("60 % of what is learned" in said) == (step == 1 and share > 0.5)
        assert ("--learn.refused-penalty 0" in said) == ("warning" in said)


def test_in_a_pipe_lines_are_whole_and_nothing_is_rewritten():
    done = subprocess.run(script(every=0.0), capture_output=True, text=True, timeout=60)
    assert done.stderr == "" and "\r" not in done.stdout and "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "iteration 1: rollout: 0/4 episodes"
    assert re.fullmatch(
        r"iteration 1: rollout: 1/4 episodes, [0-9]+ s left", lines[1]
    ), lines
    assert lines[-1] == WHOLE.replace("3/30", "1/2")
    assert len(lines) == 4  # what is finished has no line of its own


def test_in_a_pipe_what_is_soon_done_has_no_line():
    done = subprocess.run(
        script(every=60.0), capture_output=True, text=True, timeout=60
    )
    assert done.stdout == WHOLE.replace("3/30", "1/2") + "\n" and done.stderr == ""


def test_in_a_terminal_the_line_is_rewritten_and_goes_away():
    said = in_terminal(script(every=0.0), columns=80)
    assert "\r" in said and "3/4" in said
    assert re.search(r"iteration 1: rollout: +25%.*1/4 \[[0-9:]+<[0-9:]+,", said)
    shown = on_screen(said)
    assert len(shown) == 1 and shown[0].startswith("iteration 1/2  success  44 %")
    assert len(shown[0]) <= 80


def test_in_a_terminal_what_is_done_at_once_shows_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    progress.bar("quick")(4, 4)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s left"), (99.0, "99 s left"), (600, "10.0 min left"), (9e3, "2.5 h")],
)
def test_time_left_is_told_in_the_unit_that_reads_best(seconds, text):
    line = progress.iteration_line(1, 2, METRICS, TIMING | {"left": seconds})
    assert text in line
