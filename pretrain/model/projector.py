"""Projectors: encoder features -> decoder width. Each takes [V, merge^2 * C] (merged cells are neighbours) -> [V, W].

Linear, MLP (LLaVA-1.5), pixel-shuffle MLP (InternVL). Replicated over TP: small beside the decoder.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.model import LinearProjector, MlpProjector, PixelShuffleMlpProjector
from pretrain.model.linear import Builder, LogicalTensor, Norm, WholeLinear, fill

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "silu": F.silu}


class Mlp(nn.Module):
    """(norm) -> linear -> activation -> ... -> linear."""

    def __init__(self, build: Builder, inputs: int, hidden: int, width: int, depth: int, activation: str, norm: bool):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.norm = Norm(build, "projector.norm", inputs, 1e-5, "layer") if norm else None
        sizes = [inputs, *([hidden] * (depth - 1)), width]
        self.layers = nn.ModuleList(
            WholeLinear(build, f"projector.layers.{i}", a, b, bias=True) for i, (a, b) in enumerate(pairwise(sizes))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.norm is None else self.norm(x)
        for number, layer in enumerate(self.layers):
            x = layer(x if number == 0 else self.activation(x))
        return x


class Newline(nn.Module):
    """The learned token that ends each row of a tiled picture (LLaVA-NeXT's `image_newline`)."""

    def __init__(self, build: Builder, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, width, dtype=build.dtype, device=build.device))
        fill(self.weight, build, LogicalTensor("projector.newline", (1, width)), width**-0.5)

    def forward(self, count: int) -> Tensor:
        """[count, W]"""
        return self.weight.expand(count, -1)


def make_projector(
    config: LinearProjector | MlpProjector | PixelShuffleMlpProjector, build: Builder, channels: int, width: int
) -> Mlp:
    """`channels` of one cell, `width` of the decoder. A linear projector is an MLP of depth one."""
    if isinstance(config, LinearProjector):
        return Mlp(build, channels, width, width, 1, "gelu", False)
    if isinstance(config, PixelShuffleMlpProjector):
        return Mlp(build, channels * config.factor**2, config.hidden or width, width, 2, config.activation, True)
    return Mlp(build, channels, config.hidden or width, width, config.depth, config.activation, config.norm)
