"""Members of a tar by key, in order. Where it is damaged, reading goes on at the next whole header, and the damage is named.

What stands beside damage is not trusted: of the group before it a member may be missing or cut, of the group behind it the
first members may be gone. The one behind counts if it has the endings of the last whole one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from data_pipeline.ingest.sources.tar_members import Damaged, Member, TarReader
from data_pipeline.ingest.sources.tars import Group, add_member, split_name
from data_pipeline.tar_scan import BLOCK, headers

MOST_DAMAGES = 1000
"""Of one tar. Each costs a search, and so many are no accident."""


@dataclass(frozen=True)
class Lost:
    """Damage at a byte of a tar: why it could not be read there, and the keys that it cost, as far as they are known."""

    offset: int
    why: str
    keys: tuple[str, ...] = ()


def groups(stream: BinaryIO, view: memoryview) -> Iterator[Group | Lost]:
    """Each group of members that is whole, each damage. `view` has the bytes of the whole tar that `stream` reads."""
    first: int | None = 0
    damages = 0
    shape: frozenset[str] | None = None
    while first is not None:
        stream.seek(first)
        reader = TarReader(stream, len(view), seekable=True)
        reader.at = first
        begun, suspect = _Begun(), first > 0
        damage: Damaged | None = None
        try:
            for member in reader.members(lambda name, size: False):
                done = begun.add(member)
                if done is not None:
                    yield _judged(done, first, shape) if suspect else done
                    shape = shape if suspect else _endings(done)
                    suspect = False
        except Damaged as error:
            damage = error
        last, begun.group = begun.group, None
        if damage is None:
            if last is not None:
                yield _judged(last, first, shape) if suspect else last
            return
        if last is not None and damage.offset == len(view) and not suspect and _endings(last) == shape:
            yield last  # the tar only lacks its end
            last = None
        damages += 1
        more = "; there is more damage, and nothing behind it is read" if damages == MOST_DAMAGES else ""
        yield Lost(damage.offset, f"{damage}{more}", (last.key,) if last is not None else ())
        if more:
            return
        after = begun.data_at if begun.data_at is not None else damage.offset + 1
        first = _next(view, max(after, first + 1))


class _Begun:
    """The group that is being read, and where the data of its last member begins."""

    def __init__(self) -> None:
        self.group: Group | None = None
        self.data_at: int | None = None

    def add(self, member: Member) -> Group | None:
        """The group before, if the member begins another one."""
        self.data_at = member.offset
        named = split_name(member.name)
        if named is None:
            return None
        done = None
        if self.group is None or self.group.key != named[0]:
            done, self.group = self.group, Group(named[0])
        add_member(self.group, named[1], member)
        return done


def _judged(group: Group, first: int, shape: frozenset[str] | None) -> Group | Lost:
    """The first group behind damage, if nothing of it seems to be missing."""
    return group if _endings(group) == shape else Lost(first, "members may be missing behind damage", (group.key,))


def _endings(group: Group) -> frozenset[str]:
    return frozenset((*group.members, f"+{group.others}", group.twice))


def _next(view: memoryview, first: int) -> int | None:
    """Where the next whole header begins whose member is whole too."""
    for _, offset, size in headers(lambda start, end: view[start:end], first):
        if offset + size <= len(view):
            return offset - BLOCK
    return None
