"""The production planner on bare lengths: one epoch of a length set, as `looksay data pack --lengths` packs it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from data_pipeline.stream.plan.order import Order, Span
from data_pipeline.stream.plan.rows import Drawn
from data_pipeline.stream.plan.state import Carry
from data_pipeline.stream.plan.window import PlanSettings, Window, pack_window


@dataclass(frozen=True)
class LengthSet:
    """tokens [n] and vision load [n] of samples; `vision_unit` of that load are a tile of 1024 patches."""

    tokens: NDArray[np.int64]
    vision: NDArray[np.int64]
    vision_unit: float

    @staticmethod
    def load(path: str | Path) -> "LengthSet":
        """An .npz of `tokens`, `vision` and `vision_unit`.

        Raises:
            UserError: it is none.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                found = LengthSet(
                    data["tokens"].astype(np.int64), data["vision"].astype(np.int64), float(data["vision_unit"])
                )
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(
                f"{path} is no length set ({error}): it needs the arrays tokens, vision and vision_unit"
            ) from None
        if found.tokens.ndim != 1 or found.tokens.shape != found.vision.shape or found.vision_unit <= 0:
            raise UserError(f"{path}: tokens and vision must be lists of the same length, vision_unit above 0")
        if len(found.tokens) and (int(found.tokens.min()) < 1 or int(found.vision.min()) < 0):
            raise UserError(f"{path}: a sample of less than one token, or of negative vision load")
        return found


class BareLengths:
    """A length set as the planner's source: one shard, no bytes behind it."""

    label = "lengths"

    def __init__(self, lengths: LengthSet, length: int):
        self.lengths, self.length = lengths, length
        self.starts = np.array([0, len(lengths.tokens)], np.int64)
        self.identity: dict[str, str] = {}

    def shard_name(self, number: int) -> str:
        return f"{number:05d}"

    def read(self, spans: Sequence[Span], epoch: int = 0) -> Drawn:
        return self._samples(np.concatenate([np.arange(start, stop) for _, start, stop in spans]), epoch)

    def lookup(self, index: NDArray[np.int64], epoch: NDArray[np.int32]) -> Drawn:
        return self._samples(index, 0)

    def _samples(self, index: NDArray[np.int64], epoch: int) -> Drawn:
        tokens, n = self.lengths.tokens[index], len(index)
        zeros = np.zeros(n, np.int32)
        patches = (self.lengths.vision[index] * (1024 / self.lengths.vision_unit)).astype(np.int32)
        fitting: NDArray[np.int32] = np.where(tokens > self.length, -1, tokens).astype(np.int32)
        key = np.full(n, b"", "S1")
        return Drawn(
            zeros,
            zeros + epoch,
            index.astype(np.int64),
            zeros,
            key,
            fitting,
            zeros,
            zeros,
            patches,
            (patches > 0).astype(np.int32),
        )


def pack_epoch(lengths: LengthSet, settings: PlanSettings, seed: int) -> Iterator[Window]:
    """Windows of one epoch. The last may be short: it places all that is left, in as many rows as that takes."""
    table = BareLengths(lengths, settings.length)
    order = Order(table.starts, settings.chunk, seed, 0)
    groups = iter(range(order.groups))
    pool = table.read([(0, 0, 0)])
    age = np.zeros(0, np.int32)
    number = 0
    while True:
        pool, age, more = _filled(pool, age, groups, table, order, settings.target)
        if not len(pool):
            return
        rng = np.random.Generator(np.random.Philox(key=[seed, (1 << 40) + number]))
        taken, rest = _cut(pool, settings.target, more)
        window, carry = pack_window(number, pool[:taken], age[:taken], settings, rng, final=not more)
        yield window
        pool, age = _again(carry, table, pool[taken:], rest)
        number += 1
        if not more:
            return


def _filled(
    pool: Drawn, age: NDArray[np.int32], groups: Iterator[int], table: BareLengths, order: Order, target: int
) -> tuple[Drawn, NDArray[np.int32], bool]:
    """Draw whole groups until there is enough for a window; False where the epoch ends before."""
    parts, have = [pool], int(pool.tokens.sum())
    while have <= target:
        number = next(groups, None)
        if number is None:
            break
        found = table.read(order.spans(0, number))
        found = found[order.shuffle(0, number, len(found))]
        found = found[found.tokens > 0]
        parts.append(found)
        have += int(found.tokens.sum())
    pool = Drawn.joined(parts)
    age = np.concatenate([age, np.zeros(len(pool) - len(age), np.int32)]).astype(np.int32)
    return pool, age, have > target


def _cut(pool: Drawn, target: int, more: bool) -> tuple[int, int]:
    """(samples of this window, samples drawn beyond it)."""
    if not more:
        return len(pool), 0
    taken = int(np.searchsorted(np.cumsum(pool.tokens), target)) + 1
    return taken, len(pool) - taken


def _again(carry: Carry, table: BareLengths, ahead: Drawn, count: int) -> tuple[Drawn, NDArray[np.int32]]:
    waiting = table.lookup(carry.index, carry.epoch)
    return Drawn.joined([waiting, ahead]), np.concatenate([carry.age, np.zeros(count, np.int32)]).astype(np.int32)


def plan_columns(windows: Iterator[Window]) -> dict[str, Any]:
    """`sample` and `pack`, as a packing plan is scored: ids in the order of reading, and the row of each."""
    samples, packs, rows = [], [], 0
    for window in windows:
        samples.append(window.samples.index)
        packs.append(rows + np.repeat(np.arange(len(window.starts) - 1), np.diff(window.starts)))
        rows += len(window.starts) - 1
    if not samples:
        return {"sample": np.zeros(0, np.int64), "pack": np.zeros(0, np.int64)}
    return {"sample": np.concatenate(samples), "pack": np.concatenate(packs)}
