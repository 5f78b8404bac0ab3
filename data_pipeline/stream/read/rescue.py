"""Members of a damaged tar that lie elsewhere than the index says: bytes were cut out or put in before them.

One pass over the tar finds every header by its magic and checksum, at any offset. A member that still has its hash is
delivered from where it lies now, so that damage costs the samples that it hit and no others.
"""

from collections.abc import Iterator

from data_pipeline.stream.read.members import BLOCK, Bytes, Place

MAGIC = b"ustar"
MAGIC_AT = 257
SUM_AT, SUM_END = 148, 156
"""The checksum of a header, which counts as blanks in its own sum."""


def headers(data: bytes | memoryview) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the data, size) of every whole header in `data`, wherever it begins."""
    view = bytes(data)
    at = view.find(MAGIC)
    while at >= 0:
        start = at - MAGIC_AT
        header = view[start : start + BLOCK] if start >= 0 else b""
        found = _parsed(header)
        if found is not None:
            yield found[0], start + BLOCK, found[1]
        at = view.find(MAGIC, at + 1)


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

    def __init__(self, data: bytes | memoryview):
        self.places: dict[str, list[tuple[int, int]]] = {}
        for name, offset, size in headers(data):
            self.places.setdefault(name.rsplit("/", 1)[-1].split(".", 1)[0], []).append((offset, size))

    def place(self, place: Place) -> Place | None:
        """The sample with its members' real offsets: those of its key, of the indexed sizes, in the indexed order."""
        there = [(offset, size) for offset, size in self.places.get(place.key.rsplit("/", 1)[-1], ())]
        members = []
        for _, size, hashed in place.members:
            match = next((k for k, found in enumerate(there) if found[1] == size), None)
            if match is None:
                return None
            members.append((there[match][0], size, hashed))
            there = there[match + 1 :]
        return place._replace(members=tuple(members))


def rescued(place: Place, found: Found, data: Bytes) -> Place | None:
    """A place whose members lie within `data`, the whole tar."""
    moved = found.place(place)
    return moved if moved is not None and moved.end <= len(data) else None
