"""A batch as the counts that cluster/cost speaks of: the cost model knows neither batches nor torch."""

import numpy as np

from cluster.cost.load import Load
from cluster.cost.segments import load_from, stretch_of
from configs.model import ModelConfig
from data_pipeline.stream.batch import Batch


def load_of(batch: Batch, model: ModelConfig) -> Load:
    """What one micro-step carries. A batch without pictures runs the model's dummy one."""
    vision, (start, prefix, end) = batch.vision, batch.segments.T
    prefixes = (prefix - start).tolist() if model.decoder.attention == "prefix" else None
    text = stretch_of((end - start).tolist(), batch.ids.size, causal=True, prefixes=prefixes)
    return load_from(
        model,
        text,
        [(int(rows), int(columns)) for rows, columns in vision.grids],
        len(vision.slots),
        batch.label_tokens,
        inner=len(inner_positions(batch.ids.size, batch.segments[:, [0, 2]], vision.slots)),
        newlines=len(vision.newlines),
        pictures=vision.pictures,
        samples=sum(len(row.samples) for row in batch.rows),
        rows=batch.ids.shape[0],
        ordered=vision.order is not None,
    )


def inner_positions(total: int, ends: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Flat positions of visual tokens followed by another one of the same segment (CogVLM's expert mask).

    Args:
        total: T.
        ends: [S, 2] start and end of each segment.
        slots: [V] flat positions of visual tokens.
    """
    visual = np.zeros(total + 1, bool)
    visual[slots] = True
    followed = visual[:-1] & visual[1:]
    followed[ends[:, 1] - 1] = False
    return np.flatnonzero(followed)
