"""Response text -> switch, subgoal, action: what the environment is told.

"plan", HiPER's format                          "flat", without a plan
<switch>KEEP or SWITCH</switch>                 <think>reasoning</think>
<subgoal>the subgoal to follow now</subgoal>    <action>one admissible action</action>
<action>one admissible action</action>
"""

import re
from typing import NamedTuple

import numpy as np

from hiper_jax.act.asides import closed_thoughts
from hiper_jax.act.envs.world import DEFAULT, Published, load_world

SWITCH_TEXTS = ("KEEP", "SWITCH")
FORMATS = ("plan", "flat")

# ASCII: a long s or a Kelvin sign makes no tag, here as in `spans`.
_TAG_FLAGS = re.IGNORECASE | re.ASCII
_OPENS, _CLOSES = (re.compile(f"<{s}think>", _TAG_FLAGS) for s in ("", "/"))
_GAP = "\U00100002"  # where a thought stood: no tag spans it; a private character
_CJK = re.compile("[\u4e00-\u9fff]")


class Reply(NamedTuple):
    """One response as read."""

    action: str  # what is sent to the environment, lower case
    subgoal: str  # the text of the subgoal block, "" without one
    switch: str  # "KEEP" or "SWITCH"; in mode "paper" also "", without a plan always
    valid: bool  # all blocks in good form; says nothing of admissibility


def check_format(format: str) -> None:
    """Refuses what is no format of responses.

    Raises:
      ValueError: it is neither "plan" nor "flat".
    """
    if format not in FORMATS:
        raise ValueError(f'format must be "plan" or "flat", but it is {format!r}.')


def read_response(
    text: str,
    *,
    environment: str = DEFAULT,
    mode: str = "corrected",
    format: str = "plan",
) -> Reply:
    """Reads one response as `read` does, for a world that is named.

    Args:
      text: the decoded response, without its end-of-message token.
      environment: which world, as `load_world` takes it.
      mode: "corrected" or "paper".
      format: "plan" or "flat".

    Returns:
      A Reply.

    Raises:
      ValueError: unknown environment, mode or format.
    """
    world = load_world(environment)
    return read(
        text, tail=world.tail, published=world.published, mode=mode, format=format
    )


def read(
    text: str, *, tail: int, published: Published, mode: str, format: str = "plan"
) -> Reply:
    """Reads one response.

    The action is the text between the first `<action>` and the next `</action>`,
    lower-cased and stripped; without both tags the turn is invalid and the response's
    last characters are sent instead. The turn is valid if also the switch block reads
    KEEP or SWITCH (any case), the subgoal block is there and no CJK character occurs.

    In "corrected" mode tags are found in any case, each block is read whatever became
    of the others, a switch that cannot be read is KEEP, and what stands in a closed
    `<think>` block is not there, see `asides`. In "paper" mode the
    published reader's ways are kept: the first `</action>` ends the action wherever it
    stands, and the first fault met ends the reading (see `_read_as_published`).

    In the flat format the action is read the same way, and reasoning stands where the
    plan would (see `_read_flat`).

    Args:
      text: the decoded response, without its end-of-message token.
      tail: how many of the last characters of an unreadable response are sent.
      published: what the published reader leaves behind in this world.
      mode: "corrected" or "paper".
      format: "plan" or "flat".

    Returns:
      A Reply.

    Raises:
      ValueError: unknown mode or format.

    Source: arXiv 2602.16165 and its code.
    """
    check_format(format)
    if mode not in ("corrected", "paper"):
        raise ValueError(f'mode must be "corrected" or "paper", but it is {mode!r}.')
    if format == "flat":
        return _read_flat(text, tail, mode)
    if mode == "paper":
        return _read_as_published(text, tail, published)
    spoken = _without_thoughts(text)
    action, subgoal, switch = (
        _block(spoken, name) for name in ("action", "subgoal", "switch")
    )
    said = (switch or "").strip().upper()
    return Reply(
        action=_last(spoken.replace(_GAP, ""), tail)
        if action is None
        else action.lower().strip(),
        subgoal=(subgoal or "").strip(),
        switch=said if said in SWITCH_TEXTS else "KEEP",
        valid=(
            action is not None
            and subgoal is not None
            and said in SWITCH_TEXTS
            and not _CJK.search(text)
        ),
    )


def _read_as_published(text: str, tail: int, published: Published) -> Reply:
    """The published reader: one fault ends the reading, and leaves its own traces.

    no action block    -> nothing else is read
    no switch block    -> the subgoal is `published.subgoal` or the action's end
    unknown switch     -> no subgoal; the switch reads `published.switch`
    no subgoal block   -> the switch stands
    """
    action = _first_block(text.lower(), "action")
    if action is None:
        return Reply(_last(text, tail), "", "", False)
    action = action.strip()
    switch = _first_block(text, "switch")
    if switch is None:
        left = published.subgoal
        return Reply(action, action[-30:] if left is None else left, "", False)
    switch = switch.strip().upper()
    if switch not in SWITCH_TEXTS:
        return Reply(action, "", published.switch, False)
    subgoal = _first_block(text, "subgoal")
    if subgoal is None:
        return Reply(action, "", switch, False)
    return Reply(action, subgoal.strip(), switch, not _CJK.search(text))


def _read_flat(text: str, tail: int, mode: str) -> Reply:
    """Reasoning and an action: no subgoal, no switch.

    The turn is valid if there is an action, if there is reasoning and if no CJK
    character occurs. What is said within the reasoning is not played, but in "paper"
    mode: there action tags count in any case and anywhere, and the first closing one
    ends the action; of the reasoning only that both its tags occur, in lower case.

    Source: arXiv 2505.10978 (GiGPO) and its code.
    """
    if mode == "paper":
        lowered = text.lower()
        action = _first_block(lowered, "action")
        reasoned = "<think>" in text and "</think>" in text
    else:
        action = _block(_without_thoughts(text), "action")
        reasoned = _block(text, "think") is not None
    if action is None:
        return Reply(_last(text, tail), "", "", False)
    valid = reasoned and not _CJK.search(text)
    return Reply(action.lower().strip(), "", "", valid)


def without_thoughts(text: str) -> str:
    """The text with a space for each closed think block."""
    return _without_thoughts(text).replace(_GAP, " ")


def _without_thoughts(text: str) -> str:
    """The text with a gap for each closed think block; as it is where there is none."""
    closes = [tag.start() for tag in _CLOSES.finditer(text)]
    if not closes:
        return text
    opens = [tag.start() for tag in _OPENS.finditer(text)]
    begin = np.array(opens + closes)
    order = np.argsort(begin, kind="stable")
    begin, shut = begin[order], order >= len(opens)
    end = begin + np.where(shut, 8, 7)
    alone = np.zeros_like(begin)
    blocks = closed_thoughts(begin, end, shut, alone, alone[:1])
    kept, last = [], 0
    for start, end in np.stack(blocks, axis=1).tolist():
        kept.append(text[last:start].replace(_GAP, ""))
        last = end
    return _GAP.join([*kept, text[last:].replace(_GAP, "")]) if kept else text


def _last(text: str, number: int) -> str:
    return text.lower()[-number:] if number else ""


def _block(text: str, name: str) -> str | None:
    """What the first block holds, tags in any case; None without both tags.

    Only the first opening tag is tried: what closes none after it closes no later one,
    and one pattern of both would look again from each of them.
    """
    opens = re.compile(f"<{name}>", _TAG_FLAGS).search(text)
    if opens is None:
        return None
    closes = re.compile(f"</{name}>", _TAG_FLAGS).search(text, opens.end())
    if closes is None:
        return None
    return text[opens.end() : closes.start()].replace(_GAP, "")


def _first_block(text: str, name: str) -> str | None:
    """From the first opening tag to the first closing tag, "" if they are crossed."""
    opens, closes = text.find(f"<{name}>"), text.find(f"</{name}>")
    if opens < 0 or closes < 0:
        return None
    return text[opens + len(name) + 2 : closes]
