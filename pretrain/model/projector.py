"""Projectors: encoder features -> decoder width. Replicated over TP: small beside the decoder.

Each takes [O, merge^2 * C] (merged cells are neighbours) of `views` views and returns the views' tokens in order. Here are
those that treat each token for itself, and the table of all; resampling.py has those with a fixed number of tokens a view.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from configs.projectors import (
    GluProjector,
    LinearProjector,
    PatchMergerProjector,
    PerceiverProjector,
    PixelShuffleLinearProjector,
    PixelShuffleMlpProjector,
    Projector,
    QFormerProjector,
    ResamplerProjector,
)
from pretrain.model.activations import ACTIVATIONS
from pretrain.model.learned import Learned
from pretrain.model.linear import Builder, WholeLinear
from pretrain.model.norm import Norm
from pretrain.model.perceiver import Perceiver
from pretrain.model.qformer import QFormer
from pretrain.model.resampler import Resampler

NORM_EPS = 1e-5


class Mlp(nn.Module):
    """(norm) -> linear (-> norm) -> activation -> ... -> linear (-> norm).

    Args:
        sizes: widths, from the merged cells' to the decoder's.
        before: (width, eps, kind) of the norm before it: of all merged cells together, or (where the width is one
            cell's) of each of them, as in Qwen2-VL's patch merger.
        after: a LayerNorm behind each layer (Yi-VL, arXiv 2403.04652).
    """

    def __init__(
        self,
        build: Builder,
        sizes: list[int],
        activation: str = "gelu",
        bias: bool = True,
        before: tuple[int, float, str] | None = None,
        after: bool = False,
    ):
        super().__init__()
        self.activation, self.cell = ACTIVATIONS[activation], before[0] if before else sizes[0]
        self.norm = Norm(build, "projector.norm", *before) if before else None
        self.layers = nn.ModuleList(
            WholeLinear(build, f"projector.layers.{i}", a, b, bias=bias) for i, (a, b) in enumerate(pairwise(sizes))
        )
        wide = sizes[1:] if after else []
        self.norms = nn.ModuleList(
            Norm(build, f"projector.norms.{i}", size, NORM_EPS, "layer") for i, size in enumerate(wide)
        )

    def forward(self, x: Tensor, views: int) -> Tensor:
        if self.norm is not None:
            x = self.norm(x.reshape(-1, self.cell)).reshape(x.shape)
        for number, layer in enumerate(self.layers):
            x = layer(x if number == 0 else self.activation(x))
            if len(self.norms):
                x = self.norms[number](x)
        return x


class Glu(nn.Module):
    """Linear, norm, GELU, then SiLU-gated MLP; a learned token before and behind each view where asked for (CogVLM)."""

    def __init__(self, build: Builder, config: GluProjector, channels: int, width: int):
        super().__init__()
        self.inward = WholeLinear(build, "projector.inward", channels, width)
        self.norm = Norm(build, "projector.norm", width, NORM_EPS, "layer")
        self.gate = WholeLinear(build, "projector.gate", width, config.hidden)
        self.up = WholeLinear(build, "projector.up", width, config.hidden)
        self.down = WholeLinear(build, "projector.down", config.hidden, width)
        self.ends = nn.ModuleList()
        if config.ends:
            self.ends.extend(Learned(build, f"projector.{name}", 1, width, build.std) for name in ("begin", "end"))

    def forward(self, x: Tensor, views: int) -> Tensor:
        h = ACTIVATIONS["gelu"](self.norm(self.inward(x)))
        h = self.down(ACTIVATIONS["silu"](self.gate(h)) * self.up(h))
        if not len(self.ends):
            return h
        begin, end = (part().to(h.dtype).expand(views, 1, -1) for part in self.ends)
        return torch.cat([begin, h.view(views, -1, h.shape[-1]), end], 1).reshape(-1, h.shape[-1])


class Newline(nn.Module):
    """The learned token that ends each row of a tiled picture (LLaVA-NeXT's `image_newline`)."""

    def __init__(self, build: Builder, width: int):
        super().__init__()
        self.row = Learned(build, "projector.newline", 1, width, width**-0.5)

    def forward(self, count: int) -> Tensor:
        """[count, W]"""
        return self.row().expand(count, -1)


def make_projector(config: Projector, build: Builder, channels: int, width: int) -> nn.Module:
    """`channels` of one cell, `width` of the decoder. A linear projector is an MLP of depth one."""
    if isinstance(config, LinearProjector):
        return Mlp(build, [channels, width], bias=config.bias)
    if isinstance(config, PixelShuffleLinearProjector):
        return Mlp(build, [channels * config.factor**2, width], bias=config.bias)
    if isinstance(config, GluProjector):
        return Glu(build, config, channels, width)
    if isinstance(config, QFormerProjector):
        return QFormer(build, config, channels, width)
    if isinstance(config, ResamplerProjector):
        return Resampler(build, config, channels, width)
    if isinstance(config, PerceiverProjector):
        return Perceiver(build, config, channels, width)
    if isinstance(config, PatchMergerProjector):
        wide = channels * config.factor**2
        return Mlp(build, [wide, wide, width], before=(channels, config.norm_eps, config.norm))
    if isinstance(config, PixelShuffleMlpProjector):
        wide = channels * config.factor**2
        return Mlp(build, [wide, config.hidden or width, width], config.activation, before=(wide, NORM_EPS, "layer"))
    sizes = [channels, *([config.hidden or width] * (config.depth - 1)), width]
    before = (channels, NORM_EPS, "layer") if config.norm else None
    return Mlp(build, sizes, config.activation, before=before, after=config.norm_after)
