"""Features of a frozen CNN, computed once per picture by all ranks together and kept beside the dataset.

    DATASET/features/FINGERPRINT/00000.npy      float16 [outputs of its pictures, merge^2 * C], a block of 256 pictures

Pictures are counted by the hash of their bytes: the same picture in ten samples is encoded once. Which picture lies
where follows from the index alone, so there is no table to keep in step.
"""

import hashlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from configs.encoders import Cnn
from configs.model import ModelConfig
from configs.mounts import is_network
from data_pipeline.storage import put
from data_pipeline.stream.images import decode, views_of
from data_pipeline.stream.layout import Geometry, geometry_of, picture_layout
from data_pipeline.stream.read.dataset import Dataset
from pretrain.mesh import Mesh
from pretrain.model.frozen import load_cnn, weight_files

BLOCK = 256
VERSION = 1


def features_fingerprint(encoder: Cnn, geometry: Geometry) -> str:
    """Identity of the features: network, its weights' bytes, how pictures are fitted."""
    weights = "random"
    if encoder.weights is not None:
        digest = hashlib.sha256()
        for path in weight_files(encoder):
            digest.update(path.read_bytes())
        weights = digest.hexdigest()
    identity = [VERSION, encoder.model_dump(mode="json"), weights, repr(geometry)]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


class FeatureCache:
    """Cached features of some datasets; `get(source, index)` is what a Loader asks for.

    Args:
        model: its encoder must be a CNN, which is always frozen.
        datasets: in the order of the recipe's sources.
    """

    def __init__(self, model: ModelConfig, datasets: Sequence[Dataset]):
        assert isinstance(model.encoder, Cnn)
        self.encoder, self.geometry, self.datasets = model.encoder, geometry_of(model), list(datasets)
        fingerprint = features_fingerprint(model.encoder, self.geometry)
        self.folders = [Path(d.folder) / "features" / fingerprint for d in self.datasets]
        self._places = [self._plan(d) for d in self.datasets]
        self._blocks: dict[tuple[int, int], np.ndarray] = {}

    def _plan(self, dataset: Dataset) -> dict[int, tuple[int, int, int, int, int]]:
        """hash -> (block, first token, tokens, sample, picture of the sample), by first occurrence."""
        places: dict[int, tuple[int, int, int, int, int]] = {}
        start = 0
        for index in range(len(dataset)):
            sizes = dataset.sizes(index)
            for number, key in enumerate(dataset.image_hashes(index)):
                if key in places:
                    continue
                block, within = divmod(len(places), BLOCK)
                start = 0 if within == 0 else start
                outputs = picture_layout(*sizes[number], self.geometry).outputs
                places[key] = (block, start, outputs, index, number)
                start += outputs
        return places

    def get(self, source: int, index: int) -> list[np.ndarray]:
        """Features [outputs, C] float16 of each picture of a sample."""
        out = []
        for key in self.datasets[source].image_hashes(index):
            block, start, count, _, _ = self._places[source][key]
            out.append(self._block(source, block)[start : start + count])
        return out

    def _block(self, source: int, block: int) -> np.ndarray:
        if (source, block) not in self._blocks:
            path = self.folders[source] / f"{block:05d}.npy"
            self._blocks[source, block] = np.load(path, mmap_mode=None if is_network(path) else "r", allow_pickle=False)
        return self._blocks[source, block]

    def fill(self, mesh: Mesh, progress: bool = True) -> int:
        """Compute what is missing, blocks dealt over all ranks. Returns how many pictures this rank encoded."""
        todo = []
        for source, places in enumerate(self._places):
            blocks: dict[int, list[tuple[int, int]]] = {}
            for block, _, _, index, number in places.values():
                blocks.setdefault(block, []).append((index, number))
            for block, members in blocks.items():
                if not (self.folders[source] / f"{block:05d}.npy").exists():
                    todo.append((source, block, members))
        mine, done = todo[mesh.rank :: mesh.world], 0
        if mesh.world > 1:
            dist.barrier()  # all ranks have listed what is missing before any makes some of it
        if mine:
            net = load_cnn(self.encoder, 0, mesh.device)
            total = sum(len(members) for _, _, members in mine)
            quiet = not progress or not mesh.is_first
            with tqdm(
                total=total, desc="features", unit="picture", disable=quiet, file=sys.stderr, mininterval=1
            ) as bar:
                for source, block, members in mine:
                    self._make(net, source, block, members)
                    done += len(members)
                    bar.update(len(members))
        if mesh.world > 1:
            dist.barrier()
        return done

    def _make(self, net: torch.nn.Module, source: int, block: int, members: list[tuple[int, int]]) -> None:
        dataset, views = self.datasets[source], []
        for index, number in members:
            picture = decode(dataset.read(index).images[number])
            planned = picture_layout(*dataset.sizes(index)[number], self.geometry)
            views += views_of(picture, planned, self.geometry.cell)
        with torch.inference_mode():
            device = next(net.parameters()).device
            features = torch.cat(net.encode(views, device, merge=self.geometry.merge))  # type: ignore[operator]
        sink = io.BytesIO()
        np.save(sink, features.to(torch.float16).cpu().numpy(), allow_pickle=False)
        put(str(self.folders[source] / f"{block:05d}.npy"), sink.getvalue())
