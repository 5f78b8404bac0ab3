"""Loss on held-out samples as they are stored: whole captions, whole conversations."""

import math
from typing import Any

import torch

from data_pipeline.stream.collate import collate, widen
from pretrain.answering import OpenRun
from pretrain.model.inputs import to_inputs
from pretrain.pictures import Pictures
from pretrain.shares import deal

ROW = 2048
"""Positions that go through the model together, or one sample where it is longer."""


def heldout_loss(opened: OpenRun, pictures: Pictures) -> dict[str, float]:
    """{loss, tokens}: mean cross-entropy over all learned tokens of the dataset, and how many there are.

    All ranks call it. The samples' rows do not depend on how many ranks there are.
    """
    rows = _rows(opened, pictures)

    def work(places: list[int]) -> list[Any]:
        with torch.no_grad():
            return [_sums(opened, pictures, rows[place]) for place in places]

    sums = deal(opened.mesh, len(rows), work)
    weight = math.fsum(row[1] for row in sums)
    return {"loss": math.fsum(row[0] for row in sums) / max(1.0, weight), "tokens": int(weight)}


def _rows(opened: OpenRun, pictures: Pictures) -> list[list[int]]:
    """Neighbouring samples that fit into ROW positions."""
    rows: list[list[int]] = []
    free = 0
    for index in range(len(pictures.dataset)):
        sizes = pictures.dataset.sizes(index)
        encoded = opened.chat.encode(pictures.dataset.read(index).conversation, len(sizes))
        count = len(widen(encoded, sizes, opened.geometry).ids)
        if count > free:
            rows.append([])
            free = ROW
        rows[-1].append(index)
        free -= count
    return rows


def _sums(opened: OpenRun, pictures: Pictures, row: list[int]) -> list[float]:
    ready = [pictures.ready(index) for index in row]
    length = sum(len(widen(sample.encoded, sample.sizes, opened.geometry).ids) for sample in ready)
    batch = collate(
        [ready], length, opened.geometry, opened.chat.pad_id, cnn=pictures.cnn, cached=pictures.cache is not None
    )
    out = opened.model(to_inputs(batch, opened.mesh.device))
    return [float(out.loss_sum), float(out.weight_sum)]
