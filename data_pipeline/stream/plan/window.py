"""One window: draw, pack, group, shuffle. A pure function of its start state."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.stream.plan.balance import Features, arrange
from data_pipeline.stream.plan.draw import Lengths
from data_pipeline.stream.plan.packing import pack
from data_pipeline.stream.plan.rows import Drawn, PlannedStep
from data_pipeline.stream.plan.state import Carry

SPARE_ROWS = 16
"""So many rows' worth of tokens more than fit are drawn: the last rows find samples of the very length that is missing."""

MOST_SOURCES = 16
"""So many sources' shares are evened out between steps."""


@dataclass(frozen=True)
class PlanSettings:
    """Plain numbers out of a recipe."""

    length: int
    rows_per_step: int
    window_steps: int
    chunk: int
    max_images_per_row: int | None = None
    max_patches_per_row: int | None = None
    max_carry_windows: int = 1
    balance: str = "group"

    @property
    def window_rows(self) -> int:
        return self.rows_per_step * self.window_steps

    @property
    def target(self) -> int:
        """Tokens, carried and drawn, that a window packs from."""
        return self.length * (self.window_rows + min(SPARE_ROWS, max(2, self.window_rows // 4)))


@dataclass(frozen=True)
class Window:
    """Planned rows: row r holds samples[starts[r]:starts[r + 1]]; `rows_per_step` of them are a step."""

    number: int
    samples: Drawn
    starts: NDArray[np.int64]
    settings: PlanSettings

    def step(self, step: int) -> PlannedStep:
        """Optimizer step `step` of the run, which must be one of this window's."""
        size = self.settings.rows_per_step
        first = (step - self.number * self.settings.window_steps) * size
        starts = self.starts[first : first + size + 1]
        samples = self.samples[starts[0] : starts[-1]]
        return PlannedStep(step, samples, starts - starts[0], float(samples.labels.sum()))


def carried(carry: Carry, tables: Sequence[Lengths]) -> tuple[list[Drawn], NDArray[np.int32]]:
    """The carry's samples with their lengths, in its order, and their ages."""
    parts = []
    for source, table in enumerate(tables):
        own = carry.source == source
        if own.any():
            parts.append(table.lookup(carry.index[own], carry.epoch[own]))
    return parts, carry.age


def _features(samples: Drawn, starts: NDArray[np.int64]) -> Features:
    """In what the steps of a window should be alike: samples (so mean length), plain text among them, each source's.

    Not in vision: rows are alike in it already, and what little it varies must not follow the windows.
    """
    text = samples.images == 0
    masks = [text] if 0 < text.sum() < len(text) else []
    sources = np.unique(samples.source).tolist()
    masks += [samples.source == source for source in sources[: MOST_SOURCES if len(sources) > 1 else 0]]
    counts = [np.add.reduceat(mask.astype(np.int64), starts[:-1]) for mask in masks]
    return [np.diff(starts), *counts]


def pack_window(
    number: int,
    pool: Drawn,
    age: NDArray[np.int32],
    settings: PlanSettings,
    rng: np.random.Generator,
    final: bool = False,
) -> tuple[Window, Carry]:
    """Rows out of the pool, and what is left for the next window.

    Args:
        age: [n] windows that each sample has waited.
        final: place everything, in as many rows as that takes.
    """
    order, starts, left = pack(
        pool.tokens,
        pool.patches,
        pool.images,
        age,
        settings.window_rows,
        settings.length,
        max_images=settings.max_images_per_row,
        max_patches=settings.max_patches_per_row,
        max_age=settings.max_carry_windows,
        final=final,
    )
    samples = pool[order]
    tokens, patches, attention = (
        np.add.reduceat(values, starts[:-1]) if len(values) else np.zeros(0, np.int64)
        for values in (
            samples.tokens.astype(np.int64),
            samples.patches.astype(np.int64),
            samples.tokens.astype(np.int64) ** 2,
        )
    )
    rows = arrange(
        tokens, patches, attention, _features(samples, starts), settings.rows_per_step, settings.balance, rng
    )
    sizes = np.diff(starts)[rows]
    ends = np.cumsum(sizes)
    # Position p of the new order is p - (its row's start) behind its row's old start.
    places = np.arange(len(samples)) + np.repeat(starts[:-1][rows] - (ends - sizes), sizes)
    window = Window(number, samples[places], np.concatenate([[0], ends]).astype(np.int64), settings)
    late = pool[left]
    return window, Carry.of(late.source, late.epoch, late.index, age[left] + 1)
