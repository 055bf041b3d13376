"""Text of others on its way to people: what cannot be seen is written out."""

import unicodedata


def visible(text: object, *, one_line: bool = False) -> str:
    r"""The text with its unseen characters as `\x1b` or `\u202e`.

    Those are controls, what turns the direction of text or joins it unseen, ends of
    lines that are none in a file, and halves of characters.

    Args:
      text: anything, such as what a game or a model wrote.
      one_line: line feeds and tabs are written out, too.
    """
    layout = "" if one_line else "\n\t"
    return "".join(
        c if c.isprintable() or c in layout else _written_out(c) for c in str(text)
    )


def _written_out(character: str) -> str:
    if unicodedata.category(character) == "Zs":  # a space of some width
        return character
    code = ord(character)
    if code < 0x100:
        return {"\n": "\\n", "\t": "\\t"}.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
