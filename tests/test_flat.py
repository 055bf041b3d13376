"""Responses without a plan: reasoning and an action, from the prompt to the batch."""

import functools
import pathlib
import random
import tempfile

import numpy as np
import pytest
import small
from reference import mutated
from test_rollout import Counting

from hiper_jax.act import format as module
from hiper_jax.act import spans
from hiper_jax.act.codec import load_codec
from hiper_jax.act.envs.world import WORLDS, World, load_world
from hiper_jax.act.format import Reply, read_response
from hiper_jax.act.pieces import piece_table
from hiper_jax.act.prompt import build_prompt, template_of
from hiper_jax.act.rollout import Sampled, make_reader, rollout
from hiper_jax.act.stack import stack
from hiper_jax.estimators import ESTIMATORS, check_plan
from hiper_jax.experiments.warmstart.tokenizer import train_tokenizer

GOOD = "<think>A desk is near.</think>\n<action>Go to desk 1 </action>"
SHOWN = ("the task", [("seen", "done")], "now seen", "a plan", ["left", "right"])


@functools.cache
def codec():
    lines = [
        f"<think>now find book: {place}</think><action>go to {place}</action>"
        for place in small.PLACES
    ]
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(lines, folder, vocab_size=340, format="flat")
        return load_codec(pathlib.Path(folder))


# --- prompts -------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["full", "terse"])
@pytest.mark.parametrize("name", WORLDS)
def test_a_flat_prompt_differs_by_the_plan_alone(name, style):
    write = functools.partial(build_prompt, *SHOWN, environment=name, style=style)
    flat, plan = write(format="flat"), write()
    assert not any(word in flat.lower() for word in ("plan", "subgoal", "switch"))
    for part in ("the task", "done", "now seen"):
        assert part in flat and part in plan
    assert ("left" in flat) == ("left" in plan)
    if style == "full":
        assert "<think>" in flat and "<action>" in flat and "<think>" not in plan
    else:
        assert flat == plan.replace("subgoal: a plan\n", "")


def test_a_world_of_yours_has_flat_wordings_without_asking():
    world = World("mine", lambda settings, split: None, lambda settings: None)
    assert set(world.flat) == {"full", "terse"}
    with pytest.raises(ValueError, match="'loud' is not one of 'full', 'terse'"):
        template_of(world, "loud", "flat")


# --- reading -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, corrected, paper",
    [
        (GOOD, ("go to desk 1", True), None),
        ("so: " + GOOD + " it is", ("go to desk 1", True), None),
        (GOOD.replace("<think>", ""), ("go to desk 1", False), None),
        (GOOD.replace("</think>", ""), ("go to desk 1", False), None),
        (GOOD.partition("\n")[2], ("go to desk 1", False), None),
        (GOOD.replace("near", "近"), ("go to desk 1", False), None),
        (GOOD.replace("Go to desk 1", ""), ("", True), None),
        ("<think></think><action>look</action>", ("look", True), None),
        # The first block is the one that counts; what is thought is not played.
        (
            "<think>x<action>a</action></think><action>b</action>",
            ("b", True),
            ("a", True),
        ),
        ("<think>x<action>a</action></think>", (None, False), ("a", True)),
        ("<think>x<action>a</action>", ("a", False), None),
        ("<action>a</action><think>x</think>", ("a", True), None),
        ("<think>x</think><action>a<action>b</action>", ("a<action>b", True), None),
        # Without both tags the last characters are sent.
        ("<think>x</think><action>look", (None, False), None),
        ("<think>x</think> open the desk, or rather the drawer", (None, False), None),
        ("", ("", False), None),
        # The published reader minds no order, and no case but that of the reasoning.
        ("</action>" + GOOD, ("go to desk 1", True), ("", True)),
        (
            "</think><think><action>look</action>",
            ("look", False),
            ("look", True),
        ),
        (GOOD.replace("think", "Think"), ("go to desk 1", True), ("go to desk 1", 0)),
        (GOOD.replace("action", "ACTION"), ("go to desk 1", True), None),
        # A plan is no reasoning.
        (small.RESPONSE.format("KEEP", "find", "look"), ("look", False), None),
    ],
)
def test_readings_by_hand(text, corrected, paper):
    for mode, (action, valid) in (
        ("corrected", corrected),
        ("paper", paper or corrected),
    ):
        for environment, tail in (("alfworld", 30), ("webshop", 20)):
            reply = read_response(
                text, environment=environment, mode=mode, format="flat"
            )
            wanted = text.lower()[-tail:] if action is None else action
            assert reply == Reply(wanted, "", "", bool(valid)), (mode, text)


def published(text, tail):
    """GiGPO's reader in plain steps."""
    lowered = text.lower()
    opens, closes = lowered.find("<action>"), lowered.find("</action>")
    if opens == -1 or closes == -1:
        return lowered[-tail:], False
    reasoned = text.count("<think>") > 0 and text.count("</think>") > 0
    chinese = any("\u4e00" <= letter <= "\u9fff" for letter in text)
    return lowered[opens + 8 : closes].strip(), reasoned and not chinese


PIECES = [
    *("<think>", "</think>", "<action>", "</action>") * 3,
    *("<Think>", "</ACTION>", "<subgoal>", "</switch>", "Go to", " desk 1", "\n"),
    *(" ", "近", "é", "<", ">", "/", "look", "\u0130", "\u212a"),
]


def broken(count, seed=0):
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randint(0, 12))) for _ in range(count)]


def check_paper(read):
    for text in broken(3000):
        for environment, tail in (("alfworld", 30), ("webshop", 20)):
            reply = read(text, environment=environment, mode="paper", format="flat")
            action, valid = published(text, tail)
            assert reply == Reply(action, "", "", valid), f"misread {text!r}"


def test_the_published_flat_reader_agrees_with_a_plain_twin():
    check_paper(read_response)


@pytest.mark.parametrize(
    "old, new",
    [
        ('_first_block(lowered, "action")', '_first_block(text, "action")'),
        ('"<think>" in text and', '"<think>" in lowered and'),
        ('and "</think>" in text', ""),
        ("valid = reasoned and not _CJK.search(text)", "valid = reasoned"),
        (
            'Reply(_last(text, tail), "", "", False)\n    valid',
            'Reply("", "", "", 0)\n    valid',
        ),
    ],
)
def test_seeded_faults_in_the_flat_reader_are_caught(old, new):
    with pytest.raises(AssertionError, match="misread"):
        check_paper(mutated(module, old, new).read_response)


def test_what_is_no_format_is_refused():
    for refused in (
        lambda: read_response("", format="tree"),
        lambda: template_of(load_world("alfworld"), "full", "tree"),
        lambda: spans.token_masks(
            np.zeros((1, 1), int),
            np.ones((1, 1)),
            np.zeros(1),
            codec().tokenizer,
            format="tree",
        ),
    ):
        with pytest.raises(ValueError, match='format must be "plan" or "flat"'):
            refused()


# --- masks ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["corrected", "paper"])
def test_masks_agree_with_the_reader(mode):
    texts = broken(300, seed=1)
    rows = [codec().encode_response(text) for text in texts]
    width = max(map(len, rows)) + 2
    tokens = np.zeros((len(rows), width), np.int32)
    mask = np.arange(width) < np.array([[len(row)] for row in rows])
    tokens[mask] = np.concatenate(rows)
    turn = np.arange(len(rows)) % 3
    find = functools.partial(
        spans.token_masks,
        tokens,
        mask,
        turn,
        piece_table(codec().tokenizer),
        mode=mode,
        format="flat",
    )
    whole, inner = find(), find(include_tags=False)
    first = np.arange(width) == 0
    assert not whole.subgoal.any() and not whole.switch.any()
    assert not whole.is_switch.any()
    np.testing.assert_array_equal(whole.value_low, np.tile(first, (len(rows), 1)))
    np.testing.assert_array_equal(whole.value_switch, whole.value_low)
    np.testing.assert_array_equal(
        whole.value_high, whole.value_low & (turn == 0)[:, None]
    )
    for n, text in enumerate(texts):
        reply = read_response(text, mode=mode, format="flat")
        length = mask[n].sum()
        assert whole.action[n, length - 1] and not whole.action[n, length:].any()
        content = codec().decode(tokens[n][inner.action[n]])
        said = text if mode == "paper" else module._without_thoughts(text)
        block = module._block(said, "action")
        if mode == "corrected" and block is not None:
            assert block.lower().strip() == reply.action
        if block is None or "think>" not in content.lower():
            wanted = (text if block is None else block).lower().strip()
            assert content.lower().strip() == wanted, n


# --- episodes ------------------------------------------------------------------------

READER = make_reader(
    load_world("alfworld"), codec(), style="terse", max_prompt=300, format="flat"
)
WITH_A_PLAN = small.RESPONSE.format("SWITCH", "find", "look")


def played(*texts, mode="corrected"):
    """An episode of three turns whose responses are these texts in turn."""

    def sample(prompts, index, turn):
        tokens = [
            np.array(codec().encode_response(texts[t % len(texts)]), np.int32)
            for t in turn
        ]
        return Sampled(tokens, [np.full(len(x), -0.5, np.float32) for x in tokens])

    reader = READER._replace(mode=mode, keep_copies=True)
    return rollout(Counting(2), sample, ["3", "9"], reader, max_turns=3)[0]


@pytest.mark.parametrize("mode", ["corrected", "paper"])
def test_an_episode_without_a_plan_is_one_segment_without_subgoals(mode):
    episodes = played(GOOD, WITH_A_PLAN, "nonsense", mode=mode)
    for episode in episodes:
        assert [turn.switch for turn in episode.turns] == [True, False, False]
        assert not any(turn.said_switch or turn.subgoal for turn in episode.turns)
        valid = [turn.format_valid for turn in episode.turns]
        assert valid == [True, False, False]
        assert [turn.action for turn in episode.turns][:2] == ["go to desk 1", "look"]
        assert "subgoal" not in codec().decode(episode.turns[1].prompt)
    batch = stack(
        episodes,
        piece_table(codec().tokenizer),
        max_turns=4,
        max_response=80,
        row_buckets=(8,),
        length_buckets=(400,),
        mode=mode,
        format="flat",
    )
    np.testing.assert_array_equal(batch.segment, [[0, 0, 0, -1]] * 2)
    np.testing.assert_array_equal(batch.action_mask, batch.response_mask)
    assert not batch.subgoal_mask.any() and not batch.switch_mask.any()
    assert not batch.said_switch.any() and not batch.has_switch.any()
    np.testing.assert_array_equal(batch.has_action, batch.valid)
    np.testing.assert_array_equal(batch.subgoal_id, np.full((2, 4), -1))
    assert not batch.value_low_at.any()


def test_estimators_that_need_a_plan_are_refused_without_one():
    for name in ("hae", "hae_group"):
        check_plan(name, "plan")
        with pytest.raises(ValueError, match=f"^{name} .*--reading.format plan"):
            check_plan(name, "flat")
    for name in set(ESTIMATORS) - {"hae", "hae_group"}:
        check_plan(name, "flat")
