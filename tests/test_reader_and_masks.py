"""The reader and the masks of one response say the same, and in linear time."""

import random
import time

import numpy as np
import pytest
from reference import mutated

from hiper_jax.act import format as reader_module
from hiper_jax.act.format import read_response
from hiper_jax.act.pieces import PieceTable
from hiper_jax.act.spans import token_masks

BLOCKS = ("action", "subgoal", "switch")
# Every byte a token of its own; the last byte ends a row, as in `PieceTable`.
BYTES = PieceTable(
    bytes=np.append(np.arange(256, dtype=np.uint8), np.uint8(255)),
    start=np.arange(256),
    length=np.ones(256, np.int64),
    ends=np.zeros(256, bool),
)
FRAGMENTS = [
    *(f"<{slash}{name}>" for name in BLOCKS for slash in ("", "/")), *"<>/\n ",
    "<Switch>", "</SWITCH>", "<ACTION>", "</Action>", "<SubGoal>", "<<action>", "</",
    "<acti", "on>", "KEEP", "SWITCH", " keep ", "MAYBE", "go to desk 1", "find it",
    "café", "😀", "找到", "\u3000", "\u017fwitch", "\u212aEEP", "\x00", "\x1b[2J",
    "\u202e",
]  # fmt: skip
WHOLE = "<switch>{}</switch>{s}<subgoal>{}</subgoal>{s}<action>{}</action>{s}"


def random_responses(count: int, seed: int) -> list[bytes]:
    """Whole, broken and cut responses, some of them cut inside a character."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        text = "".join(draw.choices(FRAGMENTS, k=draw.randint(0, 9)))
        if draw.random() < 0.5:
            said = draw.choices(FRAGMENTS[11:], k=3)
            text += WHOLE.format(*said, s=draw.choice(["", "\n", text]))
        row = text.encode()
        rows.append(row[: draw.randint(0, len(row))] if draw.random() < 0.2 else row)
    return rows


def as_rows(responses: list[bytes]):
    length = np.array([len(row) for row in responses])
    mask = np.arange(length.max()) < length[:, None]
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask] = np.frombuffer(b"".join(responses), np.uint8)
    return tokens, mask, np.ones(len(responses), np.int32), BYTES


def block_of(row: bytes, mask: np.ndarray, name: str) -> str | None:
    """What stands between a block's tags by its mask; None if another crosses it."""
    places = np.flatnonzero(mask)
    whole = row[places[0] : places[-1] + 1].decode(errors="replace")
    tags = f"<{name}>", f"</{name}>"
    if not (whole.lower().startswith(tags[0]) and whole.lower().endswith(tags[1])):
        return None
    return whole[len(tags[0]) : -len(tags[1])]


def compared(read, count: int) -> int:
    """How many blocks of random responses the reader and the masks both gave."""
    rows = random_responses(count, seed=15)
    masks, same = token_masks(*as_rows(rows)), 0
    for n, row in enumerate(rows):
        reply = read(row.decode(errors="replace"))
        assert masks.is_switch[n] == (reply.switch == "SWITCH"), row
        for name, said in (("action", reply.action), ("subgoal", reply.subgoal)):
            mask = getattr(masks, name)[n]
            found = block_of(row, mask, name) if mask.any() else ""
            if found is None or not mask.any() and name == "action":
                continue
            found = found.lower() if name == "action" else found
            assert found.strip() == said, (name, row)
            same += bool(mask.any())
        if reply.valid:
            assert all(getattr(masks, name)[n].any() for name in BLOCKS), row
    return same


def test_the_reader_and_the_masks_find_the_same_blocks():
    assert compared(read_response, 10_000) > 7_000


def test_a_reader_that_closes_a_block_too_early_is_caught():
    wrong = mutated(reader_module, ".search(text, opens.end())", ".search(text)")
    with pytest.raises(AssertionError, match="action"):
        compared(wrong.read_response, 400)


@pytest.mark.parametrize("mode", ["corrected", "paper"])
@pytest.mark.parametrize(
    "unit", ["<action>", "</switch><switch>", "<", "<switch>é", "<switch> ", "<ACTIO"]
)
def test_a_megabyte_is_read_in_linear_time(unit, mode):
    text = unit * (10**6 // len(unit.encode()))
    rows = as_rows([text.encode()])
    began = time.process_time()
    read_response(text, mode=mode)
    token_masks(*rows, mode=mode)
    # 0.1 s on an idle machine; in quadratic time it is an hour.
    assert time.process_time() - began < 2


def test_one_long_switch_block_is_read_in_linear_time():
    rows = as_rows([f"<switch>{'é' * 500_000}</switch>".encode()])
    began = time.process_time()
    assert token_masks(*rows, mode="paper").is_switch.all()
    assert time.process_time() - began < 2
