"""A committed unit of work: what became of each of its rows, and the kept samples as they will stand in a tar.

```
[tar members of sample][tar members of sample] ... [parquet table, a row per input row][its size, 8 bytes][LOOKUNIT]
```

The file at its name *is* the commit: it is put there once, whole, and never replaced. Samples are in final form, so
the cut copies bytes and never opens a picture again.
"""

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from data_pipeline.sample import Reject, Sample
from data_pipeline.shard import INDEX_SCHEMA, encode_sample, read_table, table_bytes
from data_pipeline.storage import join, put_file, read_tail

MAGIC = b"LOOKUNIT"
TRAILER = struct.Struct("<Q8s")
TAIL_BYTES = 256 * 1024
"""Read at first from the end: the table of a usual unit lies in it, so that one request is enough."""

UNIT_SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("exact", pa.binary(16)),
        ("near", pa.binary()),
        ("start", pa.int64()),
        ("size", pa.int64()),
        *INDEX_SCHEMA,
    ]
)
"""`stage` is null for a kept row; `start` and `size` are its bytes in the file; offsets count from `start`."""


@dataclass(frozen=True)
class UnitTotals:
    """What a unit came to; `reused` where an earlier attempt had committed it."""

    kept: int
    rejected: Counter[str]
    bytes: int
    reused: bool = False


@dataclass
class UnitWriter:
    """Collects the outcomes of a unit, in input order."""

    pieces: list[bytes] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0

    def keep(self, position: int, sample: Sample, exact: bytes | None = None, near: bytes | None = None) -> None:
        pieces, size, row = encode_sample(sample)
        self.rows.append({"position": position, "exact": exact, "near": near, "start": self.size, "size": size, **row})
        self.pieces += pieces
        self.size += size

    def reject(self, position: int, reject: Reject) -> None:
        row = {"position": position, "stage": reject.stage, "reason": reject.reason, "detail": reject.detail}
        self.rows.append(row)

    def commit(self, path: str) -> UnitTotals:
        """Put the unit at `path`, unless there is one already: then that one counts, and this is forgotten."""
        table = table_bytes(pa.Table.from_pylist(self.rows, UNIT_SCHEMA))

        def write(target: str) -> None:
            with open(target, "wb") as stream:
                stream.writelines(self.pieces)
                stream.write(table)
                stream.write(TRAILER.pack(len(table), MAGIC))

        if put_file(path, write, if_absent=True):
            rejected = Counter(f"{row['stage']}/{row['reason']}" for row in self.rows if row.get("stage"))
            return UnitTotals(len(self.rows) - rejected.total(), rejected, self.size)
        return totals_of(read_unit(path), reused=True)


def unit_path(work: str, number: int) -> str:
    """A thousand units a folder: a file system lists them without pain."""
    return join(join(join(work, "units"), f"{number // 1000:05d}"), f"{number:08d}.unit")


def read_unit(path: str) -> pa.Table:
    """The table of a committed unit.

    Raises:
        ValueError: the file is not one.
    """
    tail = read_tail(path, TAIL_BYTES)
    if len(tail) < TRAILER.size or tail[-8:] != MAGIC:
        raise ValueError(f"{path} is not a unit of a build: remove it and run the build again")
    size, _ = TRAILER.unpack(tail[-TRAILER.size :])
    if size + TRAILER.size > len(tail):
        tail = read_tail(path, size + TRAILER.size)
    return read_table(tail[-TRAILER.size - size : -TRAILER.size])


def totals_of(table: pa.Table, reused: bool = False) -> UnitTotals:
    stages, reasons = table["stage"].to_pylist(), table["reason"].to_pylist()
    rejected = Counter(f"{stage}/{reason}" for stage, reason in zip(stages, reasons, strict=True) if stage is not None)
    sizes = [size for size in table["size"].to_pylist() if size is not None]
    return UnitTotals(table.num_rows - rejected.total(), rejected, sum(sizes), reused)
