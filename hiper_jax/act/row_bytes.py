"""A batch of token rows as one run of bytes, where tags are found in one pass."""

import functools
from typing import NamedTuple

import numpy as np

from hiper_jax.act.asides import closed_thoughts
from hiper_jax.act.pieces import PieceTable

BLOCKS = ("action", "subgoal", "switch")

_SECOND = b"/" + b"".join(name[:1].encode() for name in BLOCKS)  # after the `<`


class Block(NamedTuple):
    """Byte positions in the batch's run of bytes, [N] each, -1 without a block."""

    start: np.ndarray  # first byte of the opening tag
    content: np.ndarray  # first byte after it
    close: np.ndarray  # first byte of the closing tag
    end: np.ndarray  # first byte after it


class RowBytes:
    """A batch as one run of bytes, and the way back.

    Every row ends in 0xFF, which occurs in no UTF-8 text: no tag spans two rows.
    """

    def __init__(self, tokens: np.ndarray, mask: np.ndarray, table: PieceTable):
        self.shape = tokens.shape
        self.lengths = mask.sum(axis=1)
        kept = tokens[mask]
        if kept.size and (kept.min() < 0 or kept.max() >= len(table.length)):
            raise ValueError(
                f"token ids run from {kept.min()} to {kept.max()}, but the tokenizer "
                f"knows only 0 to {len(table.length) - 1}: use the model's own."
            )
        # One more piece per row, the row's end.
        self.first = np.cumsum(self.lengths + 1) - self.lengths - 1
        is_end = np.zeros(kept.size + len(tokens), bool)
        is_end[self.first + self.lengths] = True
        length = np.ones(is_end.size, np.int64)
        source = np.full(is_end.size, len(table.bytes) - 1, np.int64)
        length[~is_end] = table.length[kept]
        source[~is_end] = table.start[kept]
        ends = np.cumsum(length)
        self.starts = ends - length
        self.ends = ends
        where = np.repeat((source - self.starts).astype(np.int32), length)
        where += np.arange(where.size, dtype=np.int32)
        self.text = table.bytes[where]
        self.row_start = self.starts[self.first]
        self.row_end = self.starts[self.first + self.lengths]

    def hush(self) -> None:
        """Blots closed think blocks out with 0xFF, so that no tag is found in them."""
        at = np.flatnonzero(self.text[:-1] == ord("<"))
        at = at[np.isin(self.text[at + 1], np.frombuffer(b"/tT", np.uint8))]
        text = np.append(lower(self.text), np.zeros(8, np.uint8)) if at.size else at
        opens, closes = (_of_tag(text, at, tag) for tag in ("<think>", "</think>"))
        if not closes.size:
            return
        start = np.concatenate([opens, closes])
        shut = np.arange(start.size) >= opens.size
        order = np.argsort(start, kind="stable")
        start, shut = start[order], shut[order]
        row = np.searchsorted(self.row_start, start, side="right") - 1
        end = start + np.where(shut, 8, 7)
        begin, end = closed_thoughts(start, end, shut, row, self.row_start)
        # Blocks are apart: one more from each beginning on, one less from each end on.
        depth = np.zeros(self.text.size + 1, np.int8)
        depth[begin] += 1
        depth[end] -= 1
        self.text[np.cumsum(depth[:-1], dtype=np.int8) > 0] = 0xFF

    def first_block(self, opens: np.ndarray, closes: np.ndarray, width: int) -> Block:
        """The first opening tag of each row and the first closing tag after it."""
        start, found = next_in(opens, self.row_start, self.row_end)
        content = start + width
        close, closed = next_in(closes, content, self.row_end)
        found &= closed
        end = close + width + 1
        return Block(*(np.where(found, x, -1) for x in (start, content, close, end)))

    def token_span(self, block: Block, tags: bool, shave: bool):
        """[N] first token and token after the last, in the row; -1, -1 if empty."""
        if tags:
            start, end = block.start, block.end
        else:
            start, end = block.content, block.close
            if shave:
                before = self.text[np.maximum(end - 1, 0)]
                quirk = np.isin(before, np.frombuffer(b"].)", np.uint8))
                end = np.where((end > start) & quirk, end - 1, end)
        here = end > start
        first = np.searchsorted(self.ends, start, side="right") - self.first
        after = np.searchsorted(self.starts, end, side="left") - self.first
        return np.where(here, first, -1), np.where(here, after, -1)

    def first_token_after(self, block: Block) -> np.ndarray:
        """[N] first token that begins at or after the block's end, -1 if none does."""
        after = np.searchsorted(self.starts, block.end, side="left") - self.first
        return np.where((block.end >= 0) & (after < self.lengths), after, -1)

    def owners(self, blocks: dict[str, Block]) -> np.ndarray:
        """[N, L] index into BLOCKS of the block that opens each token, -1 for none."""
        shape = (len(BLOCKS), self.shape[0], 1)
        start = np.stack([blocks[name].start for name in BLOCKS]).reshape(shape)
        spans = [self.token_span(blocks[name], True, False) for name in BLOCKS]
        inside = np.stack([self.fill(*span) for span in spans])
        slot = np.minimum(np.arange(self.shape[1]), self.lengths[:, None])
        begin = self.starts[self.first[:, None] + slot]
        # A block that starts within the token opens it only if none was open before;
        # of several that were, the one that started last.
        already = inside & (start <= begin)
        rank = np.where(already, start, np.where(inside, -2 - start, -(2**62)))
        best = rank.argmax(axis=0)
        return np.where(inside.any(axis=0), best, -1)

    def fill(self, first: np.ndarray, after: np.ndarray) -> np.ndarray:
        """[N, L] true from `first` up to `after`."""
        slot = np.arange(self.shape[1])
        return (slot >= first[:, None]) & (slot < after[:, None])

    def last_token(self, marked: np.ndarray) -> np.ndarray:
        """[N, L] the last token of each row, where it is marked."""
        return marked & (np.arange(self.shape[1]) == self.lengths[:, None] - 1)


def next_in(positions: np.ndarray, start: np.ndarray, stop: np.ndarray):
    """[N] the first of the sorted positions from `start` on, and if it is in time."""
    padded = np.append(positions, np.iinfo(np.int64).max)
    found = padded[np.searchsorted(positions, start)]
    return np.where(found < stop, found, 0), found < stop


@functools.cache
def _lower_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint8)
    table[ord("A") : ord("Z") + 1] += 32
    return table


def lower(text: np.ndarray) -> np.ndarray:
    return _lower_table()[text]


def find_tags(text: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Per block: positions of its opening and closing tags, the opening's width."""
    # A `<` that the next byte shows to be none is left out once for all tags.
    at = np.flatnonzero(text[:-1] == ord("<"))
    at = at[np.isin(text[at + 1], np.frombuffer(_SECOND, np.uint8))]
    longest = max(len(name) for name in BLOCKS) + 3
    padded = np.concatenate([text, np.zeros(longest, np.uint8)])
    return {
        name: (
            _of_tag(padded, at, f"<{name}>"),
            _of_tag(padded, at, f"</{name}>"),
            len(name) + 2,
        )
        for name in BLOCKS
    }


def _of_tag(text: np.ndarray, at: np.ndarray, tag: str) -> np.ndarray:
    """[K] those of the positions at which the tag stands; `text` goes on after them."""
    for place, byte in enumerate(tag.encode()):
        at = at[text[at + place] == byte]
    return at
