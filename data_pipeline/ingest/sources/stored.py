"""Parquet and Arrow files as runs of record batches, read forwards, any row on demand, in memory of a few batches.

`open_stored(path)` -> `Stored`: schema, number of rows, batches from any row on.
"""

import io
import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Literal, Protocol

import pyarrow as pa

from configs.mounts import is_network
from data_pipeline.storage import is_remote, read_range, size_of

BATCH_BYTES = 8 * 2**20
MOST_BATCH_ROWS = 4096
_REMOTE_BUFFER = 4 * 2**20

Presence = Literal["all", "none", "mixed"]


class Stored(Protocol):
    """A file of record batches. Errors while reading are ArrowInvalid or OSError."""

    schema: pa.Schema
    rows: int
    notes: dict[bytes, bytes]
    """What the writer noted for the whole file."""

    def part(self, row: int) -> tuple[int, int]:
        """The run of rows, start and stop, that is stored in one piece around a row."""

    def presence(self, row: int, column: str, leaf: str) -> Presence:
        """Which rows of that piece have a value in `leaf` of a column (empty: the column itself)."""

    def leaf(self, column: str, leaf: str) -> str:
        """The name by which `batches` reads one leaf of a column alone; the column's, where it cannot."""

    def batches(self, row: int, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches with the number of their first row, from one at or before `row` on, to the end."""


class RangeFile(io.RawIOBase):
    """A remote file that can be read from anywhere, by ranged reads."""

    def __init__(self, path: str):
        self.path, self.size, self.at = path, size_of(path), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self.size - self.at)
        data = read_range(self.path, self.at, wanted) if wanted > 0 else b""
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


class ParquetStored:
    """A parquet file; its pieces are row groups."""

    def __init__(self, path: str):
        import pyarrow.parquet as pq

        where = RangeFile(path) if is_remote(path) else path
        # Column chunks are read through a buffer, page by page: pictures of a whole row group may be gigabytes.
        self.file = pq.ParquetFile(where, buffer_size=_REMOTE_BUFFER if is_remote(path) else 2**20, pre_buffer=False)
        self.metadata = self.file.metadata
        self.schema, self.rows = self.file.schema_arrow, self.metadata.num_rows
        self.notes = self.metadata.metadata or {}
        self.starts = [0]
        for group in range(self.metadata.num_row_groups):
            self.starts.append(self.starts[-1] + self.metadata.row_group(group).num_rows)
        first = self.metadata.row_group(0) if self.metadata.num_row_groups else None
        self.paths = [first.column(n).path_in_schema for n in range(first.num_columns)] if first else []

    def _group(self, row: int) -> int:
        return bisect_right(self.starts, row) - 1

    def part(self, row: int) -> tuple[int, int]:
        group = self._group(row)
        return self.starts[group], self.starts[group + 1]

    def leaf(self, column: str, leaf: str) -> str:
        inside = [path for path in self.paths if path.startswith(column + ".") and path.endswith("." + leaf)]
        return inside[0] if len(inside) == 1 and column not in self.paths else column

    def presence(self, row: int, column: str, leaf: str) -> Presence:
        name = self.leaf(column, leaf) if leaf else column
        inside = [n for n, path in enumerate(self.paths) if path == name or path.startswith(name + ".")]
        if len(inside) != 1:
            return "mixed"
        chunk = self.metadata.row_group(self._group(row)).column(inside[0])
        statistics = chunk.statistics
        if statistics is None or not statistics.has_null_count:
            return "mixed"
        return "all" if statistics.null_count == 0 else "none" if statistics.null_count == chunk.num_values else "mixed"

    def batches(self, row: int, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        for group in range(self._group(row), self.metadata.num_row_groups):
            first = self.starts[group]
            options = {"batch_size": self._batch_rows(group, columns), "use_threads": False}
            for batch in self.file.iter_batches(row_groups=[group], columns=columns, **options):
                yield first, batch
                first += batch.num_rows

    def _batch_rows(self, group: int, columns: list[str]) -> int:
        part = self.metadata.row_group(group)
        chunks = [part.column(n) for n, path in enumerate(self.paths) if _inside(path, columns)]
        each = sum(chunk.total_uncompressed_size for chunk in chunks) / max(1, part.num_rows)
        return max(1, min(MOST_BATCH_ROWS, int(BATCH_BYTES / max(1.0, each))))


def _inside(path: str, columns: list[str]) -> bool:
    return any(path == column or path.startswith(column + ".") for column in columns)


class ArrowStored:
    """An Arrow IPC file or stream. Those of a local disk are mapped into memory: batches cost nothing until they are looked at."""

    def __init__(self, path: str):
        self.path = path
        with closing(self._open()) as opened:
            self.schema, self.notes = opened.schema, opened.schema.metadata or {}
        self.starts = [0]
        for batch in self.every():
            self.starts.append(self.starts[-1] + batch.num_rows)
        self.rows = self.starts[-1]

    def _open(self) -> Any:
        if is_remote(self.path):
            source = pa.PythonFile(RangeFile(self.path), "r")
        else:
            source = pa.OSFile(self.path) if is_network(self.path) else pa.memory_map(self.path)
        if read_range(self.path, 0, 6) == b"ARROW1":
            return _Batches(pa.ipc.open_file(source))
        return _Batches(pa.ipc.open_stream(source))

    def every(self) -> Iterator[pa.RecordBatch]:
        with closing(self._open()) as opened:
            yield from opened

    def part(self, row: int) -> tuple[int, int]:
        return 0, self.rows

    def leaf(self, column: str, leaf: str) -> str:
        return column

    def presence(self, row: int, column: str, leaf: str) -> Presence:
        return "mixed"

    def batches(self, row: int, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        first = 0
        for batch in self.every():
            if first + batch.num_rows > row:
                chosen = batch.select(columns)
                # Offsets of a file from anywhere may point anywhere.
                chosen.validate(full=True)
                yield first, chosen
            first += batch.num_rows


class _Batches:
    """Record batches of either form of Arrow's file, in order."""

    def __init__(self, reader: Any):
        self.reader, self.schema = reader, reader.schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        if hasattr(self.reader, "num_record_batches"):
            yield from (self.reader.get_batch(number) for number in range(self.reader.num_record_batches))
        else:
            yield from self.reader

    def close(self) -> None:
        if hasattr(self.reader, "close"):
            self.reader.close()


def open_stored(path: str) -> Stored:
    """The file's own first bytes say which of the two it is. Raises ArrowInvalid or OSError."""
    return ParquetStored(path) if read_range(path, 0, 4) == b"PAR1" else ArrowStored(path)


def first_line(error: Exception) -> str:
    """What Arrow says is wrong, without its stack."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
