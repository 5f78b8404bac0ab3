"""A Batch as tensors on the mesh's device, with its segments prepared once for all layers."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipeline.stream.batch import Batch
from pretrain.loads import inner_positions
from pretrain.model.attention import Segments


@dataclass(frozen=True)
class Inputs:
    """Legend of data_pipeline/stream/batch.py; B x L rows are flattened to T = B * L."""

    ids: Tensor
    """[T]"""
    positions: Tensor
    """[3, T]"""
    segments: Segments
    picked: Tensor
    """[K] flat positions whose next token is a target; at least one (weight 0) so that every rank runs the head."""
    targets: Tensor
    """[K]"""
    weights: Tensor
    """[K] fp32"""
    slots: Tensor
    """[V] flat positions of visual tokens."""
    order: Tensor | None
    """[V] which of the encoder's tokens stands at each slot; None: all of them, in order."""
    newlines: Tensor
    """[N] flat positions of the learned newline token."""
    features: Tensor | None
    """[O, C]"""
    images: list[np.ndarray] | None
    patches: Tensor | None
    patch_bounds: np.ndarray
    """[W, 2] start and end of each view's patches (host)."""
    patch_places: np.ndarray
    """[P, 2] row and column of each patch in its view (host)."""
    views: int
    """W"""
    inner: Tensor
    """[E] flat positions of visual tokens that another one of their segment follows: what a visual expert serves."""
    denominator: float


def to_inputs(batch: Batch, device: torch.device, backend: str = "auto") -> Inputs:
    """Move a batch to `device`. `backend` names the attention backend."""

    def put(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    flat_targets = batch.targets.reshape(-1)
    picked = np.flatnonzero(flat_targets >= 0)
    weights = batch.weights.reshape(-1)[picked]
    targets = flat_targets[picked]
    if len(picked) == 0:
        picked, targets, weights = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.float32)
    vision = batch.vision
    bounds = np.zeros((0, 2), np.int64)
    if vision.patch_segments is not None:
        bounds = np.stack([vision.patch_segments[:-1], vision.patch_segments[1:]], 1)
    ends, none = batch.segments[:, [0, 2]], np.zeros((0, 2), np.int32)
    return Inputs(
        ids=put(batch.ids.reshape(-1)),
        positions=put(batch.positions.reshape(3, -1)),
        segments=Segments(ends, batch.ids.size, True, device, backend, batch.segments[:, 1]),
        picked=put(picked),
        targets=put(targets),
        weights=put(weights.astype(np.float32)),
        slots=put(vision.slots),
        order=None if vision.order is None else put(vision.order),
        newlines=put(vision.newlines),
        features=None if vision.features is None else put(vision.features),
        images=vision.images,
        patches=None if vision.patches is None else put(vision.patches),
        patch_bounds=bounds,
        patch_places=none if vision.patch_positions is None else vision.patch_positions,
        views=len(vision.grids),
        inner=put(inner_positions(batch.ids.size, ends, vision.slots)),
        denominator=float(batch.denominator),
    )
