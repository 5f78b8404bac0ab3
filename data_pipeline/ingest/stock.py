"""Taking stock of a source: every input with its rows and identity, and what changed since an earlier build.

`inputs.parquet` of a dataset says which rows of which input have which positions. An input whose size and stamp are
as they were is believed; every other one is read again.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from configs.ingest import Source, StorageConfig
from data_pipeline.ingest.record import Record
from data_pipeline.ingest.segments import Segment
from data_pipeline.ingest.sources.inputs import IN_PLACE, Found, Input, list_input
from data_pipeline.ingest.sources.spool import SPOOL_GROUP, read_spool, spool_rows, write_spool
from data_pipeline.ingest.tasks import Runner
from data_pipeline.shard import read_table, table_bytes
from data_pipeline.storage import configure, exists, join, put, read_bytes

NAME = "inputs.parquet"
LISTING = "listing.parquet"
"""Kept with the dataset of a folder source: the pictures as they were listed, for a retry or an extension."""

SCHEMA = pa.schema(
    [
        ("generation", pa.int32()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("stamp", pa.string()),
        ("rows", pa.int64()),
        ("identity", pa.string()),
        ("spool", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("first", pa.int64()),
    ]
)


def take_stock(
    source: Source,
    found: Sequence[Found],
    folder: str,
    storage: StorageConfig,
    runner: Runner,
    known: Sequence[Input],
    advance: Callable[[int], Any],
    *,
    counted: bool = False,
) -> list[Input]:
    """All inputs of a source, in order; rows that cannot be read in place are spooled into `folder`.

    Args:
        found: what `find_inputs` found.
        known: inputs of an earlier look; those that have not changed since are taken as they are.
        advance: called with 1 for every input.
        counted: rows are only to be counted: an input that is known needs no spool.
    """
    before = {(item.found.name, item.found.path): item for item in known}
    out: list[Input | None] = [None] * len(found)
    jobs = []
    for number, one in enumerate(found):
        old = before.get((one.name, one.path))
        if old is not None and one.stamp and old.found == one and (counted or _readable(old)):
            out[number] = old
            advance(1)
        else:
            jobs.append((number, (source, one, join(folder, f"{number:06d}.parquet"), storage)))
    for number, item in runner.run(_list, jobs):
        out[number] = item
        advance(1)
    return [item for item in out if item is not None]


def _readable(item: Input) -> bool:
    """Whether the rows of an input can be read: in place, or because they are spooled."""
    return item.found.kind in IN_PLACE if item.spool is None else exists(item.spool)


def _list(source: Source, found: Found, spool: str, storage: StorageConfig) -> Input:
    configure(storage)
    return list_input(source, found, spool)


def write_segments(path: str, segments: Sequence[tuple[int, Segment]]) -> None:
    """Segments with the generation that brought each."""
    rows = []
    for generation, segment in segments:
        found = asdict(segment.item.found)
        item = {"rows": segment.item.rows, "identity": segment.item.identity, "spool": segment.item.spool}
        place = {"start": segment.start, "stop": segment.stop, "first": segment.first}
        rows.append({"generation": generation, **found, **item, **place})
    put(path, table_bytes(pa.Table.from_pylist(rows, SCHEMA)))


def read_segments(path: str) -> list[tuple[int, Segment]]:
    """What `write_segments` wrote; empty where there is no such file."""
    if not exists(path):
        return []
    out = []
    for row in read_table(read_bytes(path)).to_pylist():
        found = Found(**{name: row[name] for name in Found.__dataclass_fields__})
        item = Input(found, row["rows"], row["identity"], row["spool"])
        out.append((row["generation"], Segment(item, row["start"], row["stop"], row["first"])))
    return out


def latest(segments: Sequence[tuple[int, Segment]]) -> dict[str, Input]:
    """Every input by name, as the last generation that took rows of it saw it."""
    return {segment.item.found.name: segment.item for _, segment in segments}


def changes(old: dict[str, Input], new: Sequence[Input]) -> list[str]:
    """What is different about the inputs, a phrase each."""
    out = []
    now = {item.found.name: item for item in new}
    for name, item in old.items():
        if name not in now:
            out.append(f"{_called(name)} is gone")
        elif item.rows != now[name].rows:
            out.append(f"{_called(name)} has {now[name].rows} rows, not {item.rows}")
        elif item.identity != now[name].identity:
            out.append(f"{_called(name)} has other content")
    return out + [f"{_called(name)} is new" for name in now if name not in old]


def _called(name: str) -> str:
    return "the source" if name in ("", ".") else f"input {name}"


def fingerprint(identity: str, inputs: Sequence[Input]) -> str:
    """Identity of a build: what it does (not where, nor on how many workers) and what goes in."""
    sha = hashlib.sha256(identity.encode())
    for item in inputs:
        sha.update(f"{item.found.name}\0{item.rows}\0{item.identity}\0".encode())
    return sha.hexdigest()


def joined_listing(old: str, new: str, out: str) -> int:
    """A listing of all pictures of `old` in their order, and behind them those of `new` that are not in it.

    Returns the number of rows. Memory: eight bytes for each row of `old`.
    """
    marks = np.fromiter((_mark(record) for record in _records(old)), np.uint64)
    marks.sort()

    def both() -> Iterator[Record]:
        yield from _records(old)
        for record in _records(new):
            mark = np.uint64(_mark(record))
            at = np.searchsorted(marks, mark)
            if at == len(marks) or marks[at] != mark:
                yield record

    return write_spool(out, both(), SPOOL_GROUP)


def _records(path: str) -> Iterator[Record]:
    total = spool_rows(path)
    for start in range(0, total, SPOOL_GROUP):
        yield from read_spool(path, start, min(total, start + SPOOL_GROUP))


def _mark(record: Record) -> int:
    """A picture of a folder, or a folder of frames, is known by its path, whichever frames were chosen."""
    return xxhash.xxh3_64_intdigest(record.provenance["file"].encode())


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """Where rows are spooled when nothing may be written beside the dataset."""
    return tempfile.TemporaryDirectory(prefix="looksay-stock-")
