"""Makes a shop: WebShop's three data files, filled with a small plausible world.

Every product has a kind (what it is), two or three attributes of its kind, options and
a price, and one instruction per product from which synthetic goals are made; about one
product in three has a human-like instruction too. The same arguments give the same
bytes.
"""

import json
import os
import pathlib
import random
from collections.abc import Iterator

from hiper_jax._disk import making
from hiper_jax.act.envs.worlds.webshop.inventory import WARES, Ware

BRANDS = (
    "Abelin Amberly Brightwell Calloway Corvane Dunmore Fenwick Halden Ivarsson "
    "Juniper Kestrel Larkspur Marlowe Norvell Oakhurst Pemberly Quillon Rivington "
    "Solveig Tundra Umbra Vantrell Westerly Yarrow Zephyr"
).split()
_FOR = ("", "", "for Home", "for Travel", "for Gifts", "for Everyday Use")
_CLOSING = (
    "A favorite of our customers.",
    "Ships within two days.",
    "Makes a great gift.",
    "Backed by a one year warranty.",
)
_ASK = ("Find me", "I need", "I want", "Show me")
_HUMAN = (
    "i am looking for {a} {noun} that is {attributes}{options}.",
    "i need {a} {noun} which should be {attributes}{options}.",
    "please find {a} {attributes} {noun}{options}.",
)
_CODE = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def make_shop(out: str | os.PathLike, *, products: int, seed: int) -> pathlib.Path:
    """Writes items_shuffle.json, items_ins_v2.json and items_human_ins.json.

    The folder appears when it is whole.

    Args:
      out: the new folder; it must not exist, or be empty.
      products: how many products.
      seed: of everything that is drawn.

    Returns:
      The folder, ready for `load`.

    Raises:
      ValueError: there is nothing to make.
      FileExistsError: the folder holds something.
    """
    if products < 1:
        raise ValueError(f"A shop needs at least one product, not {products}.")
    out = pathlib.Path(out).expanduser()
    with making(out) as place:
        place.mkdir()
        _write(place, products, random.Random(f"shop {seed}"))
    return out


def _write(folder, products, rng) -> None:
    instructions, human = {}, {}
    with open(folder / "items_shuffle.json", "w", encoding="utf-8") as file:
        for number, (item, instruction, people) in enumerate(_things(products, rng)):
            file.write(",\n" if number else "[")
            json.dump(item, file)
            instructions[item["asin"]] = instruction
            if people:
                human[item["asin"]] = people
        file.write("]\n")
    for name, content in (
        ("items_ins_v2.json", instructions),
        ("items_human_ins.json", human),
    ):
        (folder / name).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _things(products, rng) -> Iterator[tuple[dict, dict, list]]:
    """Yields (product, its instruction, its human instructions)."""
    used: set[str] = set()
    while len(used) < products:
        asin = "B0" + "".join(rng.choices(_CODE, k=8))
        if asin in used:
            continue
        used.add(asin)
        ware = rng.choice(WARES)
        noun = rng.choice(ware.nouns)
        attributes = rng.sample(ware.attributes, rng.choice((1, 2, 2, 3)))
        options = _options(ware, rng)
        item = _item(asin, ware, noun, attributes, options, rng)
        text = f"{rng.choice(_ASK)} {', '.join(attributes)} {noun}"
        instruction = {
            "attributes": attributes,
            "instruction": text,
            "instruction_attributes": attributes,
        }
        people = []
        if rng.random() < 1 / 3:
            people.append(_annotation(asin, noun, attributes, options, rng))
        yield item, instruction, people


def _options(ware: Ware, rng) -> dict[str, list[str]]:
    """Some of the kind's options, two to four values each; sometimes none."""
    if rng.random() < 0.1:
        return {}
    names = [name for name in ware.options if rng.random() < 0.8]
    options = {}
    for name in names:
        values = ware.options[name]
        chosen = set(rng.sample(values, min(len(values), rng.randint(2, 4))))
        options[name.title()] = [value for value in values if value in chosen]
    return options


def _item(asin, ware, noun, attributes, options, rng) -> dict:
    brand = rng.choice(BRANDS)
    parts = [brand, attributes[0].title(), noun.title(), rng.choice(_FOR)]
    description = (
        f"This {noun} by {brand} is {_listed(attributes)}. {rng.choice(_CLOSING)}"
    )
    bullets = [f"{attribute.capitalize()}" for attribute in attributes]
    rng.shuffle(bullets)
    return {
        "name": " ".join(part for part in parts if part),
        "product_information": {"ASIN": asin},
        "brand": f"Brand: {brand}",
        "full_description": description,
        "pricing": _pricing(ware, rng),
        "list_price": "",
        "images": [f"https://img.example/{asin}.jpg"],
        "product_category": " \u203a ".join((*ware.levels, noun.title())),
        "average_rating": "",
        "small_description": bullets,
        "customization_options": {
            name: [{"value": value, "image": None} for value in values]
            for name, values in options.items()
        }
        or "",
        "asin": asin,
        "category": ware.category,
        "query": noun,
        "page": rng.randint(1, 400),
    }


def _pricing(ware, rng) -> str:
    low, high = ware.prices
    amount = low * (high / low) ** rng.random()
    chance = rng.random()
    if chance < 0.1:
        return ""
    if chance < 0.25:
        return f"${amount:,.2f}${amount * rng.uniform(1.1, 1.8):,.2f}"
    return f"${amount:,.2f}"


def _annotation(asin, noun, attributes, options, rng) -> dict:
    asked = rng.sample(attributes, rng.randint(1, len(attributes)))
    chosen = [rng.choice(values) for values in options.values()]
    chosen = [value.replace("/", " | ").lower() for value in chosen]
    text = rng.choice(_HUMAN).format(
        a="an" if noun[0] in "aeiou" else "a",
        noun=noun,
        attributes=_listed(asked),
        options=f", and i want it in {_listed(chosen)}" if chosen else "",
    )
    return {
        "asin": asin,
        "instruction": text,
        "instruction_attributes": asked,
        "instruction_options": chosen,
    }


def _listed(parts) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)
