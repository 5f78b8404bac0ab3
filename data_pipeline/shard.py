"""One shard: a plain WebDataset tar, and the index that makes it randomly readable.

`KEY.jpg` (or KEY.0.jpg, KEY.1.jpg, ... for several pictures), then `KEY.json`. Tar bytes depend on nothing but the
samples: fixed owner, mode and time. So a sample can be encoded once, wherever it is made, and copied into its shard.
"""

import io
import tarfile
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
        ("header_hash", pa.uint64()),
    ]
)
"""Offsets and sizes are of a member's data in the tar, hashes xxh3-64 of it; `header_hash` is that of the sample's tar
headers, pictures first, joined."""

OUTCOME_SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("outcome", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("exact", pa.binary(16)),
        ("near", pa.binary()),
    ]
)
"""One line per input row: outcome `kept` or `rejected`, and then by which stage and why. `exact` and `near` are what a
kept one is recognised by when duplicates are looked for later; null where the build does not look for them."""

BLOCK = 512
INDEX_GROUP = 1024
"""Rows of an index that are read together."""


def digest(data: bytes) -> int:
    """The hash of a member: xxh3-64."""
    return xxhash.xxh3_64_intdigest(data)


def member_names(sample: Sample) -> list[str]:
    if len(sample.images) == 1:
        return [f"{sample.key}.{sample.formats[0]}"]
    return [f"{sample.key}.{i}.{kind}" for i, kind in enumerate(sample.formats)]


class _Members:
    """Tar members one after the other, as pieces that are not joined yet."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.headers = xxhash.xxh3_64()

    def add(self, name: str, data: bytes) -> tuple[int, int, int]:
        """Offset, size and hash of the member's data."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o644, 0
        header = info.tobuf(tarfile.USTAR_FORMAT)
        offset, padding = self.size + len(header), -len(data) % BLOCK
        self.headers.update(header)
        self.pieces += [header, data, b"\0" * padding]
        self.size = offset + len(data) + padding
        return offset, len(data), digest(data)


def encode_sample(sample: Sample) -> tuple[list[bytes], int, dict[str, Any]]:
    """A sample as pieces of tar, their size in bytes, and its row of the index with offsets from its own start."""
    members = _Members()
    images = [members.add(name, data) for name, data in zip(member_names(sample), sample.images, strict=True)]
    offset, size, hashed = members.add(f"{sample.key}.json", sample.body())
    text = sample.text if sample.messages is None else "".join(m.content for m in sample.messages)
    row = {
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
        "header_hash": members.headers.intdigest(),
    }
    return members.pieces, members.size, row


def tar_end(size: int) -> bytes:
    """What closes an archive whose members take `size` bytes: two empty blocks, up to tar's record of 10,240 bytes."""
    return b"\0" * (2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)


def table_bytes(table: pa.Table) -> bytes:
    """A table as parquet bytes (same table, same bytes)."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


INDEX_ENCODINGS = {
    "key": "DELTA_BYTE_ARRAY",
    "json_offset": "DELTA_BINARY_PACKED",
    "image_offset.list.element": "DELTA_BINARY_PACKED",
}


def index_bytes(table: pa.Table) -> bytes:
    """An index as parquet bytes, in groups of INDEX_GROUP rows: who wants a few neighbours reads no more.

    Offsets and keys ascend, so they are stored as differences: a third smaller than zstd over plain values, and
    read in two thirds of the time (docs/benchmarks/reading.md).
    """
    sink = io.BytesIO()
    encodings = {name: kind for name, kind in INDEX_ENCODINGS.items() if name.split(".")[0] in table.column_names}
    pq.write_table(
        table,
        sink,
        compression="lz4",
        use_dictionary=False,
        column_encoding=encodings,
        row_group_size=INDEX_GROUP,
        write_statistics=False,
    )
    return sink.getvalue()


def read_table(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))
