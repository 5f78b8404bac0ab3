"""COCO captions: one JSON with `images` and `annotations` -> records. The two are joined on disk, not in memory."""

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import RunError, UserError
from configs.ingest import CocoSource
from data_pipeline.ingest.record import ImageRef, Record
from data_pipeline.ingest.sources.found import Found
from data_pipeline.ingest.sources.json_stream import BadJson, JsonStream
from data_pipeline.ingest.sources.lines import opened
from data_pipeline.ingest.sources.record_images import Root, clean
from data_pipeline.sample import Reject

TABLES = {"images": ("id", "file_name"), "annotations": ("image_id", "caption")}
"""Lists of the file, and what of an item is kept: the picture that it is of, and what it says of it."""

_EACH = """select number, id, picture, said,
             (select said from images i where i.picture = a.picture order by i.number limit 1)
           from annotations a order by number"""
_BY_PICTURE = """select i.number, a.id, i.picture, a.said, i.said from images i
                 left join annotations a on a.picture = i.picture order by i.number, a.number"""
MOST_CAPTIONS = 1000
"""Captions of one picture that are joined."""


def coco_records(source: CocoSource, found: Found, root: Root) -> Iterator[Record]:
    """Records in the order of the annotations (`each`), or of the images.

    Raises:
        UserError: the file is not such a JSON.
    """
    with tempfile.TemporaryDirectory(prefix="looksay-coco-") as folder:
        store = sqlite3.connect(Path(folder) / "joined.sqlite", isolation_level=None)
        try:
            _fill(found, store)
            if source.captions == "each":
                for number, own, picture, caption, name in store.execute(_EACH):
                    if picture is None or caption is None:
                        problem = Reject("source", "bad_json", f"annotation {number} has no image_id or no caption")
                        yield Record(provenance={"id": own}, problem=problem)
                    else:
                        yield _record(root, picture, name, [own], [caption])
            else:
                yield from _by_picture(source, store, root)
        except sqlite3.OperationalError as error:
            raise RunError(f"{found.shown} cannot be joined in {folder} ({error}): free some space there") from None
        finally:
            store.close()


def _by_picture(source: CocoSource, store: sqlite3.Connection, root: Root) -> Iterator[Record]:
    """A record per picture, with its first caption, or all of them."""
    number = -1
    row: tuple[str | None, str | None, list[Any], list[Any]] | None = None
    for this, caption_id, picture, caption, name in store.execute(_BY_PICTURE):
        if this != number or row is None:
            if row is not None:
                yield _record(root, *row)
            number, row = this, (picture, name, [], [])
        if caption is not None and len(row[3]) < (MOST_CAPTIONS if source.captions == "all" else 1):
            row[2].append(caption_id)
            row[3].append(caption)
    if row is not None:
        yield _record(root, *row)


def _record(root: Root, picture: str | None, name: str | None, ids: list[Any], captions: list[Any]) -> Record:
    picture = "null" if picture is None else picture
    provenance = {"image_id": json.loads(picture), "id": ids[0] if len(ids) == 1 else ids, "file": name}
    if name is None:
        return Record(provenance=provenance, problem=Reject("source", "no_image", f"image {picture} has no file_name"))
    ref = root.refer(name)
    if not captions:
        return Record(provenance=provenance, problem=Reject("source", "no_caption", "no annotation is of this image"))
    if isinstance(ref, ImageRef):
        return Record((ref,), text="\n".join(captions), provenance=provenance)
    return Record(provenance=provenance, problem=ref)


def _fill(found: Found, store: sqlite3.Connection) -> None:
    seen: set[str] = set()
    store.executescript("pragma journal_mode=off; pragma synchronous=off; pragma cache_size=-32768;")
    for name in TABLES:
        store.execute(f"create table {name} (number integer primary key, id, picture text, said text)")
    try:
        with opened(found) as stream:
            reader = JsonStream(stream)
            for name in reader.names():
                if name in TABLES and name not in seen and reader.peek() == "[":
                    seen.add(name)
                    rows = (_row(name, number, item) for number, item in enumerate(reader.items()))
                    store.execute("begin")
                    store.executemany(f"insert into {name} values (?, ?, ?, ?)", rows)
                    store.execute("commit")
                else:
                    reader.skip()
            reader.end()
    except BadJson as error:
        raise UserError(f"{found.shown} is not whole JSON ({error}): write it again") from None
    if seen != set(TABLES):
        lacks = " and ".join(sorted(set(TABLES) - seen))
        raise UserError(f"{found.shown} is not COCO captions, for it has no list of {lacks}: give another file")
    for name, (picture, said) in TABLES.items():
        if not store.execute(f"select 1 from {name} where said is not null and picture is not null limit 1").fetchone():
            raise UserError(f"no item of {name} in {found.shown} has {picture} and {said}: give a file of captions")
    store.execute("create index by_image on images (picture)")
    store.execute("create index by_caption on annotations (picture)")


def _row(name: str, number: int, item: Any) -> tuple[int, Any, str | None, str | None]:
    """An item as it is stored; None for what it lacks."""
    if not isinstance(item, dict):
        return number, None, None, None
    picture, said = (item.get(key) for key in TABLES[name])
    known = isinstance(picture, int | str)
    text = clean(said) if isinstance(said, str) else None
    return number, _id(item.get("id")), json.dumps(_id(picture)) if known else None, text


def _id(value: Any) -> int | str | None:
    """An id as the store can hold it."""
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    return None if value is None else clean(str(value))
