"""Our model over plain token ids and pixels; also what the pool's ranks run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from configs.load import load_recipe
from data_pipeline.stream.images import patch_places, to_patches
from pretrain.checkpoint.choose import find
from pretrain.checkpoint.reading import Checkpoint, load_weights
from pretrain.mesh import Mesh
from pretrain.model.attention import Segments
from pretrain.model.inputs import Inputs
from pretrain.model.vlm import VisionLanguageModel, make_model

Samples = Sequence[tuple[list[int], list[np.ndarray]]]


def samples_of(image: int, cells: int, side: int, seed: int = 0) -> list[tuple[list[int], list[np.ndarray]]]:
    """One picture, two pictures with text between, and text alone: (ids, pictures)."""
    random = np.random.default_rng(seed)

    def words(count: int) -> list[int]:
        return random.integers(3, 300, count).tolist()

    found = []
    for pictures, text in ((1, 9), (2, 14), (0, 7)):
        images = [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(pictures)]
        ids = [1, *words(3)]
        for _ in images:
            ids += [image] * cells + words(2)
        found.append((ids + words(text), images))
    return found


def open_model(run: Path, mesh: Mesh) -> VisionLanguageModel:
    """A run's model in fp32."""
    recipe: Any = load_recipe(str(run / "config.yaml"))
    net = make_model(recipe.model, 0, mesh, "fp32", "fp32", 0)
    chosen = find(str(run))
    load_weights(Checkpoint(chosen.folder, chosen.frozen), net, mesh)
    return net


def inputs_of(samples: Samples, image: int, patch: int, mesh: Mesh, backend: str = "auto") -> Inputs:
    """The samples packed into one row."""
    ids = [token for sample, _ in samples for token in sample]
    ends = np.cumsum([0, *(len(sample) for sample, _ in samples)])
    images = [picture for _, pictures in samples for picture in pictures]
    cells = [(picture.shape[0] // patch, picture.shape[1] // patch) for picture in images]
    starts = np.cumsum([0, *(rows * columns for rows, columns in cells)])
    nothing = torch.zeros(1, dtype=torch.long)
    flat = torch.tensor(ids)
    return Inputs(
        ids=flat,
        positions=torch.tensor([[place for sample, _ in samples for place in range(len(sample))]] * 3),
        segments=Segments(np.stack([ends[:-1], ends[1:]], 1), len(ids), True, mesh.device, backend),
        picked=nothing,
        targets=nothing,
        weights=torch.zeros(1),
        slots=(flat == image).nonzero().flatten(),
        order=None,
        newlines=torch.zeros(0, dtype=torch.long),
        features=None,
        images=None,
        patches=torch.from_numpy(np.concatenate([to_patches(picture, patch, 1) for picture in images]))
        if images
        else None,
        patch_bounds=np.stack([starts[:-1], starts[1:]], 1),
        patch_places=np.concatenate([patch_places(*cell, 1) for cell in cells])
        if images
        else np.zeros((0, 2), np.int32),
        views=len(images),
        inner=nothing[:0],
        denominator=1.0,
    )


def logits_of(net: VisionLanguageModel, inputs: Inputs, vocabulary: int) -> Tensor:
    return net.decoder.logits(net.hidden(inputs))[:, :vocabulary]


def whole_logits(mesh: Mesh, run: str, image: int, cells: int, side: int, patch: int, vocabulary: int) -> list[Any]:
    """On any number of TP ranks: the logits over the whole vocabulary."""
    net = open_model(Path(run), mesh)
    with torch.no_grad():
        mine = net.decoder.logits(net.hidden(inputs_of(samples_of(image, cells, side), image, patch, mesh)))
    parts = [torch.empty_like(mine) for _ in range(mesh.tp_size)]
    if mesh.tp_size > 1:
        dist.all_gather(parts, mine.contiguous(), group=mesh.tp_group)
    found = torch.cat(parts, -1)[:, :vocabulary] if mesh.tp_size > 1 else mine[:, :vocabulary]
    return [row.tolist() for row in found]
