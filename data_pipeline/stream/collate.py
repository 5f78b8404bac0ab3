"""Samples -> Batch: pure, and it produces exactly what the planner counted, or says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.stream.batch import NO_TARGET, Batch, RowInfo, Vision
from data_pipeline.stream.chat import Encoded
from data_pipeline.stream.images import patch_places, to_patches, views_of
from data_pipeline.stream.layout import Geometry, Layout, PictureLayout, layout, picture_layout
from data_pipeline.stream.positions import positions_of
from data_pipeline.stream.resolution import NEWLINE, slot_order


@dataclass(frozen=True)
class Ready:
    """One sample with all that a row needs: tokens and either pictures [H, W, 3] or their features [outputs, C]."""

    encoded: Encoded
    sizes: Sequence[tuple[int, int]]
    images: Sequence[NDArray[np.uint8]] | None = None
    features: Sequence[NDArray[Any]] | None = None
    info: dict[str, Any] | None = None
    learn: bool = True
    """False makes it a filler: the same shape, no target; without images its pictures are black."""
    planned: Layout | None = None
    """How it is laid out where that is not as a whole: pictures shrunk, text cut (`fit_sample`)."""

    def laid_out(self, geometry: Geometry) -> Layout:
        if self.planned is not None:
            return self.planned
        return layout(self.sizes, self.encoded.text_tokens, self.encoded.label_tokens, geometry)


@dataclass(frozen=True)
class Wide:
    """A sample after its pictures are widened to visual tokens."""

    ids: NDArray[np.int64]
    labels: NDArray[np.bool_]
    slots: NDArray[np.int64]
    """Places of all tokens of pictures, newlines among them."""
    grids: list[tuple[int, int]]
    """(rows, columns) of visual tokens of each view of each picture."""


def widen(encoded: Encoded, sizes: Sequence[tuple[int, int]], geometry: Geometry) -> Wide:
    """Repeat each image id once per token of its picture; text marks between its tiles get their own ids."""
    return _widened(encoded, [picture_layout(width, height, geometry) for width, height in sizes])


def _widened(encoded: Encoded, pictures: Sequence[PictureLayout]) -> Wide:
    if len(pictures) != len(encoded.slots):
        raise ValueError(f"{len(encoded.slots)} image slots for {len(pictures)} pictures")
    repeats = np.ones(len(encoded.ids), np.int64)
    repeats[encoded.slots] = [picture.tokens for picture in pictures]
    is_slot = np.zeros(len(encoded.ids), bool)
    is_slot[encoded.slots] = True
    ids, slots = np.repeat(encoded.ids, repeats), np.flatnonzero(np.repeat(is_slot, repeats))
    if any(picture.tiles is not None for picture in pictures):
        if encoded.picture_marks is None:
            raise ValueError("the tokenizer has no tokens for pictures of rows and columns")
        order = np.concatenate([slot_order(picture, newlines=False) for picture in pictures])
        marked = order < NEWLINE
        ids[slots[marked]] = encoded.picture_marks[NEWLINE - 1 - order[marked]]
    return Wide(
        ids,
        np.repeat(encoded.labels, repeats),
        slots,
        [grid for picture in pictures for grid in picture.grids],
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
        self.positions = np.zeros((3, count, length), np.int64)
        self.segments: list[tuple[int, int, int]] = []
        self.slots: list[NDArray[np.int64]] = []
        self.pictures: list[PictureLayout] = []
        self.features: list[NDArray[Any]] = []
        self.images: list[NDArray[np.uint8] | None] = []
        self.infos: list[RowInfo] = []
        self.cached = any(sample.features is not None for samples in rows for sample in samples)

    def row(self, index: int, samples: Sequence[Ready], number: int) -> None:
        start = visual = patches = 0
        for sample in samples:
            planned = sample.laid_out(self.geometry)
            encoded = sample.encoded
            if planned.text_tokens < encoded.text_tokens:
                encoded = encoded.truncated(planned.text_tokens)
            wide = _widened(encoded, planned.pictures)
            count = len(wide.ids)
            if count != planned.tokens or start + count > self.length:
                raise ValueError(
                    f"a sample of {count} tokens (planned {planned.tokens}) at {start} of a row of {self.length}"
                )
            end = start + count
            self.ids[index, start:end] = wide.ids
            self.positions[:, index, start:end] = positions_of(count, wide.slots, planned.pictures, self.geometry)
            if sample.learn:
                # Position t predicts t + 1 of its own segment; the first token of a segment is nobody's target.
                learned = np.flatnonzero(wide.labels[1:])
                self.targets[index, start + learned] = wide.ids[1:][learned]
            base = index * self.length + start
            self.segments.append((base, base + self._prefix(wide), base + count))
            self.slots.append(base + wide.slots)
            self._pictures(sample, planned.pictures)
            start, visual, patches = end, visual + planned.visual_tokens, patches + planned.patches
        labels = int((self.targets[index] != NO_TARGET).sum())
        infos = tuple(sample.info or {} for sample in samples)
        self.infos.append(RowInfo(number, infos, start, visual, patches, labels))

    def _prefix(self, wide: Wide) -> int:
        """Tokens that see each other both ways: all before the first learned one; none in a causal model."""
        if not self.geometry.prefix:
            return 0
        learned = np.flatnonzero(wide.labels)
        return int(learned[0]) if len(learned) else len(wide.ids)

    def _pictures(self, sample: Ready, planned: Sequence[PictureLayout]) -> None:
        self.pictures += planned
        if sample.features is not None:
            for features, picture in zip(sample.features, planned, strict=True):
                if len(features) != picture.outputs:
                    raise ValueError(f"{len(features)} cached features for {picture.outputs} visual tokens")
                self.features.append(features)
        elif sample.images is None:
            self.images += [None] * len(planned)
        else:
            if len(sample.images) != len(planned):
                raise ValueError(f"{len(sample.images)} pictures for {len(planned)} image slots")
            self.images += sample.images

    # ---- pictures ------------------------------------------------------------------------------------------

    def vision(self) -> Vision:
        slots, order, newlines = self._places()
        grids = np.array([grid for picture in self.pictures for grid in picture.grids], np.int32).reshape(-1, 2)
        views = np.array([len(picture.views) for picture in self.pictures], np.int64)
        whole = len(views) == len(grids)
        known: dict[str, Any] = {"order": order, "newlines": newlines, "views": None if whole else views}
        if self.cached:
            features = np.concatenate(self.features) if self.features else np.zeros((0, 1), np.float16)
            return Vision(slots, grids, features=features, **known)
        if self.cnn:
            return Vision(slots, grids, images=[view for views in self._views() for view in views], **known)
        return Vision(slots, grids, **self._patches(grids), **known)

    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, NDArray[np.int64]]:
        """(slots of visual tokens, which encoder output fills each, positions of newlines)."""
        slots = np.concatenate(self.slots) if self.slots else np.zeros(0, np.int64)
        if self.geometry.mode == "row_column":  # visual tokens go in order; the marks between them are text
            orders = [slot_order(picture, newlines=False) for picture in self.pictures]
            order = np.concatenate([np.zeros(0, np.int64), *(own for own in orders if own is not None)])
            return slots[order > NEWLINE], None, np.zeros(0, np.int64)
        if self.geometry.mode != "anyres":
            return slots, None, np.zeros(0, np.int64)
        parts, outputs = [np.zeros(0, np.int64)], 0
        for picture in self.pictures:
            own = slot_order(picture, newlines=True)
            assert own is not None
            parts.append(np.where(own == NEWLINE, NEWLINE, own + outputs))
            outputs += picture.outputs
        order = np.concatenate(parts)
        return slots[order != NEWLINE], order[order != NEWLINE], slots[order == NEWLINE]

    def _views(self) -> list[list[NDArray[np.uint8]]]:
        cell = self.geometry.cell
        out = []
        for image, planned in zip(self.images, self.pictures, strict=True):
            if image is None:  # a filler: black, in the planned shape
                out.append([np.zeros((v.rows * cell, v.columns * cell, 3), np.uint8) for v in planned.views])
            else:
                out.append(views_of(image, planned, cell))
        return out

    def _patches(self, grids: NDArray[np.int32]) -> dict[str, Any]:
        patch, merge = self.geometry.patch, self.geometry.merge
        counts = grids.astype(np.int64).prod(1) * merge**2
        bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        patches = np.empty((int(bounds[-1]), 3 * patch**2), np.uint8)
        number = 0
        for views in self._views():
            for view in views:
                to_patches(view, patch, merge, patches[bounds[number] : bounds[number + 1]])
                number += 1
        places = [patch_places(rows, columns, merge) for rows, columns in grids.tolist()]
        return {
            "patches": patches,
            "patch_positions": np.concatenate(places) if places else np.zeros((0, 2), np.int32),
            "patch_segments": bounds,
        }

    def batch(self, denominator: float | None) -> Batch:
        labels = self.targets != NO_TARGET
        return Batch(
            ids=self.ids,
            targets=self.targets,
            weights=labels.astype(np.float32),
            positions=self.positions,
            segments=np.array(self.segments, np.int64).reshape(-1, 3),
            vision=self.vision(),
            denominator=float(labels.sum()) if denominator is None else denominator,
            rows=tuple(self.infos),
        )
