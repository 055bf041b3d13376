"""Think blocks: what stands in one is not played, by the reader and by the masks."""

import random
import time

import numpy as np
import pytest

from hiper_jax.act.asides import closed_thoughts
from hiper_jax.act.format import read_response
from hiper_jax.act.pieces import PieceTable
from hiper_jax.act.spans import token_masks

# Every byte a token of its own; the last byte ends a row, as in `PieceTable`.
BYTES = PieceTable(
    bytes=np.append(np.arange(256, dtype=np.uint8), np.uint8(255)),
    start=np.arange(256),
    length=np.ones(256, np.int64),
    ends=np.zeros(256, bool),
)
PLAN = "<switch>SWITCH</switch><subgoal>find the pen</subgoal>"
ACTION = "<action>go to desk 1</action>"
IDEA = "Either <action>go to bed 1</action> or <switch>KEEP</switch>."


def masks_of(texts: list[str]):
    rows = [text.encode() for text in texts]
    mask = np.arange(max(map(len, rows))) < np.array([len(r) for r in rows])[:, None]
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask] = np.frombuffer(b"".join(rows), np.uint8)
    return token_masks(tokens, mask, np.ones(len(rows), np.int32), BYTES)


def marked(text: str, mask: np.ndarray) -> str:
    kept = np.flatnonzero(mask)
    return text.encode()[kept[0] : kept[-1] + 1].decode() if kept.size else ""


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{IDEA}</think>{PLAN}{ACTION}",
        f"<think></think><THINK>{IDEA}</Think>\n{PLAN}{ACTION}",
        f"{PLAN}<think>{IDEA}</think>{ACTION}<think>{IDEA}</think>",
        f"{IDEA}</think>{PLAN}{ACTION}",
        f"<think>a <think>{IDEA}</think>{IDEA}</think>{PLAN}{ACTION}",
        f"<think>what is a <think>? {IDEA}</think>{PLAN}{ACTION}",
        f"<think>pauvre café</think>{PLAN}{ACTION}",
        f"<action<think></think>>no</action>{PLAN}{ACTION}",
    ],
)
def test_only_what_is_said_is_played_and_trained(text):
    reply, masks = read_response(text), masks_of([text])
    assert (reply.action, reply.switch) == ("go to desk 1", "SWITCH")
    assert reply.subgoal == "find the pen"
    assert marked(text, masks.action[0]) == ACTION
    assert marked(text, masks.switch[0]) == "<switch>SWITCH</switch>"
    assert marked(text, masks.subgoal[0]) == "<subgoal>find the pen</subgoal>"
    assert masks.is_switch[0]


def test_a_thought_within_a_block_is_no_part_of_it():
    text = (
        "<switch>SW<think>KEEP?</think>ITCH</switch>"
        "<subgoal>find<think>no</think> it</subgoal>"
        "<action>lo<think> </think>ok</action>"
    )
    reply, masks = read_response(text), masks_of([text])
    assert reply[:3] == ("look", "find it", "SWITCH") and reply.valid
    assert masks.is_switch[0]


def test_an_open_thought_and_the_published_reader_are_as_they_were():
    text = f"<think>{IDEA}"
    assert read_response(text).action == "go to bed 1"
    assert marked(text, masks_of([text]).action[0]).startswith("<action>go to bed")
    text = f"<think>{IDEA}</think>{PLAN}{ACTION}"
    assert read_response(text, mode="paper").action == "go to bed 1"


def test_an_unreadable_response_sends_its_last_spoken_words():
    assert read_response("look <think>I wonder</think>around").action == "look around"


def test_rows_of_a_batch_do_not_share_their_thoughts():
    open_, closed = f"<think>{PLAN}{ACTION}", f"{PLAN}{ACTION}<think>a</think>"
    texts = [open_, closed, f"a</think>{PLAN}{ACTION}", f"{PLAN}{ACTION}", ""]
    masks = masks_of(texts)
    for n, text in enumerate(texts[:4]):
        assert marked(text, masks.action[n]) == ACTION
    for name in ("action", "subgoal", "switch"):
        apart = [getattr(masks_of([text]), name)[0].sum() for text in texts]
        assert (getattr(masks, name).sum(axis=1) == apart).all()


def said_one_by_one(tags, origin):
    """A slow twin of `closed_thoughts` for one response, tag by tag."""
    begin, after, unclosed, gone = None, origin, 1, set()
    for start, end, closes in tags:
        if not closes:
            unclosed = 1 if begin is None else unclosed + 1
            begin = start if begin is None else begin
        elif unclosed:
            gone |= set(range(after if begin is None else begin, end))
            begin, after, unclosed = None, end, unclosed - 1
    return gone


def test_blocks_are_those_of_a_reader_that_goes_tag_by_tag():
    rng = random.Random(3)
    for _ in range(300):
        tags, origin, wanted, at = [], [], set(), 0
        for row in range(rng.randint(1, 4)):
            origin.append(at)
            mine = []
            for _ in range(rng.randint(0, 9)):
                at += rng.randint(0, 2)
                mine.append((at, at + 2, rng.random() < 0.5))
                at += 2
            wanted |= said_one_by_one(mine, origin[-1])
            tags += [(*tag, row) for tag in mine]
            at += 1
        if not tags:
            continue
        start, end, closes, row = np.array(tags).T
        begin, stop = closed_thoughts(start, end, closes > 0, row, np.array(origin))
        found = [i for b, e in zip(begin, stop, strict=True) for i in range(b, e)]
        assert len(found) == len(set(found)) and set(found) == wanted, tags


PARTS = [
    "<think>", "</think>", "<THINK>", "</Think>", "<think", "think>", "<switch>",
    "</switch>", "<subgoal>", "</subgoal>", "<action>", "</action>", "KEEP", "SWITCH",
    " ", "go to bed 1", "\n", "é", "<action>look</action>", "<switch>SWITCH</switch>",
]  # fmt: skip


def test_reader_and_masks_agree_on_whatever_is_thought_and_said():
    rng, texts = random.Random(5), []
    for _ in range(3000):
        texts.append("".join(rng.choices(PARTS, k=rng.randint(1, 14))))
    masks, played = masks_of(texts), 0
    for n, text in enumerate(texts):
        reply = read_response(text)
        assert masks.is_switch[n] == (reply.switch == "SWITCH"), text
        block = marked(text, masks.action[n])
        if not block.lower().startswith("<action>") or "think>" in block.lower():
            continue
        if not block.lower().endswith("</action>"):
            continue
        assert block[8:-9].lower().strip() == reply.action, text
        played += 1
    assert played > 500


@pytest.mark.parametrize("unit", ["<think>", "</think>", "<think></think>", "a<"])
def test_a_megabyte_of_thoughts_is_read_in_linear_time(unit):
    text = unit * (10**6 // len(unit))
    began = time.process_time()
    read_response(text)
    masks_of([text])
    assert time.process_time() - began < 2
