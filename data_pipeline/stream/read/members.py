"""What a sample's byte ranges are, and whether bytes are theirs."""

from dataclasses import dataclass
from functools import cached_property

import xxhash

from data_pipeline.sample import Conversation, parse_body

BLOCK = 512
Bytes = bytes | memoryview


class BadSample(ValueError):
    """A sample whose *bytes* are wrong (hash, JSON, picture): the same on every rank and every time."""

    def __init__(self, shard: str, key: str, start: int, end: int, reason: str):
        super().__init__(f"sample {key} of {shard} (bytes {start}-{end}): {reason}")
        self.shard, self.key, self.start, self.end, self.reason = shard, key, start, end, reason


@dataclass(frozen=True)
class Place:
    """Where a sample lies in its tar: offset, size, xxh3-64 of each member, pictures first, its JSON last.

    `headers` is the hash of the members' 512-byte headers, joined; 0 where it is not known.
    """

    tar: str
    key: str
    members: tuple[tuple[int, int, int], ...]
    headers: int

    @property
    def start(self) -> int:
        """The first byte, of the first member's header."""
        return min(offset for offset, _, _ in self.members) - BLOCK

    @property
    def end(self) -> int:
        return max(offset + size for offset, size, _ in self.members)

    def bad(self, reason: str, member: int | None = None) -> BadSample:
        """The sample's own error, with the range of a member or of all of it."""
        if member is None:
            return BadSample(self.tar, self.key, self.start, self.end, reason)
        offset, size, _ = self.members[member]
        return BadSample(self.tar, self.key, offset, offset + size, reason)


@dataclass(frozen=True)
class StoredSample:
    """What a shard holds of one sample: encoded pictures, and the JSON member's bytes."""

    place: Place
    images: list[Bytes]
    body: Bytes

    @cached_property
    def conversation(self) -> Conversation:
        """The text side.

        Raises:
            BadSample: the JSON is none.
        """
        try:
            return parse_body(bytes(self.body))
        except (ValueError, KeyError, TypeError) as error:
            raise self.place.bad(f"JSON: {error}", len(self.place.members) - 1) from None


def cut(place: Place, data: Bytes, start: int, check: bool) -> StoredSample | BadSample:
    """The sample out of `data`, which begins at byte `start` of its tar and may end too early.

    With `check` every member has its hash, and the headers before them theirs.
    """
    found: list[Bytes] = []
    digest = xxhash.xxh3_64_intdigest
    headers = xxhash.xxh3_64() if check and place.headers else None
    for number, (offset, size, hashed) in enumerate(place.members):
        at = offset - start
        member = data[at : at + size]
        if len(member) != size:
            return place.bad("the tar ends before it", number)
        if check and digest(member) != hashed:
            return place.bad("the bytes do not have their hash", number)
        if headers is not None:
            headers.update(data[at - BLOCK : at])
        found.append(member)
    if headers is not None and headers.intdigest() != place.headers:
        return place.bad("its tar headers are not those of the index")
    return StoredSample(place, found[:-1], found[-1])
