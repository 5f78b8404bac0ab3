"""One shard: a plain WebDataset tar, written together with the index that makes it randomly readable.

`KEY.jpg` (or KEY.0.jpg, KEY.1.jpg, ... for several pictures), then `KEY.json`. Tar bytes depend on nothing but the
samples: fixed owner, mode and time.
"""

import io
import tarfile
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from data_pipeline.sample import Sample

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("json_offset", pa.int64()),
        ("json_size", pa.int64()),
        ("json_hash", pa.uint64()),
        ("image_offset", pa.list_(pa.int64())),
        ("image_size", pa.list_(pa.int64())),
        ("image_hash", pa.list_(pa.uint64())),
        ("image_format", pa.list_(pa.string())),
        ("width", pa.list_(pa.int32())),
        ("height", pa.list_(pa.int32())),
        ("text_chars", pa.int32()),
    ]
)
"""Offsets and sizes are of a member's data in the tar, hashes xxh3-64 of it."""

OUTCOME_SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("outcome", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""One line per input row: outcome `kept` or `rejected`, and then by which stage and why."""

BLOCK = 512


def digest(data: bytes) -> int:
    """The hash of a member: xxh3-64."""
    return xxhash.xxh3_64_intdigest(data)


def member_names(sample: Sample) -> list[str]:
    if len(sample.images) == 1:
        return [f"{sample.key}.{sample.formats[0]}"]
    return [f"{sample.key}.{i}.{kind}" for i, kind in enumerate(sample.formats)]


@dataclass
class ShardWriter:
    """Collects samples of one shard in memory; `tar_bytes()` and `index_table()` when all are in."""

    buffer: io.BytesIO = field(default_factory=io.BytesIO)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def _member(self, name: str, data: bytes) -> tuple[int, int, int]:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o644, 0
        self.buffer.write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.buffer.tell()
        self.buffer.write(data)
        self.buffer.write(b"\0" * (-len(data) % BLOCK))
        return offset, len(data), digest(data)

    def add(self, sample: Sample) -> None:
        images = [self._member(name, data) for name, data in zip(member_names(sample), sample.images, strict=True)]
        body = sample.body()
        offset, size, hashed = self._member(f"{sample.key}.json", body)
        text = sample.text if sample.messages is None else "".join(m.content for m in sample.messages)
        self.rows.append(
            {
                "key": sample.key,
                "json_offset": offset,
                "json_size": size,
                "json_hash": hashed,
                "image_offset": [i[0] for i in images],
                "image_size": [i[1] for i in images],
                "image_hash": [i[2] for i in images],
                "image_format": list(sample.formats),
                "width": [i.width for i in sample.infos],
                "height": [i.height for i in sample.infos],
                "text_chars": len(text or ""),
            }
        )

    def tar_bytes(self) -> bytes:
        """The whole archive: members, two end blocks, padded to tar's record of 10,240 bytes."""
        data = self.buffer.getvalue() + b"\0" * (2 * BLOCK)
        return data + b"\0" * (-len(data) % tarfile.RECORDSIZE)

    def index_table(self) -> pa.Table:
        return pa.Table.from_pylist(self.rows, INDEX_SCHEMA)


def table_bytes(table: pa.Table) -> bytes:
    """A table as parquet bytes (same table, same bytes)."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_table(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))
