"""Which part of a stored piece is which part of a wanted one: slices of tensor parallelism, flat ranges of ZeRO.

A slice is a matrix: R rows (what lies before the cut axis), C columns (the cut axis and what follows). A flat range
of a matrix is at most three rectangles; two slices of a tensor are rectangles of the same columns, shifted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple


@dataclass(frozen=True)
class Span:
    """Elements start ... stop - 1 of the flattened slice [offset, offset + size) on `axis` of a tensor of `shape`."""

    shape: tuple[int, ...]
    axis: int | None
    offset: int
    size: int | None
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> int:
        return 1 if self.axis is None else prod(self.shape[: self.axis])

    @property
    def columns(self) -> int:
        if self.axis is None or self.size is None:
            return prod(self.shape)
        return self.size * prod(self.shape[self.axis + 1 :])

    @property
    def shift(self) -> int:
        """Column of the whole tensor at which the slice begins."""
        return 0 if self.axis is None else self.offset * prod(self.shape[self.axis + 1 :])


class Block(NamedTuple):
    """`rows` runs of `width` elements: from `source` on, `source_stride` apart, to `target` on, `target_stride` apart."""

    rows: int
    width: int
    source: int
    source_stride: int
    target: int
    target_stride: int


def blocks(stored: Span, wanted: Span) -> Iterator[Block]:
    """What of `wanted` lies in `stored`; positions count from the first element of each span."""
    axis = stored.axis if wanted.axis is None else wanted.axis
    stored, wanted = _cut_on(stored, axis), _cut_on(wanted, axis)
    for r0, r1, c0, c1 in _rectangles(stored):
        for s0, s1, d0, d1 in _rectangles(wanted):
            low, high = max(r0, s0), min(r1, s1)
            left = max(c0 + stored.shift, d0 + wanted.shift)
            right = min(c1 + stored.shift, d1 + wanted.shift)
            if low >= high or left >= right:
                continue
            source = low * stored.columns + left - stored.shift - stored.start
            target = low * wanted.columns + left - wanted.shift - wanted.start
            rows, width = high - low, right - left
            if rows > 1 and width == stored.columns == wanted.columns:
                rows, width = 1, rows * width
            yield Block(rows, width, source, stored.columns, target, wanted.columns)


def _cut_on(span: Span, axis: int | None) -> Span:
    """A span of the whole tensor as one of a slice that is all of it: the same elements in the same order."""
    if axis is None or span.axis == axis:
        return span
    if span.axis is not None:
        raise ValueError(f"a tensor of shape {span.shape} is cut on axis {span.axis} and on axis {axis}")
    return replace(span, axis=axis, offset=0, size=span.shape[axis])


def _rectangles(span: Span) -> Iterator[tuple[int, int, int, int]]:
    """(first row, last row + 1, first column, last column + 1) of a flat range: a part row, whole rows, a part row."""
    columns = span.columns
    if span.start >= span.stop:
        return
    first, begin = divmod(span.start, columns)
    last, end = divmod(span.stop, columns)
    if first == last:
        yield first, first + 1, begin, end
        return
    if begin:
        yield first, first + 1, begin, columns
        first += 1
    if first < last:
        yield first, last, 0, columns
    if end:
        yield last, last + 1, 0, end
