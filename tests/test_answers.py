"""A bad answer of an environment costs its episode, never the run."""

import functools
import json
import re

import numpy as np
import pool_envs
import pytest
import small
import tiny_runs
from pool_envs import BAD_RESETS, BAD_STEPS, INFO

from hiper_jax import workdir
from hiper_jax.act.envs.answers import LIMITS, Fault, reset_answer, step_answer
from hiper_jax.act.envs.pool import Pool
from hiper_jax.act.envs.world import WorldSettings, load_world
from hiper_jax.act.rollout import Sampled, make_reader, rollout
from hiper_jax.experiments.panel import evaluate
from hiper_jax.experiments.report.tables import success_table, summary

READER = make_reader(
    load_world("alfworld"), small.codec(), style="terse", max_prompt=200
)
WORDS = {
    "nan": "reward must be a number .* got nan",
    "huge": "between -1e.06 and 1e.06",
    "four": "4 of them",
    "nothing": "got None",
    "says no": "terminated must be True or False, got 'no'",
    "half": "surrogate",
    "nul": "NUL",
    "long": "5000000 bytes",
    "numbers": "must be a list of texts",
    "score": "task_score",
}


def sample(prompts, index, turn):
    """Walks right until the counter is won."""
    del index, turn
    said = small.RESPONSE.format("KEEP", "plan", "right")
    tokens = [np.array(small.codec().encode_response(said), np.int32)] * len(prompts)
    return Sampled(tokens, [np.full(len(x), -0.5, np.float32) for x in tokens])


play = functools.partial(rollout, sample=sample, reader=READER, max_turns=8)


@pytest.mark.parametrize("name", BAD_STEPS)
def test_a_bad_step_is_a_fault_that_says_why(name):
    fault = step_answer(BAD_STEPS[name], LIMITS)
    assert isinstance(fault, Fault) and fault.reason.isprintable()
    assert len(fault.reason) < 300
    assert re.search(WORDS.get(name, ""), fault.reason)


@pytest.mark.parametrize("name", BAD_RESETS)
def test_a_bad_reset_is_a_fault(name):
    assert isinstance(reset_answer(BAD_RESETS[name], LIMITS), Fault)


def test_a_good_answer_comes_back_with_plain_numbers():
    info = INFO | {"won": np.bool_(True), "task_score": 1, "more": object()}
    given = ("café 😀 \x1b", np.float32(-2.5), np.bool_(True), False, info)
    got = step_answer(given, LIMITS)
    assert got == given
    assert [type(x) for x in got] == [str, float, bool, bool, dict]
    assert step_answer(("", np.zeros(()), False, False, info), LIMITS)[1] == 0.0
    assert step_answer(("", -1e6, False, False, info), LIMITS)[1] == -1e6
    assert reset_answer(["o", info], LIMITS) == ("o", info)
    small_limits = LIMITS._replace(reward=1, text=3)
    assert isinstance(step_answer(("", 1.5, False, False, info), small_limits), Fault)
    assert isinstance(reset_answer(("😀", info), small_limits), Fault)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_pool_hands_faults_on_and_plays_on(workers):
    with Pool(pool_envs.Faulty, 3, workers=workers) as pool:
        pool.reset([0, 1, 2], ["nan", "unsendable", "fine"])
        first = pool.step([0, 1, 2], ["left"] * 3)
        assert isinstance(first[1], Fault) == bool(workers)  # nothing is sent here
        if workers:
            assert "cannot be sent" in first[1].reason and first[1].worker == 1
        fault, other = pool.step([0, 2], ["left"] * 2)
        assert isinstance(fault, Fault) and fault.worker == (0 if workers else None)
        assert other[0] == "fine left left"
        with pytest.raises(RuntimeError, match="plays no episode"):
            pool.step([0], ["left"])
        assert pool.reset([0], ["fine"])[0][0] == "fine"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dropped_episode_leaves_the_others_as_they_were(workers):
    games = ["a", "nan", "b", "no task", "c", "long", "d"]
    dropped = []
    with Pool(pool_envs.Faulty, 3, workers=workers) as pool:
        episodes, _ = play(pool, games=games, on_drop=dropped.append)
        alone, _ = play(pool, games=["a", "b", "c", "d"])
    assert [e.game for e in episodes] == ["a", "b", "c", "d"]
    for one, other in zip(episodes, alone, strict=True):
        assert one.won and len(one.turns) == 5
        assert [t.text for t in one.turns] == [t.text for t in other.turns]
        np.testing.assert_array_equal(one.turns[4].prompt, other.turns[4].prompt)
    assert sorted((d.index, d.game, d.turn) for d in dropped) == [
        (1, "nan", 2),
        (3, "no task", 0),
        (5, "long", 2),
    ]
    assert all((" (worker " in str(d)) == bool(workers) for d in dropped)


def test_too_many_dropped_episodes_stop_the_rollout_in_one_line():
    with Pool(pool_envs.Faulty, 4, workers=0) as pool:
        with pytest.raises(ValueError, match="in 2 of 4 .* inf, turn 2: the reward"):
            play(pool, games=["nan", "inf", "a", "b"], max_dropped=0.25)
        assert len(play(pool, games=["nan", "inf", "a", "b"])[0]) == 2
        with pytest.raises(ValueError, match="in 1 of 1 episodes"):
            play(pool, games=["nan"], max_dropped=1.0)


def test_an_evaluation_counts_a_dropped_game_as_not_won_and_names_it():
    def record(games):
        with Pool(pool_envs.Faulty, 2, workers=0) as pool:
            return evaluate(
                pool,
                lambda *_: sample,
                None,
                games,
                READER,
                tag="before",
                split="s",
                step=0,
                temperature=0.0,
                seed=0,
                max_turns=8,
                manifest_hash="h",
            )

    before = record(["a", "nan", "no task", "b"])
    assert [e["game"] for e in before["episodes"]] == ["a", "nan", "no task", "b"]
    assert [e["won"] for e in before["episodes"]] == [True, False, False, True]
    assert before["success"] == 0.5 and "2/4 won" in summary(before)
    assert "reward" in before["episodes"][1]["dropped"]
    after = record(["a", "x", "y", "b"])
    overall = success_table({"s": before}, {"s": after})[0]
    assert overall.before and overall.after
    assert (overall.before.won, overall.after.won, overall.after.games) == (2, 4, 4)


def test_a_run_goes_on_without_the_episodes_that_it_drops(tmp_path, capsys):
    """One game of four answers with NaN, one of the panel's with bytes."""
    world = WorldSettings(
        environment="pool_envs:WORLD", max_turns=3, workers=1, in_process=True
    )
    run = tiny_runs.trained_twice(tmp_path, world)
    assert len(tiny_runs.check_run(run)) == 3
    lines = workdir.read_lines(run / "metrics.jsonl")
    assert [line["rollout/dropped"] for line in lines] == [1.0, 1.0]
    assert [line["update/skipped"] for line in lines] == [0.0, 0.0]
    timing = workdir.read_lines(run / "timing.jsonl")
    assert timing[0]["programs"] == timing[1]["programs"]
    record = json.loads((run / "eval" / "after-valid_unseen.json").read_text())
    (lost,) = [e for e in record["episodes"] if "dropped" in e]
    assert lost["game"] == "bytes" and not lost["won"]
    said = capsys.readouterr().out
    assert said.count("dropped an episode: nan, turn 2: the reward must be") == 2


def test_a_nul_that_the_model_wrote_is_not_the_games_fault():
    """The counter shows every action again."""
    said = small.RESPONSE.format("KEEP", "plan", "ri\0ght")
    tokens = np.array(small.codec().encode_response(said), np.int32)

    def writes_nul(prompts, index, turn):
        del index, turn
        return Sampled([tokens] * len(prompts), [np.zeros(len(tokens))] * len(prompts))

    with Pool(pool_envs.Faulty, 1, workers=0) as pool:
        (episode,), _ = rollout(pool, writes_nul, ["a"], READER, max_turns=2)
    assert episode.turns[1].observation == "a ri\ufffdght"
    assert episode.turns[0].action == "ri\ufffdght" and "\0" in episode.turns[0].text
