"""The index of a shard as columns, read when it is needed; only blocks that are drawn from become Python's objects."""

import io
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise, repeat
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from configs.errors import UserError
from data_pipeline.storage import join
from data_pipeline.stream.read.local import patiently
from data_pipeline.stream.read.members import Place

T = TypeVar("T")
KEPT_BYTES = 64 << 20
"""Columns of indexes that a process holds, and as much again of files fetched; the longest unused go first."""
OPEN_FILES = 256
BLOCK_ROWS = 64
"""Rows that become objects together: a chunk of the draw order, so that all of them are used."""
KEPT_BLOCKS = 512
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
LISTS = ("image_offset", "image_size", "image_hash", "width", "height")


class Block(NamedTuple):
    """Neighbouring rows of a shard, from row `first` on."""

    first: int
    places: list[Place]
    sizes: list[list[tuple[int, int]]]
    """(width, height) of each picture."""


class _Columns(NamedTuple):
    """A row group. Pictures of row i are starts[i] ... starts[i + 1] - 1 of each of `lists`."""

    keys: pa.StringArray
    kinds: pa.StringArray
    headers: NDArray[np.uint64]
    texts: list[NDArray[Any]]
    starts: NDArray[np.int64]
    lists: dict[str, NDArray[Any]]
    bytes: int


@dataclass
class _File:
    parquet: pq.ParquetFile
    ends: list[int]
    columns: list[str]
    bytes: int


class Indexes:
    """The indexes of a dataset's shards. Safe in threads.

    Args:
        open_: what parquet reads, given the path of an index: a local path, or bytes. Raises FileNotFoundError.
        retry_seconds: so long a failure of the storage is retried.

    Raises (in use):
        UserError: an index is missing, damaged, or not the one that the manifest speaks of.
    """

    def __init__(self, folder: str, open_: Callable[[str], str | bytes], retry_seconds: float):
        self.folder, self._source, self._seconds = folder, open_, retry_seconds
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], _Columns] = OrderedDict()
        self._blocks: OrderedDict[tuple[str, int], Block] = OrderedDict()
        self._file_bytes = self._group_bytes = 0
        self._lock = threading.Lock()

    def block(self, shard: str, samples: int, row: int, tar: str) -> Block:
        """The block that holds row `row` of a shard of `samples` samples, whose bytes are in `tar`."""
        key = (shard, row // BLOCK_ROWS)
        with self._lock:
            found = self._blocks.get(key)
            if found is None:
                first = row - row % BLOCK_ROWS
                found = self._reading(shard, lambda: self._made(shard, samples, first, tar))
                self._blocks[key] = found
                if len(self._blocks) > KEPT_BLOCKS:
                    self._blocks.popitem(last=False)
            else:
                self._blocks.move_to_end(key)
            return found

    def unopened(self, shards: Iterable[str]) -> list[str]:
        """Of some shards those whose index is not at hand."""
        with self._lock:
            return [shard for shard in shards if shard not in self._files]

    def path(self, shard: str) -> str:
        return join(self.folder, f"{shard}.index.parquet")

    def table(self, shard: str, samples: int) -> pa.Table:
        """The whole index of a shard, as it is stored."""
        with self._lock:
            return self._reading(shard, lambda: self._open(shard, samples).parquet.read())

    def add(self, shard: str, samples: int, data: str | bytes) -> None:
        """Open an index that was brought already."""
        with self._lock:
            if shard not in self._files:
                self._reading(shard, lambda: self._opened(shard, samples, data))

    # ---- under the lock ------------------------------------------------------------------------------------

    def _made(self, shard: str, samples: int, first: int, tar: str) -> Block:
        block = Block(first, [], [])
        file = self._open(shard, samples)
        at, last = first, min(first + BLOCK_ROWS, samples)
        while at < last:
            group = bisect_right(file.ends, at)
            begin = file.ends[group - 1] if group else 0
            stop = min(last, file.ends[group])
            _fill(block, self._group(shard, file, group), at - begin, stop - begin, tar)
            at = stop
        return block

    def _group(self, shard: str, file: _File, group: int) -> _Columns:
        key = (shard, group)
        found = self._groups.get(key)
        if found is not None:
            self._groups.move_to_end(key)
            return found
        table = self._reading(
            shard, lambda: file.parquet.read_row_group(group, columns=file.columns, use_threads=False)
        )
        found = self._groups[key] = _columns(table)
        self._group_bytes += found.bytes
        while self._group_bytes > KEPT_BYTES and len(self._groups) > 1:
            self._group_bytes -= self._groups.popitem(last=False)[1].bytes
        return found

    def _open(self, shard: str, samples: int) -> _File:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        return self._reading(shard, lambda: self._opened(shard, samples, self._source(self.path(shard))))

    def _opened(self, shard: str, samples: int, data: str | bytes) -> _File:
        parquet = pq.ParquetFile(io.BytesIO(data) if isinstance(data, bytes) else data)
        meta = parquet.metadata
        if meta.num_rows != samples:
            raise UserError(
                f"{self.path(shard)} has {meta.num_rows} samples, the manifest says {samples}: run `looksay data verify`"
            )
        ends = list(accumulate(meta.row_group(n).num_rows for n in range(meta.num_row_groups)))
        names = set(parquet.schema_arrow.names)
        held = len(data) if isinstance(data, bytes) else 0
        file = _File(parquet, ends, [name for name in COLUMNS if name in names], held)
        self._files[shard] = file
        self._file_bytes += held
        while len(self._files) > 1 and (len(self._files) > OPEN_FILES or self._file_bytes > KEPT_BYTES):
            old = self._files.popitem(last=False)[1]
            self._file_bytes -= old.bytes
            old.parquet.close()
        return file

    def _reading(self, shard: str, read: Callable[[], T]) -> T:
        path, remedy = self.path(shard), f"the dataset is damaged; run `looksay data verify {self.folder}`"

        def checked() -> T:
            try:
                return read()
            except (FileNotFoundError, UserError):
                raise
            except (ValueError, pa.ArrowException, KeyError, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the system's; arrow's own about the bytes have no number
                said = (str(error).splitlines() or [""])[0][:200]
                raise UserError(f"{path} is no index ({said}): {remedy}") from None

        try:
            return patiently(path, self._seconds, checked)
        except FileNotFoundError:
            raise UserError(f"{path} is missing: {remedy}") from None


def _columns(rows: pa.Table) -> _Columns:
    found = {name: _joined(rows.column(name)) for name in rows.column_names}
    lists = {name: found[name].flatten().to_numpy() for name in LISTS}
    offsets = found["image_offset"].offsets.to_numpy().astype(np.int64)
    headers = found.get("header_hash", pa.nulls(rows.num_rows, pa.uint64())).fill_null(0).to_numpy()
    kinds = found.get("text_from", pa.nulls(rows.num_rows, pa.string())).fill_null("")
    texts = [found[name].to_numpy() for name in ("json_offset", "json_size", "json_hash")]
    size = rows.get_total_buffer_size() + offsets.nbytes
    return _Columns(found["key"], kinds, headers, texts, offsets - offsets[0], lists, size)


def _joined(column: pa.ChunkedArray) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _fill(block: Block, rows: _Columns, first: int, last: int, tar: str) -> None:
    """Add rows first ... last - 1 of a group to a block."""
    starts = rows.starts[first : last + 1].tolist()
    a, b = starts[0], starts[-1]
    lists = {name: values[a:b].tolist() for name, values in rows.lists.items()}
    images = list(zip(lists["image_offset"], lists["image_size"], lists["image_hash"], strict=True))
    sizes = list(zip(lists["width"], lists["height"], strict=True))
    texts = list(zip(*(values[first:last].tolist() for values in rows.texts), strict=True))
    spans = [(start - a, end - a) for start, end in pairwise(starts)]
    members = [(*images[i:j], text) for (i, j), text in zip(spans, texts, strict=True)]
    keys, kinds = (column.slice(first, last - first).to_pylist() for column in (rows.keys, rows.kinds))
    block.places.extend(map(Place, repeat(tar), keys, members, rows.headers[first:last].tolist(), kinds))
    block.sizes.extend([sizes[i:j] for i, j in spans])
