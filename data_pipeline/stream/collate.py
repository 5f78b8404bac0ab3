"""Samples -> Batch: pure, and it produces exactly what the planner counted, or says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.stream.batch import NO_TARGET, Batch, RowInfo, Vision
from data_pipeline.stream.chat import Encoded
from data_pipeline.stream.images import fit, to_patches
from data_pipeline.stream.layout import Geometry, grid_of, layout


@dataclass(frozen=True)
class Ready:
    """One sample with all that a row needs: tokens and either pictures [H, W, 3] or their features [tokens, C]."""

    encoded: Encoded
    sizes: Sequence[tuple[int, int]]
    images: Sequence[NDArray[np.uint8]] | None = None
    features: Sequence[NDArray[Any]] | None = None
    info: dict[str, Any] | None = None
    learn: bool = True
    """False makes it a filler: the same shape, no target."""


@dataclass(frozen=True)
class Wide:
    """A sample after its pictures are widened to visual tokens."""

    ids: NDArray[np.int64]
    labels: NDArray[np.bool_]
    slots: NDArray[np.int64]
    grids: list[tuple[int, int]]


def widen(encoded: Encoded, sizes: Sequence[tuple[int, int]], geometry: Geometry) -> Wide:
    """Repeat each image id once per visual token of its picture."""
    grids = [grid_of(width, height, geometry) for width, height in sizes]
    if len(grids) != len(encoded.slots):
        raise ValueError(f"{len(encoded.slots)} image slots for {len(grids)} pictures")
    repeats = np.ones(len(encoded.ids), np.int64)
    repeats[encoded.slots] = [rows * columns for rows, columns in grids]
    is_slot = np.zeros(len(encoded.ids), bool)
    is_slot[encoded.slots] = True
    return Wide(
        np.repeat(encoded.ids, repeats),
        np.repeat(encoded.labels, repeats),
        np.flatnonzero(np.repeat(is_slot, repeats)),
        grids,
    )


def collate(
    rows: Sequence[Sequence[Ready]],
    length: int,
    geometry: Geometry,
    pad_id: int,
    *,
    cnn: bool,
    cached: bool = False,
    denominator: float | None = None,
    numbers: Sequence[int] | None = None,
) -> Batch:
    """Rows of samples -> one micro-step.

    Args:
        rows: samples of each row, in order; an empty row is a dummy.
        length: L; a row must not be longer.
        cnn: pictures become `images` (one by one) rather than `patches`.
        cached: they come as features, also where no row has a picture.
        denominator: N of the step; none: the labels of this batch.
        numbers: number of each row within its step, -1 for a dummy.
    Raises:
        ValueError: a row does not fit, or a picture does not have the planned number of visual tokens.
    """
    maker = _Maker(rows, length, geometry, pad_id, cnn)
    maker.cached |= cached
    for number, samples in enumerate(rows):
        maker.row(number, samples, numbers[number] if numbers is not None else number)
    return maker.batch(denominator)


class _Maker:
    def __init__(self, rows: Sequence[Sequence[Ready]], length: int, geometry: Geometry, pad_id: int, cnn: bool):
        count = len(rows)
        self.length, self.geometry, self.cnn = length, geometry, cnn
        self.ids = np.full((count, length), pad_id, np.int64)
        self.targets = np.full((count, length), NO_TARGET, np.int64)
        self.positions = np.zeros((count, length), np.int64)
        self.segments: list[tuple[int, int, int]] = []
        self.slots: list[NDArray[np.int64]] = []
        self.grids: list[tuple[int, int]] = []
        self.features: list[NDArray[Any]] = []
        self.images: list[NDArray[np.uint8]] = []
        self.infos: list[RowInfo] = []
        self.cached = any(sample.features is not None for samples in rows for sample in samples)

    def row(self, index: int, samples: Sequence[Ready], number: int) -> None:
        start = visual = patches = 0
        for sample in samples:
            wide = widen(sample.encoded, sample.sizes, self.geometry)
            planned = layout(
                tuple(sample.sizes), sample.encoded.text_tokens, sample.encoded.label_tokens, self.geometry
            )
            count = len(wide.ids)
            if count != planned.tokens or start + count > self.length:
                raise ValueError(
                    f"a sample of {count} tokens (planned {planned.tokens}) at {start} of a row of {self.length}"
                )
            end = start + count
            self.ids[index, start:end] = wide.ids
            self.positions[index, start:end] = np.arange(count)
            if sample.learn:
                # Position t predicts t + 1 of its own segment; the first token of a segment is nobody's target.
                learned = np.flatnonzero(wide.labels[1:])
                self.targets[index, start + learned] = wide.ids[1:][learned]
            base = index * self.length + start
            self.segments.append((base, base, base + count))
            self.slots.append(base + wide.slots)
            self.grids += wide.grids
            self._pictures(sample, wide.grids)
            start, visual, patches = end, visual + planned.visual_tokens, patches + planned.patches
        labels = int((self.targets[index] != NO_TARGET).sum())
        infos = tuple(sample.info or {} for sample in samples)
        self.infos.append(RowInfo(number, infos, start, visual, patches, labels))

    def _pictures(self, sample: Ready, grids: list[tuple[int, int]]) -> None:
        if sample.features is not None:
            for features, (rows, columns) in zip(sample.features, grids, strict=True):
                if len(features) != rows * columns:
                    raise ValueError(f"{len(features)} cached features for {rows} x {columns} visual tokens")
                self.features.append(features)
            return
        for picture, (rows, columns) in zip(sample.images or (), grids, strict=True):
            self.images.append(fit(picture, rows, columns, self.geometry.cell))

    def vision(self) -> Vision:
        slots = np.concatenate(self.slots) if self.slots else np.zeros(0, np.int64)
        grids = np.array(self.grids, np.int32).reshape(-1, 2)
        if self.cached:
            features = np.concatenate(self.features) if self.features else np.zeros((0, 1), np.float16)
            return Vision(slots, grids, features=features)
        if self.cnn:
            return Vision(slots, grids, images=self.images)
        cut = [to_patches(picture, self.geometry.patch, self.geometry.merge) for picture in self.images]
        width = 3 * self.geometry.patch**2
        return Vision(
            slots,
            grids,
            patches=np.concatenate([c[0] for c in cut]) if cut else np.zeros((0, width), np.uint8),
            patch_positions=np.concatenate([c[1] for c in cut]) if cut else np.zeros((0, 2), np.int32),
            patch_segments=np.cumsum([0, *(len(c[0]) for c in cut)]).astype(np.int64),
        )

    def batch(self, denominator: float | None) -> Batch:
        labels = self.targets != NO_TARGET
        return Batch(
            ids=self.ids,
            targets=self.targets,
            weights=labels.astype(np.float32),
            positions=np.broadcast_to(self.positions, (3, *self.positions.shape)),
            segments=np.array(self.segments, np.int64).reshape(-1, 3),
            vision=self.vision(),
            denominator=float(labels.sum()) if denominator is None else denominator,
            rows=tuple(self.infos),
        )
