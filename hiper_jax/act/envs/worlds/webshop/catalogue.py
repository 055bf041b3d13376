"""A product of WebShop: the fields of the data files, cleaned as the original does."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

DEFAULT_PRICE = 100.0
_NEEDED = ("name", "full_description", "small_description", "product_category", "query")
_ANNOTATED = ("instruction", "instruction_attributes", "instruction_options")
_NOT_A_NUMBER = re.compile(r"[^\d.]")


class Product(NamedTuple):
    """One product, as the pages, the search and the score use it."""

    asin: str
    title: str
    description: str
    bullets: list[str]
    price_tag: str  # as shown: "$100.0", "$5.38 to $42.12"
    amounts: list[float]  # one price in dollars, or the two it is drawn between
    category: str
    query: str
    product_category: str  # levels joined by " › "
    options: dict[str, list[str]]  # name -> values, both in lower case
    attributes: list[str]
    instruction: str | None  # of the synthetic goals
    instruction_attributes: list[str]
    human: list[dict[str, Any]]  # annotated instructions, as in the file


def make_product(item: dict, instructions: dict, human: list) -> Product:
    """Cleans one entry of the product file.

    Args:
      item: the entry.
      instructions: what items_ins_v2 says of it; empty if nothing.
      human: what items_human_ins says of it.

    Raises:
      ValueError: a needed field is missing or unreadable.
    """
    for name in _NEEDED:
        if name not in item:
            raise ValueError(f"product {item['asin']} has no {name!r}")
    for entry in human:
        for name in _ANNOTATED:
            if name not in entry:
                raise ValueError(
                    f"a human instruction of {item['asin']} has no {name!r}"
                )
    bullets = item["small_description"]
    bullets = bullets if isinstance(bullets, list) else [bullets]
    amounts, tag = _price(item)
    return Product(
        asin=item["asin"],
        title=_text(item["name"]),
        description=_text(item["full_description"]),
        bullets=[_text(bullet) for bullet in bullets],
        price_tag=tag,
        amounts=amounts,
        category=_text(item.get("category")),
        query=_text(item["query"]).lower().strip(),
        product_category=_text(item["product_category"]),
        options=_options(item),
        attributes=instructions.get("attributes", ["DUMMY_ATTR"]),
        instruction=instructions.get("instruction"),
        instruction_attributes=instructions.get("instruction_attributes") or [],
        human=human,
    )


def _text(value) -> str:
    return "" if value is None else str(value)


def _price(item) -> tuple[list[float], str]:
    """The amounts and how they are shown; more than two amounts count as two."""
    pricing = item.get("pricing") or ""
    try:
        amounts = [
            float(Decimal(_NOT_A_NUMBER.sub("", part)))
            for part in pricing.split("$")[1:3]
        ]
    except (InvalidOperation, AttributeError) as error:
        raise ValueError(
            f"product {item['asin']} has the unreadable price {pricing!r}"
        ) from error
    if not amounts:
        amounts = [DEFAULT_PRICE]
    return amounts, " to ".join(f"${amount}" for amount in amounts)


def _options(item) -> dict[str, list[str]]:
    options = {}
    for name, contents in (item.get("customization_options") or {}).items():
        if contents is None:
            continue
        try:
            values = [_value(content["value"]) for content in contents]
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"product {item['asin']} has unreadable options {name!r}"
            ) from error
        options[name.lower()] = values
    return options


def _value(value: str) -> str:
    return value.strip().replace("/", " | ").lower()
