"""A shard's counts as bytes: fixed records, so that any run of samples is three short reads at known places.

    header    magic, samples, pictures, runs, bytes of a key, of a size, of a run
    records   [n + 1] first picture, first run, text tokens before the last picture (the last record closes the lists)
    keys      [n] fixed width
    sizes     width and height of every picture
    runs      text tokens of a sample, alternately not learned and learned, beginning with not learned

A sample whose bytes are bad has no runs: no length, so it is never drawn. Numbers are little-endian, 2 bytes where all
of them fit into 2, else 4.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError

MAGIC = b"LSCOUNT1"
HEADER = struct.Struct("<8sQQQHHHxx")
RECORD = np.dtype([("picture", "<u4"), ("run", "<u4"), ("last_image", "<u4")])

ReadRange = Callable[[int, int], bytes]
"""(offset, size) -> bytes of the file."""


@dataclass(frozen=True)
class Counts:
    """A run of samples: key [n], text before the last picture [n]; sizes [pictures, 2] and runs as lists by offsets."""

    key: NDArray[np.bytes_]
    last_image: NDArray[np.int64]
    pictures: NDArray[np.int64]
    """[n + 1] sizes[pictures[i]:pictures[i + 1]] are sample i's."""
    sizes: NDArray[np.int64]
    """[p, 2] width, height."""
    run_starts: NDArray[np.int64]
    """[n + 1]"""
    runs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.key)

    @staticmethod
    def joined(parts: "Sequence[Counts]") -> "Counts":
        """Runs one after the other."""

        def offsets(columns: list[NDArray[np.int64]]) -> NDArray[np.int64]:
            return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(column) for column in columns]))])

        if len(parts) == 1:
            return parts[0]
        return Counts(
            np.concatenate([part.key for part in parts]),
            np.concatenate([part.last_image for part in parts]),
            offsets([part.pictures for part in parts]),
            np.concatenate([part.sizes for part in parts]),
            offsets([part.run_starts for part in parts]),
            np.concatenate([part.runs for part in parts]),
        )


def to_bytes(counts: Counts) -> bytes:
    """The file of a shard."""
    records = np.zeros(len(counts) + 1, RECORD)
    records["picture"], records["run"] = counts.pictures, counts.run_starts
    records["last_image"][:-1] = counts.last_image
    key = np.asarray(counts.key, np.bytes_)
    wide = [_width(counts.sizes), _width(counts.runs)]
    head = HEADER.pack(MAGIC, len(counts), len(counts.sizes), len(counts.runs), max(1, key.dtype.itemsize), *wide)
    lists = [
        np.asarray(values, f"<u{size}").tobytes()
        for values, size in zip((counts.sizes, counts.runs), wide, strict=True)
    ]
    return b"".join([head, records.tobytes(), key.astype(f"S{max(1, key.dtype.itemsize)}").tobytes(), *lists])


def _width(values: NDArray[np.int64]) -> int:
    return 2 if not values.size or int(values.max()) < 1 << 16 else 4


@dataclass(frozen=True)
class Shape:
    """What a header says: enough to know where everything is."""

    samples: int
    pictures: int
    runs: int
    key: int
    size: int
    run: int

    @property
    def keys_at(self) -> int:
        return HEADER.size + RECORD.itemsize * (self.samples + 1)

    @property
    def sizes_at(self) -> int:
        return self.keys_at + self.key * self.samples

    @property
    def runs_at(self) -> int:
        return self.sizes_at + 2 * self.size * self.pictures

    @property
    def bytes(self) -> int:
        """Of the whole file."""
        return self.runs_at + self.run * self.runs


def read_shape(path: str, read: ReadRange) -> Shape:
    """Raises UserError where the file is none of these."""
    head = read(0, HEADER.size)
    if len(head) == HEADER.size:
        magic, *numbers = HEADER.unpack(head)
        if magic == MAGIC:
            return Shape(*numbers)
    raise UserError(f"{path} holds no counts: delete it, and it is counted again")


def read_run(path: str, read: ReadRange, shape: Shape, start: int, stop: int) -> Counts:
    """Samples start ... stop - 1 of the shard.

    Raises:
        UserError: the file is cut short.
    """
    count = stop - start
    records = np.frombuffer(
        _all(path, read, HEADER.size + RECORD.itemsize * start, RECORD.itemsize * (count + 1)), RECORD
    )
    key = np.frombuffer(_all(path, read, shape.keys_at + shape.key * start, shape.key * count), f"S{shape.key}")
    pictures, runs = records["picture"].astype(np.int64), records["run"].astype(np.int64)
    pair = 2 * shape.size
    sizes = _all(path, read, shape.sizes_at + pair * int(pictures[0]), pair * int(pictures[-1] - pictures[0]))
    values = _all(path, read, shape.runs_at + shape.run * int(runs[0]), shape.run * int(runs[-1] - runs[0]))
    return Counts(
        key,
        records["last_image"][:-1].astype(np.int64),
        pictures - pictures[0],
        np.frombuffer(sizes, f"<u{shape.size}").astype(np.int64).reshape(-1, 2),
        runs - runs[0],
        np.frombuffer(values, f"<u{shape.run}").astype(np.int64),
    )


def _all(path: str, read: ReadRange, offset: int, size: int) -> bytes:
    data = read(offset, size) if size else b""
    if len(data) != size:
        raise UserError(f"{path} is cut short: delete it, and it is counted again")
    return data
