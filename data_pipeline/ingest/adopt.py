"""Tars that somebody else made, indexed where they are: a dataset without a copy of a byte.

Each tar is read once. Members are grouped by key as the webdataset library does; a sample has pictures and a text: KEY.txt,
KEY.caption, or KEY.json of our own shape or with a `caption` or `text`. What has none is counted with its reason. Where a
tar is damaged, what stands before and behind the damage is indexed, and the damage is named.
"""

import hashlib
import mmap
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import xxhash
from tqdm import tqdm

from configs.errors import UserError
from configs.mounts import is_network
from data_pipeline.ingest.header import PictureError, read_header
from data_pipeline.ingest.sources.rows import BadRow, parse_object
from data_pipeline.ingest.sources.tar_members import PACKED, Member
from data_pipeline.ingest.sources.tars import Group, pictures_of
from data_pipeline.ingest.tar_groups import Lost, groups
from data_pipeline.manifest import NAME, Generation, Manifest, write_manifest
from data_pipeline.sample import Reject
from data_pipeline.shard import BLOCK, INDEX_SCHEMA, OUTCOME_SCHEMA, index_bytes, table_bytes
from data_pipeline.shard_table import ShardEntry, ShardTable
from data_pipeline.storage import put

SCHEMA = pa.schema([*INDEX_SCHEMA, ("text_from", pa.string())])
"""`text_from`: how the text member is read: empty for our own JSON, `txt`, or `json:FIELD`."""
FIELDS = ("caption", "text")
MOST_TEXT = 2**20
MOST_PIXELS = 178_956_970
"""Pillow's own limit against pictures that are bombs."""


@dataclass
class Indexed:
    """What one tar came to."""

    entry: ShardEntry
    pictures: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)


def adopt(tars: Sequence[Path], out: Path, *, progress: bool = True) -> Manifest:
    """Index local tars into the dataset folder `out`: their own folder, or another one, which then links to them.

    Raises:
        UserError: there is no tar, two have the same name, one is compressed, or `out` holds a dataset.
    """
    names = [path.stem for path in tars]
    if not tars:
        raise UserError("no tar is there: give tars, or a folder that holds some")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"two tars are named {twice}.tar: index them into two datasets")
    if (out / NAME).exists():
        raise UserError(
            f"{out} holds a dataset already: remove its {NAME} to index the tars anew, or give another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    for path in tars:
        link = out / path.name
        if not link.exists():
            link.symlink_to(path.resolve())
    total = sum(path.stat().st_size for path in tars)
    made = []
    with tqdm(total=total, unit="B", unit_scale=True, desc="index", disable=not progress, file=sys.stderr) as bar:
        for path, found in zip(tars, _each([out / path.name for path in tars]), strict=True):
            made.append(found)
            bar.update(path.stat().st_size)
    kept = sum(found.entry.samples for found in made)
    rejected = sum((found.rejected for found in made), Counter[str]())
    totals = {
        "rows": kept + rejected.total(),
        "kept": kept,
        "rejected": dict(sorted(rejected.items())),
        "pictures_per_sample": dict(sorted(sum((found.pictures for found in made), Counter[str]()).items())),
        "bytes": sum(found.entry.bytes for found in made),
    }
    fingerprint = hashlib.sha256("".join(found.entry.sha256["tar"] for found in made).encode()).hexdigest()
    generation = Generation("adopt", len(made), totals["rows"], fingerprint)
    shards = ShardTable([found.entry for found in made])
    manifest = Manifest(out.name, fingerprint, {"adopted": True}, shards, totals, generations=(generation,))
    write_manifest(str(out), manifest)
    return manifest


def _each(tars: Sequence[Path]) -> Any:
    processes = min(len(os.sched_getaffinity(0)), len(tars))
    if processes < 2:
        yield from map(index_tar, tars)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(index_tar, tars)


def index_tar(path: Path) -> Indexed:
    """Read a tar once; write its index and outcomes beside it.

    Raises:
        UserError: it is compressed.
    """
    rows: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    pictures, rejected = Counter[str](), Counter[str]()

    def reject(why: Reject) -> None:
        rejected[f"{why.stage}/{why.reason}"] += 1
        said = {"outcome": "rejected", "stage": why.stage, "reason": why.reason, "detail": why.detail}
        outcomes.append({"position": len(outcomes), **said})

    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        kind = next((name for magic, name in PACKED.items() if stream.read(5).startswith(magic)), None)
        if kind is not None:
            raise UserError(f"{path} is compressed ({kind}): unpack it to a plain tar first")
        stream.seek(0)
        view = memoryview(_bytes_of(stream, size))
        sha = hashlib.sha256(view).hexdigest()
        for found in groups(stream, view):
            if isinstance(found, Lost):
                lost = f"; {', '.join(found.keys)} is lost" if found.keys else ""
                reject(Reject("source", "tar_damaged", f"{path.name} at byte {found.offset}: {found.why}{lost}"))
                continue
            row = _row(found, view)
            if isinstance(row, Reject):
                reject(row)
                continue
            rows.append(row)
            pictures[str(len(row["width"]))] += 1
            outcomes.append({"position": len(outcomes), "outcome": "kept"})
    index = index_bytes(pa.Table.from_pylist(rows, SCHEMA))
    told = table_bytes(pa.Table.from_pylist(outcomes, OUTCOME_SCHEMA))
    base = str(path)[: -len(".tar")]
    put(f"{base}.index.parquet", index)
    put(f"{base}.outcomes.parquet", told)
    hashes = {"tar": sha, "index": hashlib.sha256(index).hexdigest(), "outcomes": hashlib.sha256(told).hexdigest()}
    return Indexed(ShardEntry(path.stem, len(rows), len(outcomes), size, hashes), pictures, rejected)


def _bytes_of(stream: BinaryIO, size: int) -> "bytes | mmap.mmap":
    """A tar, mapped; on a network's file system read whole, so that memory for one tar a process is needed."""
    if size and not is_network(str(stream.name)):
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    found = stream.read()
    stream.seek(0)
    return found


def _row(group: Group, view: memoryview) -> dict[str, Any] | Reject:
    """The index row of a group, or why it is none."""
    if group.twice:
        return Reject("source", "duplicate_member", f"two members end in .{group.twice}")
    found = _text(group, view)
    if isinstance(found, Reject):
        return found
    text, text_from, characters = found
    images = list(pictures_of(group))
    if not images and group.others:
        return Reject("source", "no_image", f"{group.others} members of other kinds")
    sizes = []
    for member in images:
        try:
            sizes.append(picture_size(view[member.offset : member.offset + member.size]))
        except PictureError as error:
            return Reject("decode", error.reason, str(error))
    headers = b"".join(view[m.offset - BLOCK : m.offset] for m in (*images, text))
    return {
        "key": group.key,
        "json_offset": text.offset,
        "json_size": text.size,
        "json_hash": _hash(view, text),
        "image_offset": [member.offset for member in images],
        "image_size": [member.size for member in images],
        "image_hash": [_hash(view, member) for member in images],
        "image_format": [member.name.rsplit(".", 1)[-1].lower() for member in images],
        "width": [width for width, _ in sizes],
        "height": [height for _, height in sizes],
        "text_chars": characters,
        "header_hash": xxhash.xxh3_64_intdigest(headers),
        "text_from": text_from,
    }


def _hash(view: memoryview, member: Member) -> int:
    return xxhash.xxh3_64_intdigest(view[member.offset : member.offset + member.size])


def _text(group: Group, view: memoryview) -> tuple[Member, str, int] | Reject:
    """(the member that holds the text, how it is read, characters)."""
    for ending in ("txt", "caption"):
        if ending in group.members:
            member = group.members[ending]
            return (
                member,
                "txt",
                len(bytes(view[member.offset : member.offset + member.size]).decode("utf-8", "replace")),
            )
    if "json" not in group.members:
        return Reject("source", "no_text", "no member ends in .txt, .caption or .json")
    member = group.members["json"]
    if member.size > MOST_TEXT:
        return Reject("source", "text_too_large", f"a text of {member.size} bytes")
    try:
        row = parse_object(bytes(view[member.offset : member.offset + member.size]))
    except (BadRow, RecursionError) as error:
        return Reject("source", "bad_json", str(error)[:200])
    if "provenance" in row and ("text" in row) != ("messages" in row):
        return member, "", len(str(row.get("text") or row.get("messages")))
    name = next((name for name in FIELDS if isinstance(row.get(name), str)), None)
    if name is None:
        return Reject("source", "no_text", f"its json has none of {', '.join(FIELDS)}")
    return member, f"json:{name}", len(row[name])


def picture_size(data: memoryview) -> tuple[int, int]:
    """(width, height) from the first bytes; JPEG and PNG without a decoder, which is what speed hangs on.

    Raises:
        PictureError: it is no picture.
    """
    if bytes(data[:8]) == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if bytes(data[:2]) == b"\xff\xd8":
        at = 2
        while at + 9 < len(data) and data[at] == 0xFF:
            marker = data[at + 1]
            if marker == _APP1 and bytes(data[at + 4 : at + 8]) == b"Exif":
                break  # it may be turned
            if marker in _FRAMES:
                return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    header = read_header(bytes(data), MOST_PIXELS)
    return header.width, header.height


_APP1 = 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
