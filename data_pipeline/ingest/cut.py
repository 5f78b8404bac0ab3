"""The ordered cut: committed units, in input order -> shards with equal counts.

A shard is the run of input rows up to its K-th kept one; rows rejected after the last kept one join the last shard.
Where shards begin and end follows from one number per unit, how many of its rows are kept, so each shard is made by
a task of its own, by copying bytes. Nothing here depends on how many workers made the units, or in which order.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.ingest import StorageConfig
from data_pipeline.ingest.dedup.drops import read_drops
from data_pipeline.ingest.statistics import shard_statistics
from data_pipeline.ingest.unit_file import read_unit, unit_path
from data_pipeline.sample import key_of
from data_pipeline.shard import INDEX_SCHEMA, OUTCOME_SCHEMA, index_bytes, table_bytes, tar_end
from data_pipeline.shard_table import ShardEntry
from data_pipeline.storage import configure, exists, join, put, put_file, read_bytes, read_range

ENDINGS = {"tar": "tar", "index": "index.parquet", "outcomes": "outcomes.parquet"}
COPY_BYTES = 8 * 2**20
"""Copied at a time."""


@dataclass(frozen=True)
class CutJob:
    """What all shards of a build share. `drops` is the folder of what dedup dropped, in files of `span` positions."""

    storage: StorageConfig
    work: str
    output: str
    drops: str | None
    span: int


@dataclass(frozen=True)
class Slice:
    """A shard's rows: from after kept sample `skip` of unit `first`, to kept sample `take` of unit `last`.

    `skip` 0 begins with the unit's first row; `take` -1 ends with its last one. Kept samples count from 1.
    """

    number: int
    first: int
    skip: int
    last: int
    take: int


def slices(kept: NDArray[np.int64], size: int, number: int = 0) -> Iterator[Slice]:
    """Shards of `size` kept samples over units that keep `kept` each; the first is numbered `number`."""
    until = np.cumsum(kept)
    total, count = int(until[-1]) if len(until) else 0, len(kept)
    shards = max(1, -(-total // size)) if count else 0
    first, skip = 0, 0
    for shard in range(shards):
        if shard == shards - 1:
            yield Slice(number + shard, first, skip, count - 1, -1)
            return
        end = (shard + 1) * size
        last = int(np.searchsorted(until, end))
        take = end - int(until[last - 1] if last else 0)
        yield Slice(number + shard, first, skip, last, take)
        first, skip = last, take


def read_outcomes(job: CutJob, number: int) -> pa.Table:
    """A unit's table with what dedup dropped turned into rejections that name what they duplicate."""
    table = read_unit(unit_path(job.work, number))
    if job.drops is None or not table.num_rows:
        return table
    positions = table["position"].to_numpy()
    drops = read_drops(job.drops, job.span, int(positions[0]), int(positions[-1]) + 1)
    if not drops.num_rows:
        return table
    at = np.searchsorted(positions, drops["position"].to_numpy())
    columns = {name: table[name].to_pylist() for name in ("stage", "reason", "detail")}
    for row, of, kind in zip(at, drops["duplicate_of"].to_pylist(), drops["kind"].to_pylist(), strict=True):
        columns["stage"][row], columns["reason"][row], columns["detail"][row] = "dedup", kind, f"of {key_of(of)}"
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table


def count_units(job: CutJob, numbers: range) -> tuple[list[int], dict[str, int]]:
    """Kept rows of each unit of a range, and rejected rows of all by reason, after dedup."""
    configure(job.storage)
    kept: list[int] = []
    rejected: dict[str, int] = {}
    for number in numbers:
        table = read_outcomes(job, number)
        bad = table.filter(pc.is_valid(table["stage"]))
        kept.append(table.num_rows - bad.num_rows)
        for stage, reason in zip(bad["stage"].to_pylist(), bad["reason"].to_pylist(), strict=True):
            name = f"{stage}/{reason}"
            rejected[name] = rejected.get(name, 0) + 1
    return kept, rejected


def write_shard(job: CutJob, part: Slice) -> tuple[ShardEntry, dict[str, Any]]:
    """Make one shard: tar, index, outcomes, and last a note in the work folder that all three are there."""
    configure(job.storage)
    name = f"{part.number:05d}"
    note = join(join(job.work, "shards"), f"{name}.json")
    if exists(note):
        said = json.loads(read_bytes(note))
        return ShardEntry(**said["entry"]), said["statistics"]
    tables = list(_tables(job, part))
    sha = hashlib.sha256()
    index_parts: list[pa.Table] = []
    size = 0

    def write(target: str) -> None:
        nonlocal size
        with open(target, "wb") as stream:
            for number, table in tables:
                good = table.filter(pc.is_null(table["stage"]))
                index_parts.append(_moved(good, size))
                size += _copy(unit_path(job.work, number), good, stream, sha)
            end = tar_end(size)
            stream.write(end)
            sha.update(end)
            size += len(end)

    path = join(job.output, f"{name}.tar")
    put_file(path, write)
    index = pa.concat_tables(index_parts).combine_chunks()
    outcomes = pa.concat_tables([_outcomes(table) for _, table in tables]).combine_chunks()
    hashes = {"tar": sha.hexdigest()}
    for kind, table in (("index", index), ("outcomes", outcomes)):
        data = index_bytes(table) if kind == "index" else table_bytes(table)
        put(join(job.output, f"{name}.{ENDINGS[kind]}"), data)
        hashes[kind] = hashlib.sha256(data).hexdigest()
    entry = ShardEntry(name, index.num_rows, outcomes.num_rows, size, hashes)
    statistics = shard_statistics(index, outcomes)
    put(note, json.dumps({"entry": asdict(entry), "statistics": statistics}).encode())
    return entry, statistics


def _tables(job: CutJob, part: Slice) -> Iterator[tuple[int, pa.Table]]:
    """The rows of a shard, unit by unit."""
    for number in range(part.first, part.last + 1):
        table = read_outcomes(job, number)
        start, stop = 0, table.num_rows
        good = np.flatnonzero(table["stage"].is_null().to_numpy())
        if number == part.first and part.skip:
            start = int(good[part.skip - 1]) + 1
        if number == part.last and part.take >= 0:
            stop = int(good[part.take - 1]) + 1
        yield number, table.slice(start, stop - start)


def _moved(good: pa.Table, at: int) -> pa.Table:
    """Index rows of kept samples that are copied one after the other to offset `at`."""
    sizes = good["size"].to_numpy()
    starts = at + np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if len(sizes) else sizes
    columns = {}
    for name in INDEX_SCHEMA.names:
        column = good[name].combine_chunks()
        if name == "json_offset":
            column = pc.add(column, pa.array(starts, pa.int64()))
        elif name == "image_offset":
            moved = [[start + o for o in offsets] for start, offsets in zip(starts, column.to_pylist(), strict=True)]
            column = pa.array(moved, INDEX_SCHEMA.field(name).type)
        columns[name] = column
    return pa.table(columns, INDEX_SCHEMA)


def _copy(path: str, good: pa.Table, stream: BinaryIO, sha: Any) -> int:
    """Append the bytes of kept samples; neighbours in one read. Returns how many bytes."""
    starts, sizes = good["start"].to_pylist(), good["size"].to_pylist()
    done, row = 0, 0
    while row < len(starts):
        begin, end = starts[row], starts[row] + sizes[row]
        row += 1
        while row < len(starts) and starts[row] == end and end + sizes[row] - begin <= COPY_BYTES:
            end += sizes[row]
            row += 1
        data = read_range(path, begin, end - begin)
        if len(data) != end - begin:
            raise ValueError(f"{path} ends before byte {end}: remove it and run the build again")
        stream.write(data)
        sha.update(data)
        done += len(data)
    return done


def _outcomes(table: pa.Table) -> pa.Table:
    good = pc.is_null(table["stage"])
    columns = {name: table[name] for name in ("position", "stage", "reason", "detail")}
    columns["outcome"] = pc.if_else(good, "kept", "rejected")
    for name in ("exact", "near"):  # a rejected row is no longer what duplicates are measured by
        columns[name] = pc.if_else(good, table[name], pa.scalar(None, table[name].type))
    return pa.table({name: columns[name] for name in OUTCOME_SCHEMA.names}, OUTCOME_SCHEMA)
