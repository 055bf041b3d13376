"""The bench of all estimators: both sides give the same numbers, and it says them."""

import csv
import io

import numpy as np
import pytest

from hiper_jax.estimators import ESTIMATORS
from hiper_jax.experiments.bench import advantage_sides, advantages


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    asked = advantages.Advantages(out=str(out), rounds=1, plain_rounds=1)
    return out, advantages.main(asked, shapes=((16, 12),))


def test_every_estimator_is_timed_beside_a_loop_that_gives_its_numbers(ran):
    """`main` compares before it writes: see the next tests for what that notices."""
    _, found = ran
    times = found["16x12"]
    assert set(ESTIMATORS) <= set(times) and advantages.FLOOR in times
    assert set(advantage_sides.PLAIN) == set(advantage_sides.ours())
    for name in ESTIMATORS:
        assert times[name]["plain ms"] > 0 and times[name]["ms"] > 0


@pytest.mark.parametrize("name", ["grpo", "gae, rlax"])
def test_a_side_with_other_numbers_is_refused(name):
    right = {"plain grpo": np.ones((2, 3)), "plain gae": np.ones((2, 3))}
    advantages.check(right | {name: np.ones((2, 3), np.float32)})
    with pytest.raises(RuntimeError, match=f"{name} and its plain loop differ by 0.05"):
        advantages.check(right | {name: np.full((2, 3), 1.1)})
    with pytest.raises(RuntimeError, match="differ by nan"):
        advantages.check(right | {name: np.full((2, 3), np.nan)})


def test_tables_and_picture_are_written(ran):
    out, found = ran
    rows = list(csv.DictReader(io.StringIO((out / "advantages.csv").read_text())))
    assert {row["estimator"] for row in rows} == set(found["16x12"])
    assert {row["shape"] for row in rows} == {"16x12"}
    text = (out / "advantages.md").read_text()
    assert "| hae |" in text and "HAE over a flat GAE scan:" in text
    assert (out / "advantages.png").read_bytes()[:4] == b"\x89PNG"


def test_the_aim_stands_beside_the_ratio():
    times = {"hae": {"ms": 0.5, "CPU ms": 0.5}, advantages.FLOOR: {"ms": 0.2}}
    times[advantages.FLOOR]["CPU ms"] = 0.2
    text = advantages.table({"128x50": times})
    assert "HAE over a flat GAE scan: 2.5x (3x at most is the aim)" in text
