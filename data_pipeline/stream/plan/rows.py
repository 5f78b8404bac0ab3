"""What a plan says: columns of samples, and where each row begins. Plain arrays, so that they travel as bytes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Drawn:
    """Columns of samples [n], in a fixed order: what the planner knows of each without its bytes."""

    source: NDArray[np.int32]
    """Number of the source in the recipe."""
    epoch: NDArray[np.int32]
    """Which pass over its source, from 0."""
    index: NDArray[np.int64]
    """Number of the sample in its dataset, through all shards."""
    shard: NDArray[np.int32]
    """Number of its shard."""
    key: NDArray[np.bytes_]
    tokens: NDArray[np.int32]
    """Positions it fills in a row, under the recipe's layout and policy for long samples."""
    labels: NDArray[np.int32]
    """Planned label tokens."""
    visual: NDArray[np.int32]
    """Positions of `tokens` that pictures take."""
    patches: NDArray[np.int32]
    """Vision load: patches of all its pictures that the encoder sees."""
    images: NDArray[np.int32]
    """Pictures."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, which: Any) -> "Drawn":
        """The samples `which` (a slice, a mask or numbers)."""
        return Drawn(*(getattr(self, column.name)[which] for column in fields(self)))

    @staticmethod
    def joined(parts: "list[Drawn]") -> "Drawn":
        return Drawn(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Drawn)))


@dataclass(frozen=True)
class PlannedStep:
    """One optimizer step. Row r holds samples[starts[r]:starts[r + 1]], in that order."""

    step: int
    samples: Drawn
    starts: NDArray[np.int64]
    """[rows + 1]"""
    denominator: float
    """N: planned weight of all label tokens of the step."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, number: int) -> Drawn:
        """Samples of a row."""
        return self.samples[self.starts[number] : self.starts[number + 1]]

    def rows(self) -> Iterator[Drawn]:
        return (self.row(number) for number in range(len(self)))

    def part(self, rows: Sequence[int]) -> "PlannedStep":
        """The same step with these of its rows alone, in this order."""
        held = [self.row(row) for row in rows] or [self.samples[:0]]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in held])]) if rows else np.zeros(1)
        return PlannedStep(self.step, Drawn.joined(held), starts.astype(np.int64), self.denominator)

    def to_bytes(self) -> bytes:
        """A header of JSON, its length in front, and the columns one after the other."""
        columns = [getattr(self.samples, column.name) for column in fields(Drawn)]
        arrays = [np.ascontiguousarray(array) for array in (*columns, self.starts)]
        header = {
            "step": self.step,
            "denominator": self.denominator,
            "columns": [[a.dtype.str, len(a)] for a in arrays],
        }
        head = json.dumps(header).encode()
        return b"".join([len(head).to_bytes(8, "little"), head, *(a.tobytes() for a in arrays)])

    @staticmethod
    def from_bytes(data: bytes) -> "PlannedStep":
        size = int.from_bytes(data[:8], "little")
        header, offset = json.loads(data[8 : 8 + size]), 8 + size
        arrays = []
        for kind, count in header["columns"]:
            dtype = np.dtype(kind)
            arrays.append(np.frombuffer(data, dtype, count, offset))
            offset += count * dtype.itemsize
        return PlannedStep(header["step"], Drawn(*arrays[:-1]), arrays[-1], header["denominator"])
