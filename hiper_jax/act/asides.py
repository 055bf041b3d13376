"""Think blocks: what a response says to itself and is not played."""

from collections.abc import Iterable, Iterator


def closed_thoughts(
    tags: Iterable[tuple[int, int, bool]], origin: int = 0
) -> Iterator[tuple[int, int]]:
    """Finds the closed think blocks of one response, by its tags alone.

    A block runs from an opening tag to the next closing one, tags included, and on to
    further closing ones as far as tags were opened within. A response whose first tag
    closes a block began in it: its prompt holds the opening.

    Args:
      tags: start, end and whether it closes, of each tag in order.
      origin: where the response begins.

    Yields:
      start and end of each block.
    """
    begin: int | None = None
    after, unclosed = origin, 1
    for start, end, closes in tags:
        if not closes:
            unclosed = 1 if begin is None else unclosed + 1
            begin = start if begin is None else begin
        elif unclosed:
            yield (after if begin is None else begin), end
            begin, after, unclosed = None, end, unclosed - 1
