"""Sources made of numbers alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.stream.plan.order import Span
from data_pipeline.stream.plan.planner import Planner
from data_pipeline.stream.plan.rows import Drawn
from data_pipeline.stream.plan.window import PlanSettings


class Table:
    """A source of given lengths; text alone where `tile` is 0, else pictures of up to that many patches."""

    def __init__(self, label: str, tokens: Any, shards: int = 3, tile: int = 256):
        self.label, self.tokens, self.tile = label, np.asarray(tokens, np.int32), tile
        self.starts = np.linspace(0, len(self.tokens), shards + 1).astype(np.int64)
        self.identity = {"dataset": f"{label}-{len(self.tokens)}"}
        self.source = 0

    def shard_name(self, number: int) -> str:
        return f"{number:05d}"

    def read(self, spans: Sequence[Span], epoch: int = 0) -> Drawn:
        parts = [np.arange(start, stop) + self.starts[shard] for shard, start, stop in spans]
        return self._columns(np.concatenate(parts), np.int32(epoch))

    def lookup(self, index: NDArray[np.int64], epoch: NDArray[np.int32]) -> Drawn:
        return self._columns(index, epoch)

    def _columns(self, index: NDArray[np.int64], epoch: Any) -> Drawn:
        n = len(index)
        tokens = self.tokens[index]
        images = (index % 4 > 0).astype(np.int32) if self.tile else np.zeros(n, np.int32)
        shard = (np.searchsorted(self.starts, index, side="right") - 1).astype(np.int32)
        key = np.array([b"%012d" % i for i in index], "S12")
        whole = np.full(n, self.source, np.int32)
        visual = np.minimum(images * 16, np.maximum(tokens, 0))
        return Drawn(
            whole,
            np.zeros(n, np.int32) + epoch,
            index,
            shard,
            key,
            tokens,
            tokens // 4,
            visual,
            images * self.tile,
            images,
        )


def lengths(count: int, seed: int = 0, low: int = 10, high: int = 200) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(low, high, count).astype(np.int32)


def planner(
    *tables: Table, weights: Any = None, settings: dict[str, Any] | None = None, seed: int = 0, **more: Any
) -> Planner:
    for number, table in enumerate(tables):
        table.source = number
    known = {"length": 256, "rows_per_step": 8, "window_steps": 8, "chunk": 8, **(settings or {})}
    return Planner(tables, weights or (lambda step: [1.0] * len(tables)), PlanSettings(**known), seed, **more)
