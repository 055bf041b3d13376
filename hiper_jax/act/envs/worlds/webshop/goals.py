"""Goals: what to buy, in words and as the score checks it.

A synthetic goal is a product's instruction with one combination of its options; a human
goal is one annotated instruction. Goals are made when asked for: a catalogue of a
million products has too many to keep. The bound on the price is drawn once per product
(synthetic) or per instruction (human).
"""

import math
import random
from collections.abc import Mapping
from typing import Any

from hiper_jax.act.envs.worlds.webshop.catalogue import Product

Goal = dict[str, Any]
BOUNDS = tuple(10.0 * i for i in range(1, 100))
NO_BOUND = 1000000


def count_synthetic(product: Product) -> int:
    """How many synthetic goals a product has: one for each choice of its options."""
    if product.instruction is None or not product.instruction_attributes:
        return 0
    return math.prod(len(values) for values in product.options.values())


def count_human(product: Product) -> int:
    """How many annotated instructions of a product name attributes."""
    return len(_annotations(product))


def draw_price(product: Product, seed: int) -> float:
    """The price: drawn between the two amounts, where there are two."""
    if len(product.amounts) == 1:
        return product.amounts[0]
    return random.Random(f"price {seed} {product.asin}").uniform(*product.amounts)


def draw_bound(price: float, key: str) -> float:
    """The larger of two of the next four multiples of 10 above a price."""
    above = [bound for bound in BOUNDS if bound > price][:4]
    if len(above) < 2:
        return NO_BOUND
    return max(random.Random(key).sample(above, 2))


def synthetic_goal(
    product: Product,
    number: int,
    *,
    price: float,
    seed: int,
    attribute_goals: Mapping[str, int],
) -> Goal:
    """The goal with the given combination of a product's options.

    Args:
      product: the product to buy.
      number: which combination; the last option name varies fastest.
      price: of the product, in dollars.
      seed: of the bound on the price.
      attribute_goals: how many synthetic goals ask for each attribute; the rarer, the
        heavier the goal.
    """
    options = {}
    for name in sorted(product.options, reverse=True):
        number, which = divmod(number, len(product.options[name]))
        options[name] = product.options[name][which]
    options = dict(reversed(options.items()))
    choice = ", and ".join(f"{name}: {value}" for name, value in options.items())
    bound = draw_bound(price, f"bound {seed} {product.asin}")
    attributes = product.instruction_attributes
    weights = [1.0 / attribute_goals[attribute] for attribute in attributes]
    return {
        **_target(product),
        "instruction_text": f"{product.instruction}"
        + (f" with {choice}" if choice else "")
        + _clause(bound),
        "attributes": attributes,
        "price_upper": bound,
        "goal_options": options,
        "weight": sum(weights) / len(attributes),
    }


def human_goal(product: Product, number: int, *, price: float, seed: int) -> Goal:
    """The goal of one annotated instruction; see `synthetic_goal`."""
    annotation = _annotations(product)[number]
    bound = draw_bound(price, f"bound {seed} {product.asin} {number}")
    return {
        **_target(product),
        "instruction_text": annotation["instruction"].strip(".") + _clause(bound),
        "attributes": annotation["instruction_attributes"],
        "price_upper": bound,
        "goal_options": annotation["instruction_options"],
        "weight": 1,
    }


def _annotations(product) -> list[dict]:
    return [entry for entry in product.human if entry["instruction_attributes"]]


def _target(product) -> Goal:
    return {
        "asin": product.asin,
        "category": product.category,
        "query": product.query,
        "name": product.title,
        "product_category": product.product_category,
    }


def _clause(bound) -> str:
    if bound == NO_BOUND:
        return ""
    return f", and price lower than {bound:.2f} dollars"
