"""What the pages of the shop show and what can be clicked on them.

An observation is the visible texts of a page in order. The original takes them from
HTML: a text that is missing leaves no trace, one of spaces alone leaves an empty one.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from hiper_jax.act.envs.worlds.webshop.catalogue import Product

SEPARATOR = " [SEP] "
INSTRUCTION = "Instruction:"  # the goal in words is the text after it
PER_PAGE = 10
BACK, PREVIOUS, NEXT = "Back to Search", "< Prev", "Next >"
SUB_PAGES = ("Description", "Features", "Reviews")
BUY = "Buy Now"
SEARCH = "search[<your query>]"  # stands for any search in the admissible actions
PURCHASE = f"click[{BUY.lower()}]"  # the action that ends an episode
_ITEM = tuple(text.lower() for text in (BACK, PREVIOUS, *SUB_PAGES, BUY))
_SPACES = " \t\n\f\r"
_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"}
)


class Page(NamedTuple):
    """One page of the shop."""

    observation: str
    clickables: tuple[str, ...]
    has_search_bar: bool = False


def search_page(instruction: str) -> Page:
    texts = ["WebShop", INSTRUCTION, *_shown(instruction), "Search"]
    return Page(SEPARATOR.join(texts), ("search",), True)


def results_page(
    instruction: str, products: Sequence[Product], page: int, total: int
) -> Page:
    """The results `products` of page number `page`, from `total` hits."""
    turns = (PREVIOUS, NEXT) if page > 1 else (NEXT,)
    texts = _head(instruction, BACK, f"Page {page} (Total results: {total})", *turns)
    for product in products:
        texts.append(product.asin)
        texts += _shown(product.title)
        texts.append(product.price_tag)
    links = (product.asin.lower() for product in products)
    clickables = dict.fromkeys([BACK.lower(), *(turn.lower() for turn in turns)])
    return Page(SEPARATOR.join(texts), tuple(clickables | dict.fromkeys(links)))


def item_page(instruction: str, product: Product) -> Page:
    texts = _head(instruction, BACK, PREVIOUS)
    clickables = dict.fromkeys(_ITEM)
    for name, values in product.options.items():
        texts += _shown(name)
        for value in values:
            texts += _shown(value)
            clickables[value] = None
    texts += _shown(product.title)
    texts += [f"Price: {product.price_tag}", "Rating: N.A.", *SUB_PAGES, BUY]
    return Page(SEPARATOR.join(texts), tuple(clickables))


def sub_page(instruction: str, product: Product, name: str) -> Page:
    """One of the pages behind an item; `name` in lower case."""
    texts = _head(instruction, BACK, PREVIOUS)
    if name == "description":
        texts += _shown(product.description)
    elif name == "features":
        for bullet in product.bullets:
            texts += _shown(f" {bullet}")
    return Page(SEPARATOR.join(texts), (BACK.lower(), PREVIOUS.lower()))


def done_page(asin: str, options: dict[str, str], score: float) -> Page:
    """The end; the original fills in nothing but the purchase and the score."""
    bought = json.dumps(options, sort_keys=True).translate(_ESCAPES)
    texts = (
        ["Thank you for shopping with us!", "Your code:", "None"]
        + ["(Paste it in your MTurk interface.)", "Purchased", "asin", asin]
        + ["options", bought, "attrs", "None", "category", "None", "query", "None"]
        + ["product category", "None", "Target", "asin", "options", "attrs"]
        + ["price upper", "instuction text", "category", "product category", "query"]
        + ["Goal", "None", "Reward", "Your score (min 0.0, max 1.0)", str(score)]
        + ["Reward Details", "None"]
    )
    return Page(SEPARATOR.join(texts), ())


def _head(instruction, *texts) -> list[str]:
    return [INSTRUCTION, *_shown(instruction), *texts]


def _shown(text: str) -> list[str]:
    """A text as a page shows it: stripped, and perhaps not at all."""
    if text.strip(_SPACES):
        return [text.strip()]
    return [] if not text or "\n" in text else [""]
