"""Where a window starts: a place in each source's draw order, and the few samples that the window before left over.

From it the window is a pure function of recipe and data. It is small (a few hundred left-over samples, delta-coded), so
a checkpoint keeps one, and plan.log keeps that of every window.
"""

import base64
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_CARRIED = 1 << 20
"""A bound for what a damaged state may ask for."""


@dataclass(frozen=True)
class Cursor:
    """How far a source is drawn: `offset` drawable samples of that group of that epoch are behind, `drawn` in all."""

    epoch: int = 0
    group: int = 0
    offset: int = 0
    drawn: int = 0


@dataclass(frozen=True)
class Carry:
    """Left-over samples, sorted by (source, epoch, index); `age` counts the windows that they have waited."""

    source: NDArray[np.int32]
    epoch: NDArray[np.int32]
    index: NDArray[np.int64]
    age: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.index)

    @staticmethod
    def of(source: Any, epoch: Any, index: Any, age: Any) -> "Carry":
        order = np.lexsort((index, epoch, source))
        columns = (np.asarray(column)[order] for column in (source, epoch, index, age))
        return Carry(*(column.astype(kind) for column, kind in zip(columns, ("i4", "i4", "i8", "i4"), strict=True)))


@dataclass(frozen=True)
class WindowStart:
    """State before a window: cursors and credit (wanted minus drawn, in the mixture's unit) by source, and the carry."""

    cursors: tuple[Cursor, ...]
    credit: tuple[float, ...]
    carry: Carry
    longest: int = 1
    """Tokens of the longest sample that the mixture has seen."""

    @staticmethod
    def first(sources: int) -> "WindowStart":
        nothing = np.zeros(0, np.int64)
        return WindowStart((Cursor(),) * sources, (0.0,) * sources, Carry.of(nothing, nothing, nothing, nothing))

    def to_json(self) -> dict[str, Any]:
        return {
            "cursors": [[c.epoch, c.group, c.offset, c.drawn] for c in self.cursors],
            "credit": list(self.credit),
            "longest": self.longest,
            "carry": base64.b85encode(zlib.compress(_packed(self.carry), 9)).decode(),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> "WindowStart":
        """Raises ValueError or KeyError where `data` is no state."""
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(base64.b85decode(data["carry"]), 64 * MOST_CARRIED)
        return WindowStart(
            tuple(Cursor(int(e), int(g), int(o), int(d)) for e, g, o, d in data["cursors"]),
            tuple(float(c) for c in data["credit"]),
            _unpacked(raw),
            int(data["longest"]),
        )


def _packed(carry: Carry) -> bytes:
    """LEB128 numbers: how many, then for each sample source step, epoch, index (a step where both are as before), age."""
    numbers = [len(carry)]
    before = (0, -1, 0)
    for source, epoch, index, age in _rows(carry):
        same = (source, epoch) == before[:2]
        numbers += [source - before[0], epoch, index - before[2] if same else index, age]
        before = (source, epoch, index)
    return b"".join(map(_leb128, numbers))


def _unpacked(data: bytes) -> Carry:
    values = _numbers(data)
    rows = []
    before = (0, -1, 0)
    for _ in range(next(values)):
        step, epoch, index, age = (next(values) for _ in range(4))
        source = before[0] + step
        index += before[2] if (source, epoch) == before[:2] else 0
        before = (source, epoch, index)
        rows.append((source, epoch, index, age))
    columns: Sequence[Any] = tuple(zip(*rows, strict=True)) or ((), (), (), ())
    return Carry.of(*(np.array(column, np.int64) for column in columns))


def _rows(carry: Carry) -> Iterator[tuple[int, int, int, int]]:
    columns = (carry.source, carry.epoch, carry.index, carry.age)
    return zip(*(column.tolist() for column in columns), strict=True)


def _leb128(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _numbers(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value
            value = shift = 0
    raise ValueError("the carried samples are cut short")
