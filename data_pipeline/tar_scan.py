"""Headers of a damaged tar, wherever they begin: found by their magic and checksum, a window at a time."""

from collections.abc import Callable, Iterator

BLOCK = 512
MAGIC = b"ustar"
MAGIC_AT = 257
SUM_AT, SUM_END = 148, 156
"""The checksum of a header, which counts as blanks in its own sum."""
WINDOW = 8 << 20

Read = Callable[[int, int], bytes | memoryview]
"""Bytes start ... end - 1 of a tar; fewer where it ends."""


def headers(read: Read, first: int = 0) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the data, size) of every whole header that begins at byte `first` or later."""
    base = first
    while True:
        window = bytes(read(base, base + WINDOW + BLOCK - 1))
        # A header that begins within WINDOW is whole here; one behind it is whole in the next window.
        at = window.find(MAGIC, MAGIC_AT, WINDOW + MAGIC_AT + len(MAGIC) - 1)
        while at >= 0:
            start = at - MAGIC_AT
            found = _parsed(window[start : start + BLOCK])
            if found is not None:
                yield found[0], base + start + BLOCK, found[1]
            at = window.find(MAGIC, at + 1, WINDOW + MAGIC_AT + len(MAGIC) - 1)
        if len(window) < WINDOW + BLOCK - 1:
            return
        base += WINDOW


def _parsed(header: bytes) -> tuple[str, int] | None:
    if len(header) != BLOCK:
        return None
    try:
        said = int(header[SUM_AT:SUM_END].strip(b" \0") or b"-", 8)
        size = int(header[124:136].strip(b" \0") or b"-", 8)
        name = header[:100].rstrip(b"\0").decode()
    except ValueError:
        return None
    if said != sum(header[:SUM_AT]) + sum(header[SUM_END:]) + 8 * ord(" "):
        return None
    prefix = header[345:500].rstrip(b"\0")
    return (f"{prefix.decode(errors='replace')}/{name}" if prefix else name), size
