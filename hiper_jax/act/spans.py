"""Token ids -> which tokens carry which credit, and where values are read.

No text is decoded: a table gives each token's bytes, the whole batch becomes one run
of bytes, tags are found in it in one pass, and byte positions map back to tokens.
"""

from typing import NamedTuple

import numpy as np

from hiper_jax.act.format import check_format
from hiper_jax.act.pieces import PieceTable, piece_table
from hiper_jax.act.row_bytes import BLOCKS, Block, RowBytes, find_tags, lower, next_in

_SPACES = bytes([9, 10, 11, 12, 13, 28, 29, 30, 31, 32])  # as str.strip, in ASCII


class TokenMasks(NamedTuple):
    """Host arrays over N rows (turns) of L response tokens.

    `value_*` are one-hot or empty rows. A mark at token l means the state *before*
    token l: the hidden state that predicts token l, i.e. that of the token before it,
    which for l = 0 is the last token of the prompt.
    """

    action: np.ndarray  # [N, L] bool, tokens of the action block
    subgoal: np.ndarray  # [N, L] bool, tokens of the subgoal block
    switch: np.ndarray  # [N, L] bool, tokens of the switch block
    is_switch: np.ndarray  # [N] bool, the response asks for a new subgoal
    value_high: np.ndarray  # [N, L] bool, first token, on segment starts
    value_low: np.ndarray  # [N, L] bool, after the subgoal (else switch) block
    value_switch: np.ndarray  # [N, L] bool, first token, on every turn


def token_masks(
    tokens: np.ndarray,
    mask: np.ndarray,
    turn_index: np.ndarray,
    tokenizer,
    *,
    include_tags: bool = True,
    mode: str = "corrected",
    format: str = "plan",
) -> TokenMasks:
    """Finds the blocks of each response in its token ids.

    A block runs from the first opening tag to the next closing tag; a token belongs to
    it if any of its bytes does. A response with no action block trains all its tokens
    as the action. V_low is read at the first token that begins after the subgoal block
    (else after the switch block, else at the first token).

    "corrected": each token has one owner, the block in which it begins (the innermost
    where blocks nest; for a token that begins outside, the first block it touches); the
    end-of-message token belongs to the action, as do a blockless response's unowned
    tokens; tags are found in any case, but none in a closed think block; only SWITCH
    switches.
    "paper": masks may overlap, the end-of-message token is in none, tags are lower
    case, any switch text but KEEP (or nothing) switches, and without tags a last `]`,
    `.` or `)` of a subgoal or an action counts as its closing tag.
    Without a plan (format "flat") there are no subgoal and no switch, whatever the
    text has, the one segment starts at turn 0, and in mode "paper" tags in a think
    block are tags, which is all that the mode changes.

    Args:
      tokens: [N, L] response token ids.
      mask: [N, L] true on response tokens, a prefix of each row.
      turn_index: [N] turn number in its trajectory; turn 0 always starts a segment.
      tokenizer: a transformers fast tokenizer, a `tokenizers.Tokenizer`, or their
        `piece_table`, which saves building it again.
      include_tags: whether a block's tags carry its credit.
      mode: "corrected" or "paper".
      format: "plan" or "flat".

    Returns:
      TokenMasks of numpy arrays, all false off `mask`.

    Raises:
      ValueError: shapes differ, the mask is no prefix, a token id is outside the
        vocabulary, the mode or the format is unknown, or the tokenizer's kind is not
        supported.

    Source: arXiv 2602.16165 and its code ("paper").
    """
    tokens, mask = np.asarray(tokens), np.asarray(mask).astype(bool)
    turn_index = np.asarray(turn_index)
    if tokens.ndim != 2 or mask.shape != tokens.shape:
        raise ValueError(
            "token_masks needs tokens and mask of one shape [N, L], but got "
            f"{tokens.shape} and {mask.shape}."
        )
    if turn_index.shape != tokens.shape[:1]:
        raise ValueError(
            f"turn_index must be [N] = [{tokens.shape[0]}], but its shape is "
            f"{turn_index.shape}."
        )
    if mode not in ("corrected", "paper"):
        raise ValueError(f'mode must be "corrected" or "paper", but it is {mode!r}.')
    check_format(format)
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ValueError(
            "mask must be true on a prefix of each row: move padding to the right."
        )
    table = tokenizer if isinstance(tokenizer, PieceTable) else piece_table(tokenizer)
    paper = mode == "paper" and format == "plan"
    flat = RowBytes(tokens, mask, table)
    if mode != "paper":
        flat.hush()
    tags = find_tags(flat.text if paper else lower(flat.text))
    blocks = {name: flat.first_block(*tags[name]) for name in BLOCKS}
    if format == "flat":
        nowhere = Block(*np.full((4, len(tokens)), -1))
        blocks |= {"subgoal": nowhere, "switch": nowhere}

    spans = {
        name: flat.token_span(block, include_tags, paper and name != "switch")
        for name, block in blocks.items()
    }
    inside = {name: flat.fill(*span) for name, span in spans.items()}
    no_action = (spans["action"][0] < 0) if paper else (blocks["action"].start < 0)
    if paper:
        inside["action"] |= no_action[:, None] & mask
    else:
        owner = flat.owners(blocks)
        inside = {name: inside[name] & (owner == BLOCKS.index(name)) for name in BLOCKS}
        ends = flat.last_token(table.ends[np.where(mask, tokens, 0)])
        inside["action"] |= (ends | no_action[:, None]) & mask & (owner < 0)

    is_switch = _asks_to_switch(flat, blocks["switch"], tokens, table, paper)
    starts = is_switch | (turn_index == 0)
    first = mask & (np.arange(mask.shape[1]) == 0)
    low = flat.first_token_after(blocks["subgoal"])
    low = np.where(low >= 0, low, flat.first_token_after(blocks["switch"]))
    low = np.maximum(low, 0)
    return TokenMasks(
        action=inside["action"],
        subgoal=inside["subgoal"],
        switch=inside["switch"],
        is_switch=is_switch,
        value_high=first & starts[:, None],
        value_low=mask & (np.arange(mask.shape[1]) == low[:, None]),
        value_switch=first,
    )


def subgoal_ids(tokens: np.ndarray, subgoal: np.ndarray) -> np.ndarray:
    """Numbers the subgoals of a batch: equal tokens, equal number.

    Args:
      tokens: [N, L] response token ids.
      subgoal: [N, L] bool, the tokens to compare (`TokenMasks.subgoal`).

    Returns:
      [N] int64, -1 where a row has no subgoal tokens.
    """
    tokens, subgoal = np.asarray(tokens), np.asarray(subgoal).astype(bool)
    # Shift each row's subgoal to the left edge, so that equal tokens give equal rows.
    order = np.argsort(~subgoal, axis=1, kind="stable")
    width = max(int(subgoal.sum(axis=1).max(initial=0)), 1)
    rows = np.take_along_axis(np.where(subgoal, tokens, -1), order, axis=1)[:, :width]
    _, ids = np.unique(rows, axis=0, return_inverse=True)
    return np.where(subgoal.any(axis=1), ids.reshape(-1), -1)


def _asks_to_switch(flat: RowBytes, block: Block, tokens, table, paper: bool):
    """[N] whether the switch block's text starts a segment."""
    start, stop = np.maximum(block.content, 0), np.maximum(block.close, 0)
    space = np.zeros(256, bool)
    space[list(_SPACES)] = True
    filled = np.flatnonzero(~space[flat.text])
    # Strip: the first and the last byte of the content that is no space.
    first, here = next_in(filled, start, stop)
    last = filled[np.maximum(np.searchsorted(filled, stop) - 1, 0)] + 1
    word = "KEEP" if paper else "SWITCH"
    wanted = np.frombuffer(word.lower().encode(), np.uint8)
    window = first[:, None] + np.arange(len(word))
    said = lower(flat.text[np.minimum(window, flat.text.size - 1)])
    same = here & (last - first == len(word)) & (said == wanted).all(axis=1)
    result = (here & ~same) if paper else same

    # Unicode knows more spaces and more ways to spell; such rows are few and go
    # through text, one by one.
    foreign = np.flatnonzero(flat.text >= 0x80)
    found, odd = next_in(foreign, start, stop)
    for n in np.flatnonzero(odd):
        if paper:  # published: each token decoded by itself
            ids, places = np.unique(tokens[n, : flat.lengths[n]], return_inverse=True)
            said_by = [table.piece(i).decode(errors="replace") for i in ids]
            text = "".join([said_by[place] for place in places.tolist()])
            text = text.partition("<switch>")[2].partition("</switch>")[0]
        else:
            said_here = flat.text[start[n] : stop[n]].tobytes().replace(b"\xff", b"")
            text = said_here.decode(errors="replace")
        text = text.strip().upper()
        result[n] = (text not in ("", "KEEP")) if paper else text == "SWITCH"
    return result
