"""What a generated shop sells: kinds of things, their attributes and options.

Values are chosen so that the score knows them again. It takes a text for a colour as
soon as a colour's name occurs in it, also within a word ("standard" holds "tan"), and
then compares only the colour; such values would make goals that nobody can reach.
"""

from typing import NamedTuple


class Ware(NamedTuple):
    """A family of products."""

    category: str
    levels: tuple[str, ...]  # of the product category, the noun's own level not named
    nouns: tuple[str, ...]
    attributes: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    prices: tuple[float, float]  # dollars


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


COLORS = _split(
    "black|white|navy|grey|beige|purple|teal|coral|ivory|olive|burgundy|lavender|"
    "turquoise|rose gold|light pink|dark green|royal blue|wine red"
)
SIZES = ("x-small", "small", "medium", "large", "x-large", "xx-large")
PACKS = ("1 count", "2 pack", "4 pack", "6 pack", "12 pack")
WIDTHS = ("twin", "full", "queen", "king")

WARES = (
    Ware(
        "grocery",
        ("Grocery & Gourmet Food", "Pantry Staples"),
        ("almond butter", "granola", "tomato sauce", "pancake mix", "honey"),
        _split(
            "gluten free|low sugar|non gmo|dairy free|certified organic|high protein|"
            "soy free|low carb"
        ),
        {
            "flavor name": ("vanilla", "cinnamon", "original", "maple", "ginger"),
            "size": ("8 ounce", "12 ounce", "16 ounce", "32 ounce"),
        },
        (4, 40),
    ),
    Ware(
        "grocery",
        ("Grocery & Gourmet Food", "Beverages"),
        ("herbal tea", "cold brew coffee", "coconut water", "protein shake"),
        _split(
            "sugar free|caffeine free|keto friendly|plant based|fat free|kosher|"
            "ready to drink|no preservatives"
        ),
        {
            "flavor name": ("mango", "vanilla", "hibiscus", "peach", "berry"),
            "size": PACKS,
        },
        (6, 60),
    ),
    Ware(
        "beauty",
        ("Beauty & Personal Care", "Hair Care"),
        ("shampoo", "conditioner", "hair mask", "hair oil"),
        _split(
            "sulfate free|cruelty free|natural ingredients|paraben free|"
            "damaged hair|long lasting|tea tree|dry scalp"
        ),
        {
            "scent": ("coconut", "jasmine", "eucalyptus", "unscented"),
            "size": ("3 ounce", "8 ounce", "12 ounce", "1 gallon"),
        },
        (5, 80),
    ),
    Ware(
        "beauty",
        ("Beauty & Personal Care", "Skin Care"),
        ("face cream", "body lotion", "sunscreen", "lip balm"),
        _split(
            "fragrance free|sensitive skin|hyaluronic acid|anti aging|oil free|"
            "alcohol free|dermatologist tested|fine lines"
        ),
        {"size": ("1 ounce", "2 ounce", "4 ounce"), "style": ("single", "2 pack")},
        (7, 120),
    ),
    Ware(
        "fashion",
        ("Clothing, Shoes & Jewelry", "Men", "Clothing"),
        ("t-shirt", "polo shirt", "hoodie", "jacket", "jeans"),
        _split(
            "machine wash|slim fit|long sleeve|polyester cotton|moisture wicking|"
            "regular fit|quick drying|classic fit"
        ),
        {"color": COLORS, "size": SIZES},
        (12, 120),
    ),
    Ware(
        "fashion",
        ("Clothing, Shoes & Jewelry", "Women", "Clothing"),
        ("dress", "blouse", "cardigan", "leggings", "skirt"),
        _split(
            "high waist|short sleeve|tummy control|hand wash|relaxed fit|v neck|"
            "cotton spandex|everyday wear"
        ),
        {"color": COLORS, "size": SIZES},
        (15, 150),
    ),
    Ware(
        "fashion",
        ("Clothing, Shoes & Jewelry", "Shoes"),
        ("sneakers", "sandals", "hiking boots", "loafers"),
        _split(
            "rubber sole|memory foam|arch support|ethylene vinyl|non slip|"
            "slip resistant|faux fur|lace closure"
        ),
        {"color": COLORS, "size": ("6", "7", "7.5/wide", "8", "9", "10", "11/wide")},
        (20, 180),
    ),
    Ware(
        "electronics",
        ("Electronics", "Audio"),
        ("bluetooth speaker", "earbuds", "soundbar", "headphones"),
        _split(
            "noise cancelling|high performance|hands free|water resistant|"
            "stereo sound|long battery life|fast charging|ultra light"
        ),
        {"color": COLORS[:10], "style": ("mini", "classic", "pro")},
        (15, 400),
    ),
    Ware(
        "electronics",
        ("Electronics", "Computers & Accessories"),
        ("laptop", "tablet", "monitor", "wireless keyboard"),
        _split(
            "quad core|high definition|plug and play|dual band|easy to carry|"
            "high speed|usb port|core i5"
        ),
        {
            "capacity": ("8gb | 256gb", "16gb | 512gb", "32gb | 1tb"),
            "color": ("black", "silver", "rose gold"),
        },
        (60, 1600),
    ),
    Ware(
        "electronics",
        ("Cell Phones & Accessories", "Cases"),
        ("phone case", "screen protector", "phone charger", "phone mount"),
        _split(
            "wireless charging|tempered glass|heavy duty|carbon fiber|easy install|"
            "scratch proof|drop proof|compatible with iphone"
        ),
        {"color": COLORS[:12], "size": ("iphone 11", "iphone 12", "iphone 13 pro")},
        (5, 60),
    ),
    Ware(
        "garden",
        ("Home & Kitchen", "Furniture", "Living Room Furniture"),
        ("coffee table", "bookcase", "sofa", "tv console", "ottoman"),
        _split(
            "solid wood|easy assemble|space saving|mid century|storage space|"
            "metal legs|living room|assembly required"
        ),
        {"color": ("walnut", "espresso", "white", "black", "charcoal", "navy")},
        (45, 1400),
    ),
    Ware(
        "garden",
        ("Home & Kitchen", "Bedding"),
        ("duvet cover", "mattress", "pillow", "blanket"),
        _split(
            "machine washable|king size|queen size|super soft|memory filled|"
            "eco friendly|high density|all season"
        ),
        {"color": COLORS[:12], "size": WIDTHS},
        (18, 700),
    ),
    Ware(
        "garden",
        ("Home & Kitchen", "Lighting"),
        ("desk lamp", "floor lamp", "pendant light", "wall sconce"),
        _split(
            "energy efficient|bronze finish|glass shade|dining room|brushed nickel|"
            "dimmable|clear glass|vanity ready"
        ),
        {"color": ("black", "white", "bronze", "silver"), "size": PACKS[:3]},
        (14, 300),
    ),
)
