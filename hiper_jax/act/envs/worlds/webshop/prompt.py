"""The terse wording of a shop's pages.

A page names everything that can be clicked, so no actions are listed; it is shown in
lower case, a line for each text, without the instruction, and of the turns before only
what was done:

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

from collections.abc import Sequence

from hiper_jax.act.envs import templates
from hiper_jax.act.envs.templates import History
from hiper_jax.act.envs.worlds.webshop.pages import INSTRUCTION, SEPARATOR

TERSE = """\
task: {task}
{history}now: {page}
subgoal: {subgoal}
"""

TERSE_FLAT = """\
task: {task}
{history}now: {page}
"""

# What a shop's pages and instructions say over and over: each may become one token.
PHRASES = (
    "task: ",
    "\ndid: click[",
    "\ndid: search[",
    "\nnow: ",
    "\nsubgoal: ",
    "click[",
    "search[",
    "webshop\nsearch",
    "back to search\n",
    "< prev\n",
    "\nnext >\n",
    "page 1 (total results: ",
    "\nprice: $",
    "\n$",
    " to $",
    "\nrating: n.a.\ndescription\nfeatures\nreviews\nbuy now",
    "buy now",
    "back to search",
    "< prev",
    ", and price lower than ",
    ".00 dollars",
    ", and ",
    " with ",
    "find me ",
    "show me ",
    "i need ",
    "i want ",
)


def terse(
    task: str,
    history: History,
    observation: str,
    subgoal: str,
    admissible: Sequence[str],
    *,
    history_length: int = 2,
    plan: bool = True,
) -> str:
    """The wording for small models, with a plan or without."""
    del admissible
    shown = templates.last(history, history_length)
    return (TERSE if plan else TERSE_FLAT).format(
        task=task.lower(),
        history="".join(f"did: {a}\n" for _, a in shown),
        page=_page(observation),
        subgoal=subgoal or "none",
    )


def _page(text: str) -> str:
    """A page, a line for each text, without the instruction on top."""
    texts = text.lower().split(SEPARATOR.lower())
    if INSTRUCTION.lower() in texts:
        at = texts.index(INSTRUCTION.lower())
        del texts[at : at + 2]
    return "\n".join(texts)
