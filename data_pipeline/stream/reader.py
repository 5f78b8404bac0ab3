"""Random access to a dataset folder: the index in memory, bytes read (and checked) only when asked for."""

import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import RunError, UserError
from data_pipeline.manifest import read_manifest
from data_pipeline.sample import Conversation, parse_body
from data_pipeline.shard import digest, read_table
from data_pipeline.storage import exists, is_remote, join, read_bytes, read_range

RETRY_SECONDS = 120.0
"""A read that fails for a reason outside the bytes is tried again for this long, then ends the job."""

MAPPED_SHARDS = 64
"""Shards of a dataset that stay mapped into memory; more are opened anew."""


class BadSample(ValueError):
    """A sample whose *bytes* are wrong (hash, JSON, picture): the same on every rank and every time."""

    def __init__(self, shard: str, key: str, start: int, end: int, reason: str):
        super().__init__(f"sample {key} of {shard} (bytes {start}-{end}): {reason}")
        self.shard, self.key, self.start, self.end, self.reason = shard, key, start, end, reason


@dataclass(frozen=True)
class StoredSample:
    """What a shard holds of one sample."""

    conversation: Conversation
    images: list[bytes]


class _Lists:
    """A list column as values and offsets: `self[i]` is the list of row i."""

    def __init__(self, chunks: list[Any], dtype: Any):
        self.values = np.concatenate([np.asarray(c.values, dtype) for c in chunks]) if chunks else np.zeros(0, dtype)
        counts = (
            np.concatenate([np.diff(np.asarray(c.offsets, np.int64)) for c in chunks])
            if chunks
            else np.zeros(0, np.int64)
        )
        self.offsets = np.concatenate([[0], np.cumsum(counts)])

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)


class Dataset:
    """A dataset folder. Samples are numbered through all shards, in order.

    Raises:
        UserError: no dataset there, or an index is missing.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self._maps = lru_cache(maxsize=MAPPED_SHARDS)(_mapped)  # its own: another dataset may come to this path
        self.manifest = read_manifest(folder)
        self.name = self.manifest.name
        self.fingerprint = self.manifest.fingerprint
        self.shards = [entry.name for entry in self.manifest.shards]
        tables = [
            self._index(name, entry.samples) for name, entry in zip(self.shards, self.manifest.shards, strict=True)
        ]
        self.starts = np.concatenate([[0], np.cumsum([t.num_rows for t in tables])]).astype(np.int64)

        def plain(column: str, dtype: Any) -> NDArray[Any]:
            return np.concatenate([np.asarray(t.column(column), dtype) for t in tables])

        def lists(column: str, dtype: Any) -> _Lists:
            return _Lists([c for t in tables for c in t.column(column).chunks], dtype)

        self.keys: list[str] = [key for t in tables for key in t.column("key").to_pylist()]
        self._json = (plain("json_offset", np.int64), plain("json_size", np.int64), plain("json_hash", np.uint64))
        self._image = (lists("image_offset", np.int64), lists("image_size", np.int64), lists("image_hash", np.uint64))
        self.widths, self.heights = lists("width", np.int32), lists("height", np.int32)
        self.text_chars = plain("text_chars", np.int32)

    def _index(self, shard: str, samples: int) -> Any:
        path = join(self.folder, f"{shard}.index.parquet")
        if not exists(path):
            raise UserError(f"{path} is missing: the dataset is damaged; run `looksay data verify {self.folder}`")
        table = read_table(read_bytes(path))
        if table.num_rows != samples:
            raise UserError(
                f"{path} has {table.num_rows} samples, the manifest says {samples}: run `looksay data verify`"
            )
        return table

    def __len__(self) -> int:
        return int(self.starts[-1])

    def shard_of(self, index: int) -> str:
        return self.shards[int(np.searchsorted(self.starts, index, side="right")) - 1]

    def sizes(self, index: int) -> list[tuple[int, int]]:
        """(width, height) of each picture, in pixels."""
        return [(int(w), int(h)) for w, h in zip(self.widths[index], self.heights[index], strict=True)]

    def image_hashes(self, index: int) -> list[int]:
        return [int(value) for value in self._image[2][index]]

    def read(self, index: int) -> StoredSample:
        """The sample's conversation and encoded pictures, each member checked against its hash.

        Raises:
            BadSample: the bytes are wrong.
            RunError: the storage did not answer for RETRY_SECONDS.
        """
        conversation, path = self.conversation(index), self._tar(index)
        images = [
            self._member(path, index, int(offset), int(size), int(hashed))
            for offset, size, hashed in zip(*(part[index] for part in self._image), strict=True)
        ]
        return StoredSample(conversation, images)

    def conversation(self, index: int) -> Conversation:
        """The text side alone: pictures are not touched. Raises as `read` does."""
        path = self._tar(index)
        offset, size, hashed = (int(part[index]) for part in self._json)
        body = self._member(path, index, offset, size, hashed)
        try:
            return parse_body(body)
        except (ValueError, KeyError, TypeError) as error:
            raise self._bad(path, index, offset, size, f"JSON: {error}") from None

    def _tar(self, index: int) -> str:
        return join(self.folder, f"{self.shard_of(index)}.tar")

    def _bad(self, path: str, index: int, offset: int, size: int, reason: str) -> BadSample:
        return BadSample(path, self.keys[index], offset, offset + size, reason)

    def _member(self, path: str, index: int, offset: int, size: int, hashed: int) -> bytes:
        data = _patiently(path, lambda: self._range(path, offset, size))
        if len(data) != size or digest(data) != hashed:
            raise self._bad(path, index, offset, size, "the bytes do not have their hash")
        return data

    def _range(self, path: str, offset: int, size: int) -> bytes:
        return read_range(path, offset, size) if is_remote(path) else self._maps(path)[offset : offset + size]


def _mapped(path: str) -> mmap.mmap:
    with open(path, "rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _patiently(path: str, read: Callable[[], bytes]) -> bytes:
    """What `read` gives. A failure outside the bytes (time-out, lost disk) is retried to a deadline, then ends the job."""
    end, pause = time.monotonic() + RETRY_SECONDS, 0.5
    while True:
        try:
            return read()
        except FileNotFoundError:
            raise RunError(f"{path} is gone: the dataset changed under the run; run `looksay data verify`") from None
        except OSError as error:
            if time.monotonic() > end:
                raise RunError(
                    f"{path} could not be read for {RETRY_SECONDS:.0f} s ({error}): check the storage"
                ) from error
            time.sleep(pause)
            pause = min(pause * 2, 10.0)
