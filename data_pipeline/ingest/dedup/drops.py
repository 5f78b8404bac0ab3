"""What dedup found: files of dropped positions, a span of positions each, and a marker that all of them are there.

`folder/NNNNN.parquet` holds positions N x span ... (N + 1) x span of the rows to drop, sorted, where there are any.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import RunError
from data_pipeline.shard import read_table, table_bytes
from data_pipeline.storage import join, put, read_bytes, stat_of

KINDS = ("exact", "near")
DROPS = pa.schema([("position", pa.int64()), ("duplicate_of", pa.int64()), ("kind", pa.string())])
"""`duplicate_of` is the earliest row that the dropped one is a duplicate of."""

MARKER = "found.json"
FIRST = 1 << 62
"""Order of rows: published ones by their position, then the others by theirs, with this bit set."""


@dataclass(frozen=True)
class Found:
    """The marker: how it was searched, rows dropped by kind, and the spans that have a file, with its SHA-256."""

    search: dict[str, Any]
    dropped: dict[str, int]
    spans: dict[int, str]


def span_path(folder: str, number: int) -> str:
    return join(folder, f"{number:05d}.parquet")


def drops_table(position: np.ndarray, duplicate_of: np.ndarray, kind: str) -> pa.Table:
    """int64 arrays [n], sorted by position."""
    return pa.table([position, duplicate_of, pa.array(np.full(len(position), kind), pa.string())], DROPS)


def write_span(folder: str, number: int, table: pa.Table) -> str:
    """Returns the file's SHA-256."""
    data = table_bytes(table)
    put(span_path(folder, number), data)
    return hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=2)
def read_span(folder: str, number: int, sha256: str) -> pa.Table:
    """A span's file, kept for the next reader: units of a span are asked for one after the other."""
    data = read_bytes(span_path(folder, number))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise RunError(f"{span_path(folder, number)} was changed after it was written: remove {folder}, run again")
    return read_table(data)


def write_found(folder: str, found: Found) -> None:
    put(join(folder, MARKER), json.dumps(found.__dict__, sort_keys=True).encode())


def read_found(folder: str) -> Found | None:
    """The marker, None where the search has not ended."""
    try:
        data = json.loads(read_bytes(join(folder, MARKER)))
    except FileNotFoundError:
        return None
    return Found(data["search"], data["dropped"], {int(number): sha for number, sha in data["spans"].items()})


def read_drops(folder: str, span: int, start: int, stop: int) -> pa.Table:
    """The dropped rows among positions `start ... stop`, sorted by position.

    Raises:
        RunError: the search has not ended, or was made for other spans.
    """
    spans = _found(folder, _stamp(folder), span).spans
    numbers = [number for number in sorted(spans) if start < (number + 1) * span and number * span < stop]
    tables = [_among(read_span(folder, number, spans[number]), start, stop) for number in numbers]
    return pa.concat_tables([DROPS.empty_table(), *tables])


def _stamp(folder: str) -> str:
    try:
        return stat_of(join(folder, MARKER)).stamp
    except FileNotFoundError:
        raise RunError(f"{folder} does not say yet what is to be dropped: run the same command again") from None


@lru_cache(maxsize=4)
def _found(folder: str, stamp: str, span: int) -> Found:
    """The marker; `stamp` tells it from another one that stood at its place before."""
    found = read_found(folder)
    if found is None or found.search["span"] != span:
        there = "no spans" if found is None else f"spans of {found.search['span']} positions"
        raise RunError(f"{folder} holds {there}, not of {span}: remove it and run the command again")
    return found


def _among(table: pa.Table, start: int, stop: int) -> pa.Table:
    position = table["position"]
    return table.filter(pc.and_(pc.greater_equal(position, start), pc.less(position, stop)))
