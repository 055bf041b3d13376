"""The score of a purchase: type x (attributes, options and price that fit).

    score = r_type (matched attributes + matched options + [price <= bound])
                   / (attributes + options + 1)

Two peculiarities of the original are kept. A goal's options as a dict are compared as
the text of the pair (name, value), and only a name or value that is exactly a colour
stands for itself; the bought side is a colour as soon as it contains one. And the title
overlap counts shared nouns once but divides by all nouns of the goal's title,
repetitions included.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hiper_jax.act.envs.worlds.webshop.catalogue import Product

Nouns = Callable[[str], Sequence[str]]
THRESHOLD = 85

# In the original's order: the first that occurs counts.
COLORS = tuple(
    """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux
    bronze brown burgundy camel camo caramel champagne charcoal cheetah chestnut
    chocolate christmas coffee cognac copper coral cranberry cream crystal dark denim
    eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey
    heather indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta
    maroon mauve merlot midnight mint mocha multicolor mushroom mustard natural navy
    nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand
    sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal
    tiger turquoise violet walnut wheat white wine yellow
    """.split()
)
_LATIN = {code: None for code in range(128, 256)}


def score(
    goal: dict[str, Any],
    product: Product,
    options: dict[str, str],
    price: float,
    nouns: Nouns,
) -> tuple[float, dict[str, Any]]:
    """Scores a purchase.

    Args:
      goal: what was asked for.
      product: what was bought.
      options: name -> chosen value.
      price: of the product, in dollars.
      nouns: text -> its nouns.

    Returns:
      The score in [0, 1] and its parts: r_type with query_match, category_match and
      title_score; r_att, r_option (where options are asked for), r_price, each with its
      weight w_*.
    """
    wanted = goal["goal_options"]
    total = len(goal["attributes"]) + len(wanted) + 1
    kind = type_part(goal, product, nouns)
    attributes = matched_attributes(goal["attributes"], product)
    chosen = matched_options(wanted, list(options.values()))
    fits = price <= goal["price_upper"]
    parts = {
        "r_type": kind["r_type"],
        "r_att": attributes / max(len(goal["attributes"]), 1),
        "w_att": len(goal["attributes"]) / total,
        "query_match": kind["query_match"],
        "category_match": kind["category_match"],
        "title_score": kind["title_score"],
    }
    if wanted:
        parts |= {"r_option": chosen / len(wanted), "w_option": len(wanted) / total}
    parts |= {"r_price": fits, "w_price": 1 / total}
    return (attributes + chosen + fits) / total * kind["r_type"], parts


def type_part(goal: dict[str, Any], product: Product, nouns: Nouns) -> dict[str, Any]:
    """Whether the product is the kind of thing that was asked for."""
    query_match = product.query == goal["query"]
    shared = _levels(product.product_category) & _levels(goal["product_category"])
    category_match = len(shared) >= 2
    wanted = [noun.lower() for noun in nouns(goal["name"])]
    bought = {noun.lower() for noun in nouns(product.title)}
    overlap = len(bought & set(wanted)) / len(wanted) if wanted else 0.2
    if overlap == 0.0:
        r_type = 0.0
    elif overlap < 0.1:
        r_type = 0.1
    else:
        r_type = 1.0 if query_match or category_match or overlap > 0.2 else 0.5
    return {
        "r_type": r_type,
        "query_match": query_match,
        "category_match": category_match,
        "title_score": overlap,
    }


def matched_attributes(wanted: Sequence[str], product: Product) -> int:
    """How many attributes the product lists or mentions."""
    texts = (product.title, " ".join(product.bullets), product.description)
    texts = [text.lower() for text in texts]
    return sum(
        any(similar(listed, attribute) for listed in product.attributes)
        or any(attribute in text for text in texts)
        for attribute in wanted
    )


def matched_options(wanted: dict | Sequence[str], bought: Sequence[str]) -> int:
    """How many of the wanted options are among the bought values."""
    pairs = wanted.items() if isinstance(wanted, dict) else wanted
    bought = [_color(value) for value in bought]
    return sum(
        any(similar(value, goal) for value in bought) for goal in map(_color, pairs)
    )


def similar(one: Any, two: Any) -> bool:
    """Whether two texts have nearly the same words, in any order."""
    from rapidfuzz import fuzz

    return round(fuzz.token_set_ratio(_plain(one), _plain(two))) > THRESHOLD


def _plain(value) -> str:
    from rapidfuzz import utils

    return utils.default_process(str(value).translate(_LATIN))


def _color(value):
    """The first colour in a text, or that is an item of a pair; else the value."""
    return next((color for color in COLORS if color in value), value)


def _levels(category: str) -> set[str]:
    return {level.strip() for level in category.split("\u203a")}
