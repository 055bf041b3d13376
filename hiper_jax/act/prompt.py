"""Task, history, observation, subgoal, admissible actions -> the Plan-Execute prompt.

Two wordings of one content. `full` explains the game and the three-block format to
a pretrained model; `terse` is for small models trained from scratch, which learn
the format from examples and for which every token is time.

A shop's pages name everything that can be clicked, so its `terse` prompt lists no
actions; it shows the page of now in lower case, a line for each text, without the
instruction, and of the turns before only what was done:

    task: find me gluten free honey, and price lower than 30.00 dollars
    did: search[gluten free honey]
    now: back to search
    page 1 (total results: 12)
    next >
    b0k2p1x9qd
    halden gluten free honey
    $12.4
    subgoal: find gluten free honey
"""

import dataclasses
from collections.abc import Callable, Sequence

from hiper_jax.act.envs.worlds.webshop.pages import INSTRUCTION, SEPARATOR

# Listing these again each turn would tell the agent nothing.
HIDDEN_ACTIONS = ("help",)

FULL = """\
You are an agent in a text world. Work towards the task by planning and executing.

Task: {task}
{history}\
Turn {turn}. You now see: {observation}
Your current subgoal: {subgoal}
Actions you may take now:
{actions}

First decide whether the current subgoal still serves the task. KEEP it while it is
neither finished nor hopeless; SWITCH when it is finished, hopeless, or there is none.
Then state the subgoal to follow now (repeat it word for word if you keep it), and
choose one action from the list. Answer with these three blocks and nothing else:
<switch>KEEP or SWITCH</switch>
<subgoal>the subgoal</subgoal>
<action>one action from the list</action>"""

TERSE = """\
task: {task}
{history}now: {observation}
subgoal: {subgoal}
can: {actions}
"""

TERSE_SHOP = """\
task: {task}
{history}now: {page}
subgoal: {subgoal}
"""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A prompt that fits its budget."""

    text: str
    ids: list[int]
    shortened: bool  # something was left out


def build_prompt(
    task: str,
    history: Sequence[tuple[str, str]],
    observation: str,
    subgoal: str,
    admissible: Sequence[str],
    *,
    style: str = "full",
    history_length: int = 2,
) -> str:
    """Writes the prompt of one turn.

    Args:
      task: the task sentence.
      history: (observation, action) pairs, oldest first; all turns so far.
      observation: what the environment shows now.
      subgoal: the subgoal in force; empty when there is none.
      admissible: the actions that the environment would accept.
      style: "full" or "terse".
      history_length: how many of the last pairs are shown.

    Returns:
      The text of the prompt.

    Raises:
      ValueError: the style is unknown.
    """
    shown = list(history[-history_length:]) if history_length else []
    actions = [a for a in admissible if a not in HIDDEN_ACTIONS]
    if style == "terse" and _in_shop(actions):
        return TERSE_SHOP.format(
            task=task.lower(),
            history="".join(f"did: {a}\n" for _, a in shown),
            page=_page(observation),
            subgoal=subgoal or "none",
        )
    if style == "terse":
        return TERSE.format(
            task=task,
            history="".join(f"was: {_flat(o)}\ndid: {a}\n" for o, a in shown),
            observation=_flat(observation),
            subgoal=subgoal or "none",
            actions="; ".join(_grouped(actions)),
        )
    if style != "full":
        raise ValueError(f"prompt style {style!r} is not one of 'full', 'terse'")
    first = len(history) - len(shown) + 1
    lines = [
        f"Turn {first + i}. You saw: {o.strip()}\n  You did: {a}\n"
        for i, (o, a) in enumerate(shown)
    ]
    return FULL.format(
        task=task,
        history="".join(lines),
        turn=len(history) + 1,
        observation=observation.strip(),
        subgoal=subgoal or "(none yet)",
        actions="\n".join(f"- {a}" for a in actions),
    )


def fit_prompt(
    encode: Callable[[str], list[int]],
    max_tokens: int,
    task: str,
    history: Sequence[tuple[str, str]],
    observation: str,
    subgoal: str,
    admissible: Sequence[str],
    *,
    style: str = "full",
    history_length: int = 2,
) -> Fitted:
    """Builds the prompt and, if it is too long, cuts it: never an error for length.

    History goes first, a pair at a time; then the observation is halved until it
    is gone; then the list of actions loses its tail; last, the tokens themselves
    are cut in front, so that the end of the prompt always stands.
    """

    def attempt(pairs, text, actions):
        prompt = build_prompt(
            task, history, text, subgoal, actions, style=style, history_length=pairs
        )
        return prompt, encode(prompt)

    pairs, text, actions = history_length, observation, list(admissible)
    prompt, ids = attempt(pairs, text, actions)
    shortened = len(ids) > max_tokens
    while len(ids) > max_tokens:
        if pairs > 0:
            pairs -= 1
        elif text:
            text = text[: len(text) // 2]
        elif len(actions) > 1:
            actions = actions[: len(actions) // 2]
        else:
            ids = ids[-max_tokens:]
            break
        prompt, ids = attempt(pairs, text, actions)
    return Fitted(prompt, ids, shortened)


def _in_shop(actions: Sequence[str]) -> bool:
    return any(action.startswith(("click[", "search[")) for action in actions)


def _page(text: str) -> str:
    """A shop's page, a line for each text, without the instruction on top."""
    texts = text.lower().split(SEPARATOR.lower())
    if INSTRUCTION.lower() in texts:
        at = texts.index(INSTRUCTION.lower())
        del texts[at : at + 2]
    return "\n".join(texts)


def _flat(text: str) -> str:
    """Puts an observation on one line, without the task that the prompt names."""
    return " ".join(text.split("Your task is to:")[0].split())


def _grouped(actions: Sequence[str]) -> list[str]:
    """Names a verb once: "go to desk 1", "go to bed 1" -> "go to desk 1 bed 1"."""
    verb = "go to "
    places = [a.removeprefix(verb) for a in actions if a.startswith(verb)]
    rest = [a for a in actions if not a.startswith(verb)]
    return rest + ([verb + " ".join(places)] if places else [])
