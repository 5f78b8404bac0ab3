"""Samples -> Batch: pure, and it produces exactly what the planner counted, or says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.stream.batch import NO_TARGET, Batch, RowInfo, Vision
from data_pipeline.stream.chat import Encoded
from data_pipeline.stream.images import patch_places, to_patches, views_of
from data_pipeline.stream.layout import Geometry, Layout, PictureLayout, fit_sample, layout
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
    """How it is laid out where that is not as a whole: pictures shrunk, text cut (`fitted`)."""

    @property
    def layout(self) -> Layout:
        """`planned`, or the sample as a whole under no row's limit is what `laid_out` makes of it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Wide:
    """A sample after its pictures are widened to visual tokens."""

    ids: NDArray[np.int64]
    labels: NDArray[np.bool_]
    slots: NDArray[np.int64]
    """Places of all tokens of pictures, newlines among them."""
