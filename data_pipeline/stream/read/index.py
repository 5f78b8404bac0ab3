"""The index of a shard as arrays, read when it is needed, and only the rows that are."""

import io
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from configs.errors import UserError
from data_pipeline.storage import exists, is_remote, join, read_bytes
from data_pipeline.stream.read.members import Place

KEPT_BYTES = 64 << 20
"""Arrays of indexes that a process holds; the longest unused go first."""
OPEN_FILES = 256
COLUMNS = (
    "key",
    "json_offset",
    "json_size",
    "json_hash",
    "image_offset",
    "image_size",
    "image_hash",
    "width",
    "height",
    "header_hash",
    "text_from",
)


@dataclass(frozen=True)
class Rows:
    """Neighbouring rows of an index. Pictures of row i are images[starts[i]:starts[i + 1]]; members are (offset, size, hash)."""

    first: int
    keys: list[str]
    json: list[tuple[int, int, int]]
    headers: list[int]
    text_from: list[str]
    starts: list[int]
    images: list[tuple[int, int, int]]
    sizes: NDArray[np.int32]
    """[pictures, 2] width, height."""

    @property
    def bytes(self) -> int:
        """About what it holds in memory: Python's numbers take 32 bytes each."""
        return 250 * len(self.keys) + 180 * len(self.sizes)

    def place(self, row: int, tar: str) -> Place:
        """Where the sample of a row (counted in the shard) lies."""
        i = row - self.first
        members = [self.images[k] for k in range(self.starts[i], self.starts[i + 1])]
        members.append(self.json[i])
        return Place(tar, self.keys[i], tuple(members), self.headers[i], self.text_from[i])

    def picture_sizes(self, row: int) -> list[tuple[int, int]]:
        i = row - self.first
        return [(w, h) for w, h in self.sizes[self.starts[i] : self.starts[i + 1]].tolist()]

    def hashes(self, row: int) -> list[int]:
        i = row - self.first
        return [hashed for _, _, hashed in self.images[self.starts[i] : self.starts[i + 1]]]


class Indexes:
    """The indexes of a dataset's shards.

    Raises (in use):
        UserError: an index is missing, or is not the one that the manifest speaks of.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self._files: OrderedDict[str, tuple[pq.ParquetFile, list[int]]] = OrderedDict()
        self._rows: OrderedDict[tuple[str, int], Rows] = OrderedDict()
        self._bytes = 0

    def rows(self, shard: str, samples: int, row: int) -> Rows:
        """The block of a shard of `samples` samples that holds row `row`."""
        file, ends = self._open(shard, samples)
        group = bisect_right(ends, row)
        key = (shard, group)
        found = self._rows.get(key)
        if found is None:
            first = ends[group - 1] if group else 0
            found = _rows(file.read_row_group(group, columns=self._columns(file)), first)
            self._rows[key] = found
            self._bytes += found.bytes
            while self._bytes > KEPT_BYTES and len(self._rows) > 1:
                self._bytes -= self._rows.popitem(last=False)[1].bytes
        else:
            self._rows.move_to_end(key)
        return found

    def _open(self, shard: str, samples: int) -> tuple[pq.ParquetFile, list[int]]:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        path = join(self.folder, f"{shard}.index.parquet")
        if not exists(path):
            raise UserError(f"{path} is missing: the dataset is damaged; run `looksay data verify {self.folder}`")
        file = pq.ParquetFile(io.BytesIO(read_bytes(path)) if is_remote(path) else path)
        meta = file.metadata
        if meta.num_rows != samples:
            raise UserError(
                f"{path} has {meta.num_rows} samples, the manifest says {samples}: run `looksay data verify`"
            )
        ends = list(accumulate(meta.row_group(n).num_rows for n in range(meta.num_row_groups)))
        self._files[shard] = (file, ends)
        if len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)[1][0].close()
        return file, ends

    @staticmethod
    def _columns(file: pq.ParquetFile) -> list[str]:
        names = set(file.schema_arrow.names)
        return [name for name in COLUMNS if name in names]


def _rows(table: Any, first: int) -> Rows:
    def plain(name: str) -> list[int]:
        values: list[int] = table.column(name).to_pylist()
        return values

    lists = {}
    for name in ("image_offset", "image_size", "image_hash", "width", "height"):
        lists[name] = table.column(name).combine_chunks()
    counts = lists["image_offset"]
    starts = np.asarray(counts.offsets, np.int64)
    starts = starts - starts[0]
    flat = {name: column.flatten() for name, column in lists.items()}
    sizes = np.stack([np.asarray(flat["width"], np.int32), np.asarray(flat["height"], np.int32)], 1).reshape(-1, 2)
    known = "header_hash" in table.column_names
    return Rows(
        first,
        table.column("key").to_pylist(),
        list(zip(plain("json_offset"), plain("json_size"), plain("json_hash"), strict=True)),
        [value or 0 for value in table.column("header_hash").to_pylist()] if known else [0] * table.num_rows,
        [kind or "" for kind in table.column("text_from").to_pylist()]
        if "text_from" in table.column_names
        else [""] * table.num_rows,
        starts.tolist(),
        list(zip(*(flat[name].to_pylist() for name in ("image_offset", "image_size", "image_hash")), strict=True)),
        sizes,
    )
