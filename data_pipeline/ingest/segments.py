"""Input rows as numbered positions, and units of work as runs of them: arithmetic, nothing is listed.

A *segment* is a run of rows of one input with the positions they have. A first build has one per input, positions
running on from input to input; an extension adds segments behind the last position. A *unit* is a run of at most
`unit_size` rows of one segment; units are numbered through all segments.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from data_pipeline.ingest.sources.inputs import Input


@dataclass(frozen=True)
class Segment:
    """Rows `start ... stop` of an input; the first has position `first`."""

    item: Input
    start: int
    stop: int
    first: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Unit:
    """Rows `start ... stop` of an input, positions from `first`; `only`: the positions among them that are done."""

    number: int
    item: Input
    start: int
    stop: int
    first: int
    only: tuple[int, ...] | None = None

    @property
    def positions(self) -> Sequence[int]:
        return self.only if self.only is not None else range(self.first, self.first + self.stop - self.start)


class Units:
    """All units of some segments, by number, and by position."""

    def __init__(self, segments: Sequence[Segment], size: int):
        self.segments, self.size = [segment for segment in segments if segment.rows], size
        self._starts = [0]
        for segment in self.segments:
            self._starts.append(self._starts[-1] + -(-segment.rows // size))
        self._firsts = [segment.first for segment in self.segments]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> Unit:
        if not 0 <= number < len(self):
            raise IndexError(number)
        which = bisect_right(self._starts, number) - 1
        segment, part = self.segments[which], number - self._starts[which]
        start = segment.start + part * self.size
        stop = min(segment.stop, start + self.size)
        return Unit(number, segment.item, start, stop, segment.first + part * self.size)

    def holding(self, position: int) -> Unit:
        """The unit that a position is in."""
        which = bisect_right(self._firsts, position) - 1
        segment = self.segments[which]
        if not 0 <= position - segment.first < segment.rows:
            raise IndexError(position)
        return self[self._starts[which] + (position - segment.first) // self.size]

    def restricted(self, positions: Iterator[int]) -> Iterator[Unit]:
        """Units of just these ascending positions, numbered anew from 0."""
        unit: Unit | None = None
        chosen: list[int] = []
        number = 0
        for position in positions:
            if unit is None or position >= unit.first + unit.stop - unit.start:
                if unit is not None:
                    yield replace(unit, number=number, only=tuple(chosen))
                    number += 1
                unit, chosen = self.holding(position), []
            chosen.append(position)
        if unit is not None:
            yield replace(unit, number=number, only=tuple(chosen))


def segments_of(inputs: Sequence[Input], first: int = 0) -> list[Segment]:
    """Whole inputs one after the other, positions from `first`."""
    out = []
    for item in inputs:
        out.append(Segment(item, 0, item.rows, first))
        first += item.rows
    return out
