"""WebDataset tars that somebody else made -> records: the pictures' byte ranges, and the texts themselves.

Members are grouped as the webdataset library does (its `base_plus_ext` and `group_by_keys`): by the name up to the first
dot of its last part, in runs. The library itself is not used: its readers take a damaged header for the end, its
decoders unpickle, its opener runs `pipe:` commands, and importing it imports torch. Only members of known endings are
read; keys are text for provenance, never paths.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from configs.errors import UserError
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.ingest.sources.columns import MESSAGES, TEXT
from data_pipeline.ingest.sources.found import Found
from data_pipeline.ingest.sources.record_images import clean
from data_pipeline.ingest.sources.rows import (
    BadRow,
    kept_of,
    messages_of,
    parse_object,
    problem_of,
    singles,
    talk,
    text_of,
)
from data_pipeline.ingest.sources.tar_members import PACKED, Damaged, Member, TarReader
from data_pipeline.sample import Reject
from data_pipeline.storage import is_remote, open_stream, read_range

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm")
TEXTS = ("txt", "caption", "json")
MOST_TEXT = 2**20
"""Bytes of a member of text."""

_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
_NUMBERED = re.compile(r"([0-9]{1,4})\.([a-z]+)")


@dataclass
class Group:
    """Members of one key: those of known endings by ending, and how many others there are."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    others: int = 0
    twice: str = ""


def split_name(name: str) -> tuple[str, str] | None:
    """Key and ending (in small letters) of a member; None for one that belongs to no sample."""
    if _META.match(name):
        return None
    match = _NAME.match(name)
    return None if match is None else (match[1], match[2].lower())


def tar_records(found: Found, text_field: str | None) -> Iterator[Record]:
    """One record per key. Where the tar cannot be read on, the last record says where and why.

    The group that was being read then is not trusted: a member of it may be missing.

    Raises:
        UserError: the tar is compressed.
    """
    packed = next((name for magic, name in PACKED.items() if read_range(found.path, 0, 5).startswith(magic)), None)
    if packed is not None:
        raise UserError(f"{found.shown} is compressed ({packed}): unpack it to a plain tar first")
    group: Group | None = None
    with open_stream(found.path) as stream:
        reader = TarReader(stream, found.size, seekable=not is_remote(found.path))
        try:
            for member in reader.members(_is_text):
                named = split_name(member.name)
                if named is None:
                    continue
                if group is None or group.key != named[0]:
                    if group is not None:
                        yield _record(found, group, text_field)
                    group = Group(named[0])
                add_member(group, named[1], member)
        except Damaged as error:
            place = {} if group is None else {"key": clean(group.key)}
            detail = f"{found.name} at byte {error.offset}: {error}"
            yield Record(provenance=place, problem=Reject("source", "tar_damaged", detail))
            return
    if group is not None:
        yield _record(found, group, text_field)


def _is_text(name: str, size: int) -> bool:
    named = split_name(name)
    return named is not None and named[1] in TEXTS and size <= MOST_TEXT


def add_member(group: Group, ending: str, member: Member) -> None:
    """Put a member into its group, if it is of a known ending."""
    numbered = _NUMBERED.fullmatch(ending)
    if (numbered[2] if numbered else ending) not in (PICTURES if numbered else (*PICTURES, *TEXTS)):
        group.others += 1
    elif ending in group.members:
        group.twice = group.twice or ending
    else:
        group.members[ending] = member


def _record(found: Found, group: Group, text_field: str | None) -> Record:
    record = Record(provenance={"key": clean(group.key)})
    if group.twice:
        return replace(record, problem=Reject("source", "duplicate_member", f"two members end in .{group.twice}"))
    if not group.members:
        return replace(record, problem=Reject("source", "no_members", f"{group.others} members of other kinds"))
    large = next((m for ending, m in group.members.items() if ending in TEXTS and m.data is None), None)
    if large is not None:
        return replace(record, problem=Reject("source", "text_too_large", f"a text of {large.size} bytes"))
    images = tuple(ImageRef(found.path, offset=m.offset, size=m.size) for m in pictures_of(group))
    try:
        made = _said(record, images, group, text_field)
    except (BadRow, RecursionError) as error:
        return replace(record, problem=problem_of(error, "bad_json"))
    # A picture of an unknown kind is not the same as none: its caption alone is no sample.
    if not images and group.others and made.messages is None and made.problem is None:
        return replace(record, problem=Reject("source", "no_image", f"{group.others} members of other kinds"))
    return made


def pictures_of(group: Group) -> Iterator[Member]:
    """The picture (KEY.jpg; of several kinds the first of PICTURES), then the numbered ones (KEY.0.jpg) by number."""
    plain = next((group.members[ending] for ending in PICTURES if ending in group.members), None)
    if plain is not None:
        yield plain
    numbered = [(int(match[1]), name) for name in group.members if (match := _NUMBERED.fullmatch(name))]
    yield from (group.members[name] for _, name in sorted(numbered))


def _said(record: Record, images: tuple[ImageRef, ...], group: Group, text_field: str | None) -> Record:
    """The record with the text that the members have."""
    row: dict[str, Any] = {}
    if "json" in group.members:
        row = parse_object(group.members["json"].data or b"")
        record = replace(record, provenance={**kept_of(row, None), **record.provenance}, columns=singles(row))
    talks = next((name for name in MESSAGES if name in row), None)
    if text_field is None and talks is not None:
        return talk(record, images, messages_of(row[talks]))
    if text_field is not None:
        if text_field not in row:
            return replace(record, problem=Reject("source", "no_text", f"the json has no {text_field}"))
        return replace(record, images=images, text=text_of(row[text_field]))
    for ending in ("txt", "caption"):
        if ending in group.members:
            text = (group.members[ending].data or b"").decode("utf-8-sig", "replace").strip()
            return replace(record, images=images, text=text)
    name = next((name for name in ("caption", *TEXT) if name in row), "")
    return replace(record, images=images, text=text_of(row.get(name)))
