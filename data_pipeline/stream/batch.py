"""The one object that the model eats. numpy only; torch begins in `pretrain/`.

Legend: B rows of this micro-step on this rank, L positions of a row, S segments, I pictures, W views of them (what the
encoder sees at once: whole pictures or tiles), O visual tokens that the encoder makes of the views, V of them that are
used, P patches, C channels of cached features. Positions in `slots`, `newlines` and `segments` are *flat*: row * L +
position.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_TARGET = -100


@dataclass(frozen=True)
class Vision:
    """Pictures of a batch, in the order of their visual tokens. Exactly one of features, images, patches is set.

    With no picture in the batch all arrays are empty; the model then runs a dummy so that ranks stay in lockstep.
    """

    slots: NDArray[np.int64]
    """[V] flat position of each visual token (ascending)."""
    grids: NDArray[np.int32]
    """[W, 2] rows and columns of visual tokens of each view."""
    features: NDArray[np.floating[Any]] | None = None
    """[O, C] cached output of a frozen encoder, before the projector (only where merge is 1)."""
    images: list[NDArray[np.uint8]] | None = None
    """W views [H, W, 3], H = rows * cell, W = columns * cell (a CNN's input)."""
    patches: NDArray[np.uint8] | None = None
    """[P, 3 * patch * patch] channel-first pixels of each patch; merge x merge patches of one token are neighbours."""
    patch_positions: NDArray[np.int32] | None = None
    """[P, 2] row and column of each patch in its view."""
    patch_segments: NDArray[np.int64] | None = None
    """[W + 1] cumulative patches: view i is patches[patch_segments[i]:patch_segments[i + 1]]."""
    order: NDArray[np.int64] | None = None
    """[V] which of the O tokens stands at each slot; none: all of them, in order."""
    newlines: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Flat positions that hold the learned newline token (ascending; anyres)."""
    views: NDArray[np.int64] | None = None
    """[I] views of each picture; none: one of each."""

    @property
    def pictures(self) -> int:
        return len(self.grids) if self.views is None else len(self.views)


@dataclass(frozen=True)
class RowInfo:
    """What one row holds, for logs, the ledger and `data stream`."""

    row: int
    """Number of the row within its step; -1 for a dummy row (no samples, no loss)."""
    samples: tuple[dict[str, Any], ...]
    """{source, epoch, shard, key[, filler: reason]} of each segment in order."""
    tokens: int
    visual: int
    """Positions of pictures, newlines among them."""
    patches: int
    labels: int


@dataclass(frozen=True)
class Batch:
    """One micro-step of one data-parallel rank."""

    ids: NDArray[np.int64]
    """[B, L] token ids; the image token's id at positions of a picture, the pad id after the last segment."""
    targets: NDArray[np.int64]
    """[B, L] id that position t must predict (already shifted inside its segment), NO_TARGET where none."""
    weights: NDArray[np.float32]
    """[B, L] weight of each target, 0 where there is none."""
    positions: NDArray[np.int64]
    """[3, B, L] position ids (time, height, width), from 0 in every segment."""
    segments: NDArray[np.int64]
    """[S, 3] flat (start, prefix_end, end) of each sample; prefix_end == start means causal throughout."""
    vision: Vision
    denominator: float
    """N of the whole optimizer step: the sum of planned weights over all its rows."""
    rows: tuple[RowInfo, ...] = field(default=())

    @property
    def label_tokens(self) -> int:
        return int((self.targets != NO_TARGET).sum())

    @property
    def real_tokens(self) -> int:
        return int((self.segments[:, 2] - self.segments[:, 0]).sum())
