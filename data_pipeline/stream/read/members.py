"""What a sample's byte ranges are, and whether bytes are theirs."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from xxhash import xxh3_64_intdigest as digest

from data_pipeline.sample import Conversation, parse_body

BLOCK = 512
Bytes = bytes | memoryview


class BadSample(ValueError):
    """A sample whose *bytes* are wrong (hash, JSON, picture): the same on every rank and every time.

    `in_place`: its tar headers are where the index says, so that nothing moved and it is no use to look elsewhere.
    """

    def __init__(self, shard: str, key: str, start: int, end: int, reason: str, in_place: bool = False):
        super().__init__(f"sample {key} of {shard} (bytes {start}-{end}): {reason}")
        self.shard, self.key, self.start, self.end, self.reason = shard, key, start, end, reason
        self.in_place = in_place


class Place(NamedTuple):
    """Where a sample lies in its tar: offset, size, xxh3-64 of each member, pictures first, its JSON last.

    `headers` is the hash of the members' 512-byte headers, joined; 0 where it is not known.
    """

    tar: str
    key: str
    members: tuple[tuple[int, int, int], ...]
    headers: int
    text_from: str = ""
    """How the text is read: empty for our own JSON, `txt`, or `json:FIELD` (of adopted tars)."""

    @property
    def start(self) -> int:
        """The first byte, of the first member's header."""
        return min(self.members)[0] - BLOCK

    @property
    def end(self) -> int:
        last = max(self.members)
        return last[0] + last[1]

    def bad(self, reason: str, member: int | None = None, in_place: bool = False) -> BadSample:
        """The sample's own error, with the range of a member or of all of it."""
        if member is None:
            return BadSample(self.tar, self.key, self.start, self.end, reason, in_place)
        offset, size, _ = self.members[member]
        return BadSample(self.tar, self.key, offset, offset + size, reason, in_place)


@dataclass
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
            return _parsed(bytes(self.body), self.place.text_from)
        except (ValueError, KeyError, TypeError) as error:
            raise self.place.bad(f"JSON: {error}", len(self.place.members) - 1) from None


def _parsed(body: bytes, text_from: str) -> Conversation:
    if text_from == "":
        return parse_body(body)
    if text_from == "txt":
        return Conversation(body.decode("utf-8-sig", "replace").strip(), None, {})
    text = json.loads(body)[text_from.removeprefix("json:")]
    if not isinstance(text, str):
        raise ValueError(f"{text_from} is no text")
    return Conversation(text, None, {})


def cut(place: Place, data: Bytes, start: int, check: bool) -> StoredSample | BadSample:
    """The sample out of `data`, which begins at byte `start` of its tar and may end too early.

    With `check` every member has its hash, and the headers before them theirs.
    """
    found: list[Bytes] = []
    headers: list[Bytes] = []
    for number, (offset, size, hashed) in enumerate(place.members):
        at = offset - start
        member = data[at : at + size]
        if len(member) != size:
            return place.bad("the tar ends before it", number, _in_place(place, data, start))
        if check:
            if digest(member) != hashed:
                return place.bad("the bytes do not have their hash", number, _in_place(place, data, start))
            headers.append(data[at - BLOCK : at])
        found.append(member)
    if check and place.headers and digest(b"".join(headers)) != place.headers:
        return place.bad("its tar headers are not those of the index", in_place=True)
    return StoredSample(place, found[:-1], found[-1])


def _in_place(place: Place, data: Bytes, start: int) -> bool:
    headers = b"".join([data[offset - start - BLOCK : offset - start] for offset, _, _ in place.members])
    return bool(place.headers) and digest(headers) == place.headers
