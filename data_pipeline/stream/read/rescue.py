"""Members of a damaged tar that lie elsewhere than the index says: bytes were cut out or put in before them.

One pass over the tar, a window at a time, finds every header by its magic and checksum, at any offset. A member that still
has its hash is delivered from where it lies now, so that damage costs the samples that it hit and no others.
"""

from collections.abc import Callable, Iterator

from data_pipeline.stream.read.members import BLOCK, Bytes, Place

MAGIC = b"ustar"
MAGIC_AT = 257
SUM_AT, SUM_END = 148, 156
"""The checksum of a header, which counts as blanks in its own sum."""
WINDOW = 8 << 20

Read = Callable[[int, int], Bytes]
"""Bytes start ... end - 1 of a tar; fewer where it ends."""


def headers(read: Read) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the data, size) of every whole header, wherever it begins."""
    base = 0
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


class Found:
    """Where the members of a tar really are."""

    def __init__(self, read: Read):
        self.places: dict[str, list[tuple[int, int]]] = {}
        for name, offset, size in headers(read):
            folder, slash, base = name.rpartition("/")
            self.places.setdefault(f"{folder}{slash}{base.split('.', 1)[0]}", []).append((offset, size))

    def place(self, place: Place) -> Place | None:
        """The sample with its members' real offsets: those of its key, of the indexed sizes, in the indexed order.

        None where they are not all there, or where the index says.
        """
        there = list(self.places.get(place.key, ()))
        members = []
        for _, size, hashed in place.members:
            match = next((k for k, found in enumerate(there) if found[1] == size), None)
            if match is None:
                return None
            members.append((there[match][0], size, hashed))
            del there[match]
        moved = tuple(members)
        return place._replace(members=moved) if moved != place.members else None
