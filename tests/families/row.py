"""A packed row of random samples on the real path (collate -> inputs), and the same samples one by one."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from configs.load import load_recipe
from configs.model import ModelConfig
from data_pipeline.stream.batch import Batch
from data_pipeline.stream.chat import Encoded
from data_pipeline.stream.collate import Ready, collate, widen
from data_pipeline.stream.geometry import Geometry, geometry_of
from data_pipeline.stream.row_column import MARKS, MOST
from pretrain.mesh import Mesh
from pretrain.model.inputs import Inputs, to_inputs
from pretrain.model.vlm import VisionLanguageModel
from tests.families.ours import open_model
from tests.families.published import IMAGE, VISION

PATCH = VISION["patch_size"]
WORDS = 250
"""Ids below are words; from there on the marks of rows and columns."""


@dataclass(frozen=True)
class Model:
    """A run's model with what its pictures become."""

    net: VisionLanguageModel
    config: ModelConfig
    geometry: Geometry


def _mark(number: int) -> int:
    """Names of up to 8 x 8 tiles have tokens of their own."""
    row, column = divmod(number - len(MARKS) + MOST**2, MOST)
    if row < 0:
        return WORDS + number
    return WORDS + len(MARKS) - MOST**2 + 8 * row + column if max(row, column) < 8 else -1


NAMES = np.array([_mark(number) for number in range(len(MARKS))])


def open_row_model(run: Path, mesh: Mesh) -> Model:
    recipe: Any = load_recipe(str(run / "config.yaml"))
    return Model(open_model(run, mesh), recipe.model, geometry_of(recipe.model))


def samples(seed: int = 0) -> list[Ready]:
    """One wide picture, two pictures (one high) with text between, and text alone; the last third of each is learned."""
    random = np.random.default_rng(seed)
    found = []
    for sizes, text in (([(150, 61)], 9), ([(47, 140), (64, 64)], 14), ([], 7)):
        ids: list[int] = [1, *random.integers(3, WORDS, 3).tolist()]
        slots = []
        for _ in sizes:
            slots.append(len(ids))
            ids += [IMAGE, *random.integers(3, WORDS, 2).tolist()]
        ids += random.integers(3, WORDS, text).tolist()
        labels = np.arange(len(ids)) >= len(ids) - text // 2
        pictures = [random.integers(0, 256, (high, wide, 3), dtype=np.uint8) for wide, high in sizes]
        encoded = Encoded(np.array(ids), labels, np.array(slots, np.int64), NAMES)
        found.append(Ready(encoded, sizes, images=pictures))
    return found


def batch_of(geometry: Geometry, packed: list[Ready]) -> Batch:
    """All of them in one row without a gap."""
    length = sum(len(widen(one.encoded, one.sizes, geometry).ids) for one in packed)
    return collate([packed], length, geometry, 0, cnn=False)


def inputs_of(model: Model, packed: list[Ready], mesh: Mesh, backend: str = "auto") -> Inputs:
    return to_inputs(batch_of(model.geometry, packed), mesh.device, backend)


def logits_of(model: Model, inputs: Inputs, vocabulary: int) -> Tensor:
    return model.net.decoder.logits(model.net.hidden(inputs))[:, :vocabulary]


def views_of(model: Model, batch: Batch) -> Tensor:
    """Pixels as the encoder scales them: [W, 3, S, S] of equal views, [P, 3 * patch^2] of a native ViT's patches."""
    patches = batch.vision.patches
    assert patches is not None
    encoder = model.config.encoder
    mean, std = (torch.tensor(v).view(1, 3, 1) for v in (encoder.pixel_mean, encoder.pixel_std))  # type: ignore[union-attr]
    scaled = (torch.from_numpy(patches).view(len(patches), 3, -1).float() / 255 - mean) / std
    if encoder.type == "native_vit":
        return scaled.reshape(len(patches), -1)
    places, bounds = batch.vision.patch_positions, batch.vision.patch_segments
    assert places is not None and bounds is not None
    views = []
    for start, end in itertools.pairwise(bounds):
        rows, columns = (places[start:end].max(0) + 1).tolist()
        view = torch.empty(rows, columns, 3, PATCH, PATCH)
        own = torch.from_numpy(places[start:end]).long()
        view[own[:, 0], own[:, 1]] = scaled[start:end].view(-1, 3, PATCH, PATCH)
        views.append(view.permute(2, 0, 3, 1, 4).reshape(3, rows * PATCH, columns * PATCH))
    return torch.stack(views)


def whole_row_logits(mesh: Mesh, run: str, vocabulary: int) -> list[Any]:
    """On any number of TP ranks: the packed row's logits over the whole vocabulary."""
    model = open_row_model(Path(run), mesh)
    with torch.no_grad():
        inputs = inputs_of(model, samples(), mesh)
        mine = model.net.decoder.logits(model.net.hidden(inputs))
    parts = [torch.empty_like(mine) for _ in range(mesh.tp_size)]
    if mesh.tp_size > 1:
        dist.all_gather(parts, mine.contiguous(), group=mesh.tp_group)
        mine = torch.cat(parts, -1)
    return [row.tolist() for row in mine[:, :vocabulary]]
