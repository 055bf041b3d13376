"""The shop as an environment: search, look, choose, buy."""

from typing import Any

from hiper_jax.act.envs.env import Info, Reset, Step
from hiper_jax.act.envs.worlds.webshop import pages
from hiper_jax.act.envs.worlds.webshop.shop import Shop, shared


class WebShop:
    """WebShop's text mode; see `hiper_jax.act.envs.env` for the protocol.

    Actions are `search[words]` and `click[text]`. What is not understood changes
    nothing. Besides the protocol's keys, `info` has

        has_search_bar   bool; whether the page shows the search bar
        clickables       list[str]; what can be clicked, in lower case
        task_score       float; the score of the purchase in [0, 1], 0 before it
        score_parts      dict; after the purchase: what the score is made of
    """

    def __init__(
        self,
        shop: Shop,
        goal: dict[str, Any] | None = None,
        *,
        max_turns: int = 50,
        reward: float = 10.0,
        partial: bool = False,
    ):
        """
        Args:
          shop: where to buy.
          goal: what to buy when `reset` names no task.
          max_turns: steps after which an episode is truncated.
          reward: of a purchase that scores exactly 1.
          partial: any purchase earns its score's share of the reward.
        """
        if max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, not {max_turns}.")
        self._shop, self._own_goal = shop, goal
        self._max_turns, self._reward, self._partial = max_turns, reward, partial
        self._goal: Any = None  # until an episode has begun

    def reset(self, task: str | None = None) -> Reset:
        """Starts the goal of that id; without one, the goal given at the start."""
        goal = self._own_goal if task is None else self._shop.goal(task)
        if goal is None:
            raise ValueError("Say which goal to play: reset(task) takes a goal's id.")
        self._game = goal["asin"] if task is None else task
        self._goal, self._text = goal, goal["instruction_text"]
        self._turns, self._score, self._parts = 0, 0.0, None
        self._forget()
        return self._page.observation, self._info()

    def step(self, action: str) -> Step:
        """Plays one action; after the purchase nothing changes any more."""
        if self._goal is None:
            raise ValueError("No episode has begun: call reset first.")
        bought = self._parts is not None
        if not bought:
            self._turns += 1
            self._play(*parse(action))
        won = self._parts is not None and self._score == 1.0
        terminated = self._parts is not None
        truncated = not terminated and self._turns >= self._max_turns
        earned = self._score if self._partial else float(won)
        reward = 0.0 if bought else self._reward * earned
        return self._page.observation, reward, terminated, truncated, self._info()

    def close(self) -> None:
        """Ends the episode; the shop stays, for it is shared."""
        self._goal = None

    def _play(self, verb, text) -> None:
        if verb == "search" and text:
            self._look_up(text, 1)
        elif verb == "click" and text in self._page.clickables and text != "search":
            self._click(text)

    def _click(self, text) -> None:
        # A button's text goes before an option's that reads the same.
        if text == pages.BUY.lower():
            self._buy()
        elif text == pages.BACK.lower():
            self._forget()
        elif text == pages.NEXT.lower() and self._place == "results":
            self._look_up(self._words, self._number + 1)
        elif text == pages.PREVIOUS.lower() and self._place == "results":
            self._look_up(self._words, self._number - 1)
        elif text == pages.PREVIOUS.lower() and self._place == "item":
            self._look_up(self._words, self._number)
        elif text == pages.PREVIOUS.lower():
            self._show_item()
        elif self._place == "item" and text in _SUB_PAGES:
            self._place = text
            self._page = pages.sub_page(self._text, self._product(), text)
        elif self._place == "results":
            self._asin = next(a for a in self._shown if a.lower() == text)
            self._show_item()
        else:
            # Where two options share a value, the button of the later one is pressed.
            names = self._product().options.items()
            name = [name for name, values in names if text in values][-1]
            self._options[name] = text
            self._show_item()

    def _forget(self) -> None:
        self._words, self._number, self._asin, self._options = "", 0, "", {}
        self._place, self._page = "search", pages.search_page(self._text)

    def _look_up(self, words, number) -> None:
        hits = self._shop.search(words)
        self._words, self._number, self._asin, self._options = words, number, "", {}
        first = (number - 1) * pages.PER_PAGE
        self._shown = hits[first : first + pages.PER_PAGE]
        products = [self._shop.product(asin) for asin in self._shown]
        self._place = "results"
        self._page = pages.results_page(self._text, products, number, len(hits))

    def _show_item(self) -> None:
        self._place = "item"
        self._page = pages.item_page(self._text, self._product())

    def _buy(self) -> None:
        self._score, self._parts = self._shop.score(
            self._goal, self._asin, self._options
        )
        self._place = "done"
        self._page = pages.done_page(self._asin, self._options, self._score)

    def _product(self):
        return self._shop.product(self._asin)

    def _info(self) -> Info:
        clickables = list(self._page.clickables)
        actions = [f"click[{text}]" for text in clickables if text != "search"]
        if self._page.has_search_bar:
            actions.insert(0, pages.SEARCH)
        info = {
            "task": self._text,
            "task_type": self._goal.get("category", ""),
            "game": self._game,
            "admissible_actions": actions,
            "won": self._parts is not None and self._score == 1.0,
            "has_search_bar": self._page.has_search_bar,
            "clickables": clickables,
            "task_score": self._score,
        }
        if self._parts is not None:
            info["score_parts"] = dict(self._parts)
        return info


_SUB_PAGES = tuple(name.lower() for name in pages.SUB_PAGES)


def parse(action: str) -> tuple[str, str | None]:
    """`verb[text]` -> (verb, text in lower case); (action, None) if it is not that.

    Only the first line counts, the verb is all before the last `[` that leaves a text,
    and what follows the last `]` is dropped.
    """
    line = action.split("\n", 1)[0]
    end = line.rfind("]")
    begin = line.rfind("[", 1, max(end - 1, 0))
    if begin < 0:
        return action, None
    return line[:begin], line[begin + 1 : end].lower()


def make_env(
    directory: str,
    *,
    human_goals: bool = False,
    seed: int = 0,
    items: str | None = None,
    max_turns: int = 15,
    reward: float = 10.0,
    partial: bool = False,
) -> WebShop:
    """One environment of the process's shared shop, for `functools.partial`."""
    shop = shared(directory, human_goals, seed, items)
    return WebShop(shop, max_turns=max_turns, reward=reward, partial=partial)
