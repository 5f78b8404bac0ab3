"""One search, for exact or for near duplicates: rows to buckets, drops to spans of positions, spans to files."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.ingest import StorageConfig
from data_pipeline.ingest.dedup.buckets import (
    DROP,
    Rule,
    earliest_drops,
    find_in,
    mix,
    order_of,
    position_of,
    row_type,
)
from data_pipeline.ingest.dedup.drops import KINDS, drops_table, read_span, write_span
from data_pipeline.ingest.dedup.exchange import Arrays, Exchange, Job, columns
from data_pipeline.ingest.dedup.near_keys import coarse_keys, fine_keys
from data_pipeline.ingest.dedup.perceptual import NEAR_BYTES, near
from data_pipeline.storage import configure

Load = Callable[[Any], pa.Table]

TASK_BYTES, PIECE_BYTES = 32 << 20, 1 << 19
"""Rows that one task takes in, about (it needs a few times as much memory): more where the arrays that it exchanges with
each other task would get smaller than a piece. Ray keeps small ones (100 kB) in the driver's memory."""

SAMPLED = 16
"""Chunks that are looked into to learn how many rows there will be."""


def _equal(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one == other).all(axis=1)


def _halves(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 16] -> (line, key): the first half of an exact hash is its bucket, the second is compared."""
    return np.arange(len(hashes)), np.ascontiguousarray(hashes[:, :8]).view(np.uint64)[:, 0]


@dataclass(frozen=True)
class Kind:
    """What is searched for: the column, how it makes buckets, how many of its last bytes are compared, and by what rule.

    `copies` is how many buckets a row is in, on average.
    """

    name: str
    keys: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    copies: float
    signature: int
    rule: Rule

    @property
    def row_bytes(self) -> float:
        return self.copies * row_type(self.signature).itemsize


EXACT = Kind("exact", _halves, 1.0, 8, Rule(_equal, None, 16))
NEAR = Kind("near", coarse_keys, 1.8, NEAR_BYTES, Rule(near, fine_keys, 1024))


@dataclass(frozen=True)
class Task:
    """What every task of a search is told.

    Attributes:
        folder: where the files go.
        before: folder of an earlier search, whose drops take no part and are written with these.
        spans: files of `before`, with their SHA-256.
    """

    kind: Kind
    load: Load
    span: int
    folder: str
    storage: StorageConfig | None = None
    before: str = ""
    spans: dict[int, str] = field(default_factory=dict)

    def dropped_before(self, number: int) -> pa.Table | None:
        return read_span(self.before, number, self.spans[number]) if number in self.spans else None

    def prepare(self) -> None:
        """Called first in each task: it may run in a new process."""
        if self.storage is not None:
            configure(self.storage)


def mean_rows(exchange: Exchange, chunks: Sequence[Any], load: Load) -> float:
    """About how many rows a chunk has."""
    step = max(1, len(chunks) // SAMPLED)
    sampled: list[Job] = [(chunk, []) for chunk in chunks[::step][:SAMPLED]]
    counts = [count for count, _ in exchange.run(partial(_count, load), sampled, 0)]
    return sum(counts) / max(1, len(counts))


def search(exchange: Exchange, task: Task, chunks: Sequence[Any], rows: float) -> tuple[dict[str, int], dict[int, str]]:
    """Write the files. Returns dropped rows by kind, and the SHA-256 of each span's file."""
    each = max(1.0, rows * task.kind.row_bytes)  # bytes of a chunk
    size = max(TASK_BYTES, math.sqrt(each * len(chunks) * PIECE_BYTES))
    together = max(1, int(size / each))
    groups: Iterator[Job] = ((chunks[start : start + together], []) for start in range(0, len(chunks), together))
    partitions = max(1, math.ceil(each * len(chunks) / size))
    # Most collections have few duplicates: fewer, larger arrays. The files are made one after the other anyway.
    spans = max(1, math.ceil(rows * DROP.itemsize * len(chunks) / (8 * size)))
    spread = [refs for _, refs in exchange.run(partial(_spread, task), groups, partitions)]
    buckets = ((None, column) for column in columns(spread))
    drops = [refs for _, refs in exchange.run(partial(_find, task), buckets, spans)]
    dropped: Counter[str] = Counter()
    files: dict[int, str] = {}
    jobs = (((part, spans), column) for part, column in enumerate(columns(drops)))
    for (counts, written), _ in exchange.run(partial(_write, task), jobs, 0):
        dropped.update(counts)
        files.update(written)
    return dict(sorted(dropped.items())), dict(sorted(files.items()))


def _count(load: Load, chunk: Any, _: Arrays, __: int) -> tuple[int, Sequence[np.ndarray]]:
    return load(chunk).num_rows, ()


def _spread(task: Task, chunks: Iterable[Any], _: Arrays, partitions: int) -> tuple[None, Sequence[np.ndarray]]:
    """Chunks -> their rows, by the partition of their bucket."""
    task.prepare()
    parts: list[list[np.ndarray]] = [[] for _ in range(partitions)]
    for chunk in chunks:
        rows = _rows(task, task.load(chunk))
        for part, piece in zip(parts, _split(rows, mix(rows["key"]) % np.uint64(partitions), partitions), strict=True):
            part.append(piece)
    return None, [_joined(part, row_type(task.kind.signature)) for part in _emptied(parts)]


def _rows(task: Task, table: pa.Table) -> np.ndarray:
    """HASHES -> the rows that take part, once for each of their buckets."""
    table = table.filter(table[task.kind.name].is_valid())
    position, published = (table[name].to_numpy() for name in ("position", "published"))
    signature = _bytes_of(table[task.kind.name])
    for number in np.unique(position // task.span) if task.spans else ():
        dropped = task.dropped_before(int(number))
        if dropped is not None:
            left = ~np.isin(position, dropped["position"].to_numpy())
            position, published, signature = position[left], published[left], signature[left]
    at, key = task.kind.keys(signature)
    rows = np.empty(len(at), row_type(task.kind.signature))
    rows["key"], rows["order"] = key, order_of(position, published)[at]
    rows["signature"] = signature[at, -task.kind.signature :]
    return rows


def _bytes_of(column: pa.ChunkedArray) -> np.ndarray:
    """Fixed-size binary without nulls -> uint8 [n, size]."""
    size = column.type.byte_width
    pieces = [
        np.frombuffer(chunk.buffers()[1], np.uint8)[chunk.offset * size : (chunk.offset + len(chunk)) * size]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate([np.empty(0, np.uint8), *pieces]).reshape(-1, size)


def _find(task: Task, _: None, pieces: Arrays, partitions: int) -> tuple[None, Sequence[np.ndarray]]:
    """Rows of a partition of buckets -> drops, by the partition of their span."""
    drops = find_in(pieces, task.kind.rule, 3 * TASK_BYTES)
    number = position_of(drops["order"]) // task.span
    return None, _split(drops, number % partitions, partitions)


def _write(
    task: Task, item: tuple[int, int], pieces: Arrays, _: int
) -> tuple[tuple[dict[str, int], dict[int, str]], Sequence[np.ndarray]]:
    """Drops of a partition of spans, sorted in each piece -> their files, one after the other.

    A row that several buckets drop is a duplicate of the earliest.
    """
    task.prepare()
    part, partitions = item
    here = [np.unique(position_of(piece["order"]) // task.span) for piece in pieces]
    numbers = {*_joined(here, np.int64).tolist(), *(n for n in task.spans if n % partitions == part)}
    dropped, files = Counter[str](), {}
    for number in sorted(numbers):
        ends = order_of(np.array([number, number + 1]) * task.span, np.array([False, False]))
        drops = earliest_drops(
            _joined([piece[slice(*np.searchsorted(piece["order"], ends))] for piece in pieces], DROP)
        )
        table = drops_table(position_of(drops["order"]), position_of(drops["of"]), task.kind.name)
        earlier = task.dropped_before(number)
        if earlier is not None:
            table = pa.concat_tables([table, earlier]).sort_by("position")
        files[number] = write_span(task.folder, number, table)
        dropped.update({kind: pc.sum(pc.equal(table["kind"], kind)).as_py() for kind in KINDS})
    return (dict(dropped), files), ()


def _split(rows: np.ndarray, part: np.ndarray, partitions: int) -> list[np.ndarray]:
    if partitions == 1:
        return [rows]
    order = np.argsort(part.astype(np.uint16), kind="stable")
    ends = np.cumsum(np.bincount(part.astype(np.int64), minlength=partitions))
    return [rows[order[start:end]] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _joined(pieces: list[np.ndarray], kind: Any) -> np.ndarray:
    return np.concatenate([np.empty(0, kind), *pieces])


def _emptied(parts: list[list[np.ndarray]]) -> Iterable[list[np.ndarray]]:
    """Each part in turn, let go of as the next one is asked for."""
    parts.reverse()
    while parts:
        yield parts.pop()
