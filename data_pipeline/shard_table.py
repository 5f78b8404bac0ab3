"""The shards of a dataset as columns: `shards-SHA.parquet` beside manifest.json, which names it.

A hundred thousand shards are 45 MB and a second of JSON, but nothing as columns of which only those are read that are asked
for: opening a dataset takes counts and names, verifying takes hashes.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_pipeline.storage import is_remote, read_bytes

PARTS = ("tar", "index", "outcomes")
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("samples", pa.int64()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        *((part, pa.binary(32)) for part in PARTS),
    ]
)
"""`rows` are input rows, kept and rejected; the last three are SHA-256 of the shard's files."""
BATCH = 4096


@dataclass(frozen=True)
class ShardEntry:
    """One shard. `rows` counts input rows (kept and rejected), `sha256` has tar, index and outcomes."""

    name: str
    samples: int
    rows: int
    bytes: int
    sha256: dict[str, str]


class ShardTable(Sequence[ShardEntry]):
    """Shards in order. Made of entries, or of a file whose columns are read when they are asked for."""

    def __init__(self, entries: Sequence[ShardEntry] = (), *, path: str | None = None, count: int = 0):
        self._path, self._count = path, count if path is not None else len(entries)
        self._table = None if path is not None else _table(entries)

    def _columns(self, *names: str) -> pa.Table:
        if self._table is not None:
            return self._table.select(names)
        assert self._path is not None
        source: Any = io.BytesIO(read_bytes(self._path)) if is_remote(self._path) else self._path
        with pq.ParquetFile(source) as file:
            return file.read(columns=list(names))

    @cached_property
    def samples(self) -> NDArray[np.int64]:
        """[shards] kept samples of each."""
        return self._columns("samples").column(0).to_numpy()

    @cached_property
    def names(self) -> "Names":
        """Name of each, without its ending."""
        return Names(self._columns("name").column(0).combine_chunks())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ShardEntry]:
        for batch in self._columns(*SCHEMA.names).to_batches(BATCH):
            yield from map(_entry, batch.to_pylist())

    @overload
    def __getitem__(self, place: int) -> ShardEntry: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[ShardEntry]: ...

    def __getitem__(self, place: int | slice) -> ShardEntry | Sequence[ShardEntry]:
        table = self._columns(*SCHEMA.names)
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            return tuple(_entry(table.slice(n, 1).to_pylist()[0]) for n in range(start, stop, step))
        return _entry(table.slice(range(len(self))[place], 1).to_pylist()[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardTable) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self.names))

    def file(self) -> tuple[str, bytes, str]:
        """(name, bytes, SHA-256) of the file that holds them."""
        sink = io.BytesIO()
        table = self._columns(*SCHEMA.names)
        pq.write_table(table, sink, compression="zstd", row_group_size=10_000, write_statistics=False)
        digest = hashlib.sha256(sink.getvalue()).hexdigest()
        return f"shards-{digest[:12]}.parquet", sink.getvalue(), digest


class Names(Sequence[str]):
    """Names as a column."""

    def __init__(self, column: pa.StringArray):
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __iter__(self) -> Iterator[str]:
        return (value.as_py() for value in self._column)

    def __getitem__(self, place: Any) -> Any:
        return self._column[place].as_py() if isinstance(place, int) else self._column[place].to_pylist()


def _table(entries: Sequence[ShardEntry]) -> pa.Table:
    columns: list[Any] = [[getattr(entry, name) for entry in entries] for name in SCHEMA.names[:4]]
    columns += [[bytes.fromhex(entry.sha256[part]) for entry in entries] for part in PARTS]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _entry(row: dict[str, Any]) -> ShardEntry:
    hashes = {part: row[part].hex() for part in PARTS}
    return ShardEntry(row["name"], row["samples"], row["rows"], row["bytes"], hashes)
