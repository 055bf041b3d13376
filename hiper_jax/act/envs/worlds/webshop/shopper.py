"""A shopper who reads the instruction and the page, and says what it is about.

Each stretch of the way has a subgoal, which carries what must be remembered:

    find gluten free almond butter                     search, open a fitting result
    find gluten free almond butter, not b0a1 b0b2      the same; those did not fit
    choose flavor name: maple, size: 8 ounce           pick them, in this order
    buy                                                press the button

It knows the words of synthetic goals ("with name: value, and name: value, and price
lower than X dollars"), not the catalogue: the action is a function of the task, the
subgoal before, the last two actions, the observation and what can be clicked.
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from hiper_jax.act.envs.demo import Demo, DemoStep, take_turn
from hiper_jax.act.envs.env import Env
from hiper_jax.act.envs.worlds.webshop.pages import PURCHASE, SEARCH, SEPARATOR

_PRICE = re.compile(r", and price lower than (\d+(?:\.\d+)?) dollars$")
_LEAD = re.compile(
    r"^(?:find me|i need|i want|show me|i am looking for|i'm looking for|please find)"
    r"(?: an?)? ",
    re.IGNORECASE,
)
_REJECTED = re.compile(r", not ([\w ]+)$")
_ASIN = re.compile(r"(?=\w*\d)\w+")
_AMOUNT = re.compile(r"\$(\d+(?:\.\d+)?)")
_LAST_PAGE = 5
_NO_NOISE = (SEARCH, PURCHASE)


class Purchase(Demo):
    """A demonstration; won when the purchase scored 1."""

    __slots__ = ()

    @property
    def won(self) -> bool:
        return bool(self.steps) and self.steps[-1].reward > 0


class Request(NamedTuple):
    """What an instruction asks for."""

    words: str  # what to search for
    options: tuple[tuple[str, str], ...]  # (name, value)
    bound: float  # dollars


def read_request(task: str) -> Request:
    """Reads the instruction of a synthetic goal."""
    bound = float("inf")
    if price := _PRICE.search(task):
        task, bound = task[: price.start()], float(price[1])
    head = task
    options: tuple[tuple[str, str], ...] = ()
    # The first " with " from which on all parts are pairs.
    for match in re.finditer(" with ", task):
        parts = task[match.end() :].split(", and ")
        pairs = [part.partition(": ") for part in parts]
        if all(colon for _, colon, _ in pairs):
            head = task[: match.start()]
            options = tuple((name, value) for name, _, value in pairs)
            break
    return Request(_LEAD.sub("", head).replace(",", "").lower(), options, bound)


def decide(
    task: str,
    subgoal: str,
    last_actions: Sequence[str],
    observation: str,
    clickables: Sequence[str],
) -> tuple[str, str]:
    """The expert's move.

    Args:
      task: the instruction.
      subgoal: the subgoal so far; "" at the start.
      last_actions: what was played before, newest last; only two are looked at.
      observation: the page.
      clickables: what can be clicked on it.

    Returns:
      The subgoal from now on, and the action.
    """
    request = read_request(task)
    rejected = _REJECTED.search(subgoal)
    rejected = rejected[1].split() if rejected else []
    if "buy now" in clickables:
        missing = any(value not in clickables for _, value in request.options)
        price = observation.rpartition("Price: ")[2].split(SEPARATOR)[0]
        if missing or min(_amounts(price)) > request.bound:
            opened = "".join(_clicks(last_actions)[-1:])
            if _ASIN.fullmatch(opened) and opened not in rejected:
                rejected = [*rejected, opened]
            return _find(request, rejected), "click[< prev]"
        left = _left(request, subgoal, last_actions)
        if left:
            pairs = ", ".join(f"{name}: {value}" for name, value in request.options)
            return f"choose {pairs}", f"click[{left[0]}]"
        return "buy", PURCHASE
    finding = _find(request, rejected)
    if not clickables or "search" in clickables:
        return finding, f"search[{request.words}]"
    if "next >" not in clickables:  # a page behind an item
        return subgoal or finding, "click[< prev]"
    return finding, _choose_result(request, rejected, observation, clickables)


def _find(request, rejected) -> str:
    return f"find {request.words}" + (f", not {' '.join(rejected)}" if rejected else "")


def _left(request, subgoal, last_actions) -> list[str]:
    """The values still to pick; all of them unless the last clicks were in order."""
    values = [value for _, value in request.options]
    if not subgoal.startswith("choose"):
        return values
    clicks = _clicks(last_actions)[-2:]
    for done in range(len(values), 0, -1):
        order = values[max(done - 2, 0) : done]
        if clicks[-len(order) :] == order:
            return values[done:]
    return values


def _amounts(tag) -> list[float]:
    return [float(amount) for amount in _AMOUNT.findall(tag)] or [0.0]


def _clicks(actions) -> list[str]:
    return [a.removeprefix("click[").removesuffix("]") for a in actions]


def _choose_result(request, rejected, observation, clickables) -> str:
    """Opens the first result of the kind that may cost what it must."""
    texts = observation.split(SEPARATOR)
    kind = request.words.split()[-1:]
    found = []  # (how bad, asin)
    for asin, title, tag in zip(texts, texts[1:], texts[2:], strict=False):
        name = asin.lower()
        if name not in clickables or name in rejected or not tag.startswith("$"):
            continue
        amounts = _amounts(tag)
        if min(amounts) <= request.bound:
            other = any(word not in title.lower() for word in kind)
            found.append(((other, max(amounts) > request.bound), name))
    if found:
        return f"click[{min(found, key=lambda pair: pair[0])[1]}]"
    page = re.search(r"Page (\d+) \(Total results: (\d+)\)", observation)
    if page and int(page[1]) < min(_LAST_PAGE, -(-int(page[2]) // 10)):
        return "click[next >]"
    return "click[back to search]"


def hasty(demo: Demo, step: DemoStep) -> tuple[str, str] | None:
    """The subgoal and the action of one who buys whatever can be bought."""
    del demo
    return ("buy", PURCHASE) if PURCHASE in step.admissible_actions else None


def demonstrate(
    env: Env, task: str, *, noise: float = 0.0, rng: random.Random
) -> Purchase:
    """Plays a goal.

    Args:
      env: a WebShop to play in.
      task: the goal's id.
      noise: the chance that a turn plays a random click, short of buying, instead of
        the expert's move.
      rng: where chance comes from.

    Returns:
      The demonstration; every turn has the expert's move, played or not.
    """
    observation, info = env.reset(task)
    start, steps, subgoal, played = info, [], "", []
    while True:
        wanted, move = decide(
            info["task"], subgoal, played[-2:], observation, info["clickables"]
        )
        clicks = [a for a in info["admissible_actions"] if a not in _NO_NOISE]
        action = rng.choice(clicks) if clicks and rng.random() < noise else move
        step, observation, info = take_turn(
            env,
            observation,
            info,
            subgoal=wanted,
            previous=subgoal,
            wanted=move,
            action=action,
        )
        steps.append(step)
        subgoal = wanted
        played.append(action)
        if step.terminated or step.truncated:
            return Purchase(task, start, tuple(steps), observation)
