"""Strategies: chosen far apart, frozen ahead of every prompt, judged by a list."""

import dataclasses
import functools
import itertools
import sys
import time

import jax
import numpy as np
import pytest
import small
from reference import mutated
from test_rollout import READER, Counting, sampler

from hiper_jax import lm
from hiper_jax.act import strategy, strategy_judge
from hiper_jax.act.envs.answers import Fault
from hiper_jax.act.envs.world import load_world, world_of
from hiper_jax.act.episode import Strategy
from hiper_jax.act.rollout import Sampled, make_reader, rollout
from hiper_jax.experiments.config import Train
from hiper_jax.lm import sharding
from hiper_jax.networks.states import make_embedder

module = sys.modules["hiper_jax.act.strategy"]
judging = sys.modules["hiper_jax.act.strategy_judge"]
GAMES = ["2", "2", "2", "2", "3", "3", "3", "3"]


def written(text="look around", number=0, **changes):
    ids = np.asarray(small.codec().encode_response(text), np.int32)
    log_prob = np.full(len(ids), -0.5, np.float32)
    prompt = np.asarray(small.codec().encode_prompt("task: x\nstrategy:\n"), np.int32)
    return Strategy(text, prompt, ids, log_prob, number, 0, **changes)


# --- chosen far apart ----------------------------------------------------------------


def slow_farthest(vectors, number):
    """By plain loops over pairs."""

    def distance(i, j):
        a, b = vectors[i], vectors[j]
        size = sum(x * x for x in a) ** 0.5 * sum(x * x for x in b) ** 0.5
        return 1 - (sum(x * y for x, y in zip(a, b, strict=True)) / size if size else 0)

    chosen = [0]
    while len(chosen) < number:
        left = [i for i in range(len(vectors)) if i not in chosen]
        near = [min(distance(i, j) for j in chosen) for i in left]
        chosen.append(left[max(range(len(left)), key=lambda k: near[k])])
    return chosen


def check_farthest(module):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(rng.integers(4, 20), 3)) + 0.5
        for number in (1, 2, 4):
            found = module.farthest(vectors, number)
            assert found == slow_farthest(vectors.tolist(), number), "other points"


def test_farthest_points_by_hand():
    """East, nearly east, north, west: from the east to the west, then north."""
    vectors = np.array([[2.0, 0], [3, 0.1], [0, 1], [-1, 0]])
    assert strategy.farthest(vectors, 3) == [0, 3, 2]
    assert strategy.spread(vectors, [0, 3, 2]) == pytest.approx(1.0)
    assert strategy.spread(vectors, [0, 3]) == pytest.approx(2.0)
    assert strategy.spread(vectors, [1]) == 0.0


def test_farthest_points_agree_with_a_slow_twin():
    check_farthest(module)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("np.minimum(nearest, 1 - ", "np.maximum(nearest, 1 - "),
        ("np.argmax(nearest)", "np.argmin(nearest)"),
        ("unit @ unit[chosen[-1]]", "unit @ unit[0]"),
        ("vectors / np.maximum(length, 1e-12)", "vectors"),
    ],
)
def test_seeded_faults_of_the_choice_are_caught(old, new):
    with pytest.raises(AssertionError, match="other points"):
        check_farthest(mutated(module, old, new))


def test_the_choice_knows_directions_only_and_never_takes_one_twice():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(12, 5))
    scaled = vectors * rng.uniform(0.1, 9, size=(12, 1))
    assert strategy.farthest(scaled, 5) == strategy.farthest(vectors, 5)
    for same in (np.ones((6, 2)), np.zeros((6, 2))):
        assert sorted(strategy.farthest(same, 6)) == list(range(6))
    for bad, said in [
        ((np.ones((3, 2)), 4), "4 of the candidates"),
        ((np.full((3, 2), np.nan), 2), "not finite"),
    ]:
        with pytest.raises(ValueError, match=said):
            strategy.farthest(*bad)


# --- what is written and what is read ------------------------------------------------


LISTS = [
    ("2, 5", (1, 4)),
    ("[5 2, 2]", (1, 4)),
    (" 1.", (0,)),
    ("6", (5,)),
    ("<think>3 is fine</think> 4", (3,)),
    ("None", ()),
    ("none.", ()),
    ("[]", ()),
    ("", None),
    ("0", None),
    ("7", None),
    ("2, six", None),
    ("2 [3]", None),
    ("-1", None),
    ("1.5", None),
    ("steps 1 and 2", None),
    ("²", None),
    ("000001", None),
    (small.RESPONSE.format("KEEP", "", "look"), None),
]


def check_lists(module):
    for text, found in LISTS:
        try:
            read = module.read_flags(text, 6)
        except ValueError as error:
            read = error
        assert read == found, f"{text!r} is read as {read!r}"


def test_a_list_of_steps_is_read_or_flags_nothing():
    check_lists(judging)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int(word) - 1", "int(word)"),
        ("1 <= int(word) <= turns", "1 <= int(word) < turns"),
        ("1 <= int(word) <= turns", "0 <= int(word) <= turns"),
        ("word.isascii() and ", ""),
        (" and len(word) <= 5", ""),
        ("if found else None", ""),
        ('("none", "[]")', '("none",)'),
        ("sorted(found)", "sorted(found, reverse=True)"),
        ("without_thoughts(text).strip()", "text.strip()"),
    ],
)
def test_seeded_faults_of_the_reading_are_caught(old, new):
    with pytest.raises(AssertionError, match="is read as"):
        check_lists(mutated(judging, old, new))


@pytest.mark.parametrize("piece", ["9", "1,", "<think>", "1 </think>", "<subgoal>"])
def test_lists_are_read_in_time_proportional_to_their_length(piece):
    times = []
    for size in (20_000, 160_000):
        began = time.thread_time()
        strategy_judge.read_flags(piece * size, 6)
        strategy.clean(piece * size)
        times.append(time.thread_time() - began)
    assert times[1] < 40 * times[0] + 0.2  # eight times the text


def test_a_strategy_is_one_line_without_tags_thoughts_and_controls():
    said = "<think>hm</think> find\n a  mug<action>\0look</action>"
    assert strategy.clean(said) == "find a mug \ufffdlook"
    turn = small.RESPONSE.format("SWITCH", " find\n a mug", "look")
    assert strategy.clean(turn) == strategy.clean("<think>x" + turn) == "find a mug"
    assert strategy.clean("<switch>KEEP") == "KEEP"
    assert strategy.clean("a < b > c") == "a < b > c"


# --- drawn ---------------------------------------------------------------------------


def draw(sample=None, env=None, **changes):
    def embed(prompts, responses):
        assert len(prompts) == len(responses) == 10
        return np.stack([[1.0, i % 5, 0] for i in range(10)])

    sizes = {"embed": embed, "candidates": 5, "kept": 2, "each": 2} | changes
    return strategy.draw(
        env or Counting(8), sample or sampler([], "<think></think>go"), GAMES, READER,
        **sizes,
    )  # fmt: skip


def test_candidates_have_names_of_their_own_and_the_far_ones_stay():
    seen = []
    drawn = draw(sampler(seen, "go to desk 1"), first=6)
    assert seen == [[(i, strategy.WRITES) for i in range(10)]]
    assert [s.number for s in drawn.strategies] == [6, 6, 7, 7, 8, 8, 9, 9]
    assert [s.candidate for s in drawn.strategies] == [0, 0, 4, 4] * 2
    assert all(s.text == "go to desk 1" for s in drawn.strategies)
    asked = small.codec().decode(drawn.strategies[-1].prompt)
    assert asked.startswith("task: count to 3\nnow: start\nsubgoal: none\n")
    assert drawn.metrics["strategy/distinct"] == 0.25 * 2
    assert drawn.metrics["strategy/distance"] == pytest.approx(1 - 1 / 17**0.5)


def test_one_candidate_for_each_game_needs_no_states():
    drawn = draw(embed=None, candidates=1, kept=1, each=1)
    assert [s.number for s in drawn.strategies] == list(range(8))
    with pytest.raises(ValueError, match="give `embed`"):
        draw(embed=None)
    with pytest.raises(ValueError, match="in multiples of 6"):
        draw(kept=3)


def test_few_slots_show_the_same_first_views_and_a_fault_stays_one():
    class Odd(Counting):
        def reset(self, slots, tasks):
            assert len(set(slots)) == len(tasks) <= self.size
            return [
                Fault("odd") if task == "2" else answer
                for task, answer in zip(tasks, super().reset(slots, tasks), strict=True)
            ]

    narrow, wide = draw(env=Counting(1)), draw()
    for a, b in zip(narrow.strategies, wide.strategies, strict=True):
        np.testing.assert_array_equal(a.prompt, b.prompt)
    drawn = draw(env=Odd(1))
    assert len(drawn.strategies) == 8


# --- followed ------------------------------------------------------------------------


def play(strategies, games=("3", "2"), reader=READER, seen=None):
    sample = sampler([] if seen is None else seen)
    return rollout(
        Counting(4), sample, games, reader, max_turns=4, strategies=strategies
    )[0]


def test_the_strategy_stands_before_every_prompt_and_is_frozen():
    plans = [written("first the desk", 0), written("never look", 1)]
    bare = play(None)
    for episode, other, plan in zip(play(plans), bare, plans, strict=True):
        assert episode.strategy is plan and other.strategy is None
        for turn, plain in zip(episode.turns, other.turns, strict=True):
            text, task = small.codec().decode(turn.prompt), f"task: {episode.task}"
            assert text.startswith(f"{task} strategy: {plan.text}\n")
            text = text.replace(f" strategy: {plan.text}", "", 1)
            assert text == small.codec().decode(plain.prompt)
    assert play([written()], ["9"])[0].next_prompt.size  # of a truncated one, too


def test_control_tokens_that_a_strategy_spells_are_text():
    codec = small.codec()
    (episode,) = play([written("stop <|im_end|> {task} <|pad|>")], ["2"])
    for turn in episode.turns:
        assert not {codec.eos_id, codec.pad_id} & set(turn.prompt.tolist())
        assert "stop <|im_end|> {task} <|pad|>" in codec.tokenizer.decode(turn.prompt)


def test_a_strategy_counts_towards_the_room_of_a_prompt():
    reader = READER._replace(max_prompt=60)
    (episode,) = play([written("go to desk 1 then shelf 2")], ["4"], reader)
    assert all(len(turn.prompt) <= 60 for turn in episode.turns)
    (bare,) = play(None, ["4"], reader)
    assert sum(t.prompt_truncated for t in episode.turns) > sum(
        t.prompt_truncated for t in bare.turns
    )
    text = small.codec().decode(episode.turns[-1].prompt)
    assert text.startswith("task: count to 4 strategy: go to desk 1 then shelf 2\n")


def test_every_world_of_ours_asks_shows_and_judges_in_both_styles():
    seen, actions = (
        "You see a bed 1. Your task is to: wash it.",
        ["help", "go to bed 1"],
    )
    for name, style in itertools.product(
        ("alfworld", "sokoban", "webshop"), ("full", "terse")
    ):
        world = load_world(name)
        wording = world.strategies[style]
        template = wording.under(world.templates[style], "first {soap}")
        shown = template("wash it", [], seen, "", actions, history_length=0)
        assert "first {soap}" in shown and "wash it" in shown
        judged = wording.judge("wash it", "soap", [("a {room}", "look"), ("", "go")])
        assert "soap" in judged and "a {room}" in judged and "2" in judged
        if style == "full":
            assert shown.startswith("Your strategy for the whole task: first {soap}\n")
            asked = wording.ask("wash it", [], seen, "", actions, history_length=0)
            assert "wash it" in asked and "go to bed 1" in asked and "strategy" in asked
            assert ("help" in asked) == (name != "alfworld")


# --- judged --------------------------------------------------------------------------


def test_the_judge_sees_all_steps_and_its_list_becomes_flags():
    codec, asked = small.codec(), []

    def sample(prompts, index, turn):
        asked.append((index.tolist(), set(turn.tolist())))
        ids = [np.asarray(codec.encode_response(t), np.int32) for t in ("2", "all")]
        return Sampled(ids, [np.zeros(len(i), np.float32) for i in ids])

    episodes = play([written("first the desk", 0), written("never look", 1)])
    judged = strategy_judge.judge(episodes, sample, READER)
    assert asked == [([0, 1], {strategy_judge.JUDGES})]
    assert [e.flagged for e in judged.episodes] == [(1,), None]
    assert judged.metrics == {"strategy/unread_lists": 0.5, "strategy/flags": 0.5}
    text = codec.decode(strategy_judge.judge_prompt(episodes[0], READER))
    assert "strategy: first the desk" in text and "3 was: " in text
    assert "did: go to bed 1" in text and text.endswith("useless:\n")


def test_a_long_episode_is_shown_to_the_judge_within_the_room_of_a_prompt():
    (episode,) = play([written()], ["4"])
    turns = [dataclasses.replace(t, observation="wide " * 900) for t in episode.turns]
    episode = dataclasses.replace(episode, turns=tuple(turns))
    prompt = strategy_judge.judge_prompt(episode, READER)
    assert len(prompt) <= READER.max_prompt
    text = small.codec().decode(prompt)
    assert text.startswith("task: ") and text.count("did: go to bed 1") == 4
    tight = strategy_judge.judge_prompt(episode, READER._replace(max_prompt=9))
    assert len(tight) == 9


def test_a_style_without_a_wording_is_refused_in_one_line():
    reader = READER._replace(strategies=None)
    with pytest.raises(ValueError, match="no wording for strategies"):
        strategy.draw(Counting(1), sampler([]), ["2"], reader)


# --- the policy's own states ---------------------------------------------------------


def test_states_are_means_over_the_responses_tokens_in_one_program():
    """And the same on a mesh, to rounding."""
    agent, actor, _ = small.agent()
    agent = dataclasses.replace(agent, critic="none")
    rng = np.random.default_rng(0)
    prompts, said = (
        [rng.integers(5, 300, n).astype(np.int32) for n in sizes]
        for sizes in ((9, 4, 7, 3, 5), (3, 6, 1, 2, 4))
    )
    make = make_embedder(agent, rows=4, length=16)
    found = make(actor)(prompts, said)
    assert make.programs() == 1 and found.dtype == np.float32
    rows = np.zeros((5, 13), np.int32)
    for row, prompt, response in zip(rows, prompts, said, strict=True):
        row[: len(prompt) + len(response)] = [*prompt, *response]
    states = np.asarray(lm.forward(actor, agent.config, rows))
    for n in range(5):
        begin = len(prompts[n])
        alone = states[n, begin : begin + len(said[n])].mean(axis=0)
        np.testing.assert_allclose(found[n], alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(make(actor)(prompts[3:], said[3:]), found[3:], atol=1e-5)
    assert make.programs() == 1
    mesh = sharding.make_mesh(4, 2, 1)
    spread = dataclasses.replace(agent, mesh=mesh)
    placed = jax.device_put(actor, sharding.shardings(lm.abstract(agent.config), mesh))
    cut = make_embedder(spread, rows=3, length=16)(placed)(prompts, said)
    np.testing.assert_allclose(cut, found, rtol=1e-4, atol=1e-5)


def test_a_world_says_how_it_speaks_of_strategies():
    world = world_of(Train().world)
    make = functools.partial(make_reader, world, small.codec(), max_prompt=200)
    assert make(style="full").strategies is world.strategies["full"]
    taught = make(style="terse", strategy_style="taught").strategies
    assert taught is world.strategies["taught"] and taught.ask is not None
    view = "You see it. Your task is to: wash it.", "", ["help", "look", "go to bed 1"]
    asked = taught.ask("wash it", [], *view)
    assert (
        asked == "task: wash it\nnow: You see it.\ncan: look; go to bed 1\nstrategy:\n"
    )
    shown = taught.under(world.templates["terse"], "soap")
    assert shown("t", [], "o", "", [], history_length=0).startswith("strategy: soap\nt")
