"""A batch as the counts that cluster/cost speaks of: the cost model knows neither batches nor torch."""

import numpy as np

from cluster.cost.load import Load, stretch_of
from configs.model import ModelConfig
from data_pipeline.stream.batch import Batch


def load_of(batch: Batch, model: ModelConfig) -> Load:
    """What one micro-step carries. A batch without pictures runs the model's dummy one."""
    vision = batch.vision
    segments = np.diff(vision.patch_segments).tolist() if vision.patch_segments is not None else []
    if vision.features is None and vision.images is None and not segments:
        segments = [model.merge**2]
    views = int(np.prod(vision.grids, axis=1).sum()) if len(vision.grids) else 0
    return Load(
        text=stretch_of((batch.segments[:, 2] - batch.segments[:, 0]).tolist(), batch.ids.size, causal=True),
        patches=stretch_of(segments, sum(segments), causal=False),
        views=views,
        visual=len(vision.slots),
        newlines=len(vision.newlines),
        labels=batch.label_tokens,
        pictures=vision.pictures,
        samples=sum(len(row.samples) for row in batch.rows),
        rows=batch.ids.shape[0],
        ordered=vision.order is not None,
    )
