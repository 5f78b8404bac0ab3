"""Encoder + projector + decoder, composed from a ModelConfig: pictures and text in, loss or logits out.

Lockstep: under ZeRO-3 every partitioned module must be called equally often on every rank in every micro-step. So
there is one encoder call and one projector call over all pictures of the batch, and a batch without pictures runs a
dummy one whose (finite) output is multiplied by zero and added: it stays in the graph. A frozen CNN, whose calls
depend on how many picture sizes there are, is held outside `parameters()` and so outside ZeRO.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cluster.cost.cnn import channels as channels_of
from configs.encoders import Cnn, ViT
from configs.model import ModelConfig
from configs.resolutions import AnyresResolution
from pretrain.mesh import Mesh, math_dtype, param_dtype
from pretrain.model.cache import KeyValueCache
from pretrain.model.decoder import Decoder
from pretrain.model.decoder_layer import Routes
from pretrain.model.frozen import load_cnn
from pretrain.model.inputs import Inputs
from pretrain.model.linear import Builder
from pretrain.model.projector import Newline, make_projector
from pretrain.model.vision import VisionTransformer
from pretrain.model.vit import GridViT
from pretrain.zero_config import unpartitioned


class Output(NamedTuple):
    """Sums over this rank's micro-step; `loss_sum` carries the graph. A tuple, so that DeepSpeed finds the tensors."""

    loss_sum: Tensor
    weight_sum: Tensor


class VisionLanguageModel(nn.Module):
    """A composition; which one is `config`. Parameters are named encoder.*, projector.*, decoder.*."""

    def __init__(
        self, config: ModelConfig, vocabulary: int, build: Builder, math: torch.dtype, features_only: bool = False
    ):
        super().__init__()
        self.math, self.merge, self.expert = math, config.merge, config.decoder.expert
        self.encoder: VisionTransformer | GridViT | None = None
        self.frozen_cnn: list[nn.Module] = []
        if isinstance(config.encoder, Cnn):
            self.channels = channels_of(config.encoder)
            if not features_only:
                with unpartitioned():
                    self.frozen_cnn.append(load_cnn(config.encoder, build.seed, build.device))
        else:
            self.patch_size = 3 * config.encoder.patch**2
            self.channels = config.encoder.width
            if not features_only:
                made = GridViT if isinstance(config.encoder, ViT) else VisionTransformer
                self.encoder = made(build, config.encoder)  # type: ignore[arg-type]
        self.projector = make_projector(config.projector, build, self.channels, config.decoder.width)
        self.newline = Newline(build, config.decoder.width) if isinstance(config.resolution, AnyresResolution) else None
        self.decoder = Decoder(build, config.decoder, vocabulary)

    def encode(self, inputs: Inputs) -> Tensor:
        """Features of all views: [O, merge^2 * C], in their order; a dummy where there is none."""
        wide = self.channels * self.merge**2
        if inputs.features is not None:
            features = inputs.features.to(self.math)
            return features if len(features) else features.new_zeros(1, wide)
        if self.encoder is None:
            assert self.frozen_cnn, "a model built for cached features got pixels"
            if not inputs.images:
                return torch.zeros(1, wide, dtype=self.math, device=inputs.ids.device)
            with torch.no_grad():
                found = self.frozen_cnn[0].encode(inputs.images, inputs.ids.device, merge=self.merge)  # type: ignore[operator]
                return torch.cat(found).to(self.math)
        patches, places, bounds = inputs.patches, inputs.patch_places, inputs.patch_bounds
        if patches is None or len(patches) == 0:
            count = self.merge**2
            patches = torch.zeros(count, self.patch_size, dtype=torch.uint8, device=inputs.ids.device)
            places, bounds = np.zeros((count, 2), np.int32), np.array([[0, count]])
        return self.encoder(patches, places, bounds, self.math).reshape(-1, wide)

    def embed(self, inputs: Inputs, features: Tensor) -> Tensor:
        """Text embeddings with the projected features at their slots, newlines at theirs: [T, W]."""
        x = self.decoder.embed(inputs.ids, self.math)
        visual = self.projector(features, max(1, inputs.views))
        if self.newline is not None:
            # One call a micro-step, also without pictures: lockstep. The spare one stays in the graph, times zero.
            lines = self.newline(len(inputs.newlines) + 1).to(x.dtype)
            x = x.index_put((inputs.newlines,), lines[1:]) + 0.0 * lines[0].sum()
        if len(inputs.slots) == 0:
            return x + 0.0 * visual.sum()
        if inputs.order is not None:
            unused = 0.0 * visual.sum()  # padding that is dropped keeps a (zero) gradient
            return x.index_put((inputs.slots,), visual[inputs.order]) + unused
        return x.index_put((inputs.slots,), visual)

    def hidden(self, inputs: Inputs) -> Tensor:
        """[T, W] final hidden states."""
        x = self.embed(inputs, self.encode(inputs))
        return self.decoder(x, inputs.positions, inputs.segments, routes=self.routes(inputs))

    def routes(self, inputs: Inputs) -> Routes | None:
        """Which positions a visual expert serves; none where the model has none."""
        return Routes.of(inputs.inner, len(inputs.ids)) if self.expert else None

    def forward(self, inputs: Inputs) -> Output:
        """Weighted sum of token cross-entropies of this micro-step (never a mean: see pretrain/loss.py)."""
        hidden = self.hidden(inputs)[inputs.picked]
        losses = self.decoder.cross_entropy(hidden, inputs.targets)
        return Output((losses * inputs.weights).sum(), inputs.weights.sum())

    def step(self, x: Tensor, positions: Tensor, cache: KeyValueCache, routes: Routes | None = None) -> Tensor:
        """Grow the cached sequences by [S * N, W] inputs; returns hidden states of the same shape."""
        return self.decoder(x, positions, None, cache, routes)


def make_builder(mesh: Mesh, precision: str, seed: int, std: float) -> Builder:
    return Builder(seed, mesh.tp_rank, mesh.tp_size, param_dtype(precision), mesh.device, std)


def make_model(
    config: ModelConfig, vocabulary: int, mesh: Mesh, precision: str, math: str, seed: int, features_only: bool = False
) -> VisionLanguageModel:
    """The model of a recipe on this rank, outside or (called under `Engine.born`) inside ZeRO-3."""
    build = make_builder(mesh, precision, seed, config.init_std)
    return VisionLanguageModel(config, vocabulary, build, math_dtype(precision, math), features_only)
