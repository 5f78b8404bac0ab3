"""Samples of all sources in the order in which they are drawn: each source by its own order, the mixture between them."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data_pipeline.stream.plan.mixture import Mixture
from data_pipeline.stream.plan.order import Order, Span
from data_pipeline.stream.plan.rows import Drawn
from data_pipeline.stream.plan.state import Cursor

LOOK = 4
"""Groups of a source that are held ready: a mixture draws a little from each at a time."""
NOTHING = np.zeros(0, np.int32)


class Lengths(Protocol):
    """What the planner reads of a source."""

    label: str
    starts: NDArray[np.int64]
    """[shards + 1] cumulative samples."""
    identity: dict[str, str]

    def shard_name(self, number: int) -> str: ...

    def read(self, spans: Sequence[Span], epoch: int = 0) -> Drawn:
        """Samples of the spans in their order; `tokens` is 0 (unreadable) or -1 (too long) where one is never drawn."""
        ...

    def lookup(self, index: NDArray[np.int64], epoch: NDArray[np.int32]) -> Drawn: ...


@dataclass
class _Group:
    """What is left of a group: `offset` drawable samples of it are behind."""

    epoch: int
    group: int
    offset: int
    samples: Drawn


class Supply:
    """The drawable samples of one source from a cursor on. `unreadable` and `too_long` count what was passed over."""

    def __init__(self, lengths: Lengths, order: Order, cursor: Cursor):
        self.lengths, self.order, self.drawn = lengths, order, cursor.drawn
        self.unreadable = self.too_long = 0
        self._next = (cursor.epoch, cursor.group)
        self._skip = cursor.offset
        self._ready: deque[_Group] = deque()

    @property
    def cursor(self) -> Cursor:
        """Where the next sample stands."""
        if self._ready:
            head = self._ready[0]
            return Cursor(head.epoch, head.group, head.offset, self.drawn)
        return Cursor(*self._next, self._skip, self.drawn)

    def ready(self) -> NDArray[np.int32]:
        """Tokens of the samples that can be taken now: at least one.

        Raises:
            UserError: a whole epoch of the source holds nothing that can be drawn.
        """
        barren = 0
        while len(self._ready) < LOOK:
            group = self._read()
            if len(group.samples):
                self._ready.append(group)
                continue
            barren += 1
            if barren >= self.order.groups and not self._ready:
                raise self._nothing()
        return np.concatenate([group.samples.tokens for group in self._ready])

    def _read(self) -> _Group:
        epoch, number = self._next
        if not self.order.groups:
            raise self._nothing()
        found = self.lengths.read(self.order.spans(epoch, number), epoch)
        found = found[self.order.shuffle(epoch, number, len(found))]
        self.unreadable += int((found.tokens == 0).sum())
        self.too_long += int((found.tokens < 0).sum())
        group = _Group(epoch, number, self._skip, found[found.tokens > 0][self._skip :])
        self._skip = 0
        self._next = (epoch, number + 1) if number + 1 < self.order.groups else (epoch + 1, 0)
        return group

    def take(self, count: int) -> Drawn:
        """The next `count` samples of those that are ready."""
        parts = []
        self.drawn += count
        while count:
            head = self._ready[0]
            part = head.samples[:count]
            parts.append(part)
            count -= len(part)
            head.samples, head.offset = head.samples[len(part) :], head.offset + len(part)
            if not len(head.samples):
                self._ready.popleft()
        return Drawn.joined(parts)

    def _nothing(self) -> UserError:
        total = int(self.lengths.starts[-1])
        return UserError(
            f"source {self.lengths.label}: none of its {total} samples can be drawn ({self.too_long} longer than a row, "
            f"{self.unreadable} without readable text): raise data.packing.length, or set data.long_samples"
        )


def draw(supplies: Sequence[Supply], mixture: Mixture, tokens: int) -> list[Drawn]:
    """Samples in draw order until they hold at least `tokens` tokens; supplies and mixture move on."""
    parts: list[Drawn] = []
    while tokens > 0:
        ready = [supply.ready() if drawn else NOTHING for supply, drawn in zip(supplies, mixture.drawn, strict=True)]
        choices = mixture.draw(ready, tokens)
        counts = np.bincount(choices, minlength=len(supplies))
        taken = [supply.take(int(n)) for supply, n in zip(supplies, counts, strict=True) if n]
        by_source = Drawn.joined(taken)
        # by_source has source after source; the draws interleave them.
        place = np.empty(len(choices), np.int64)
        place[np.argsort(choices, kind="stable")] = np.arange(len(choices))
        part = by_source[place] if len(taken) > 1 else by_source
        parts.append(part)
        tokens -= int(part.tokens.sum())
    return parts
