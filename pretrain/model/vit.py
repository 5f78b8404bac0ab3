"""Vision transformer on a fixed grid of learned positions: ViT, CLIP (arXiv 2103.00020), SigLIP (arXiv 2303.15343).

All views of a micro-step in one sequence, each its own segment. Legend: P patches, V views, C width, H heads, D head size.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.model import ViT
from pretrain.model.attention import Segments, attend
from pretrain.model.linear import Builder, ColumnLinear, LogicalTensor, Norm, RowLinear, WholeLinear, fill

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


class Places(nn.Module):
    """Adds learned positions; puts the class token, if there is one, before each view.

    `weight` [class token + side^2, C] is in the published order: the class token's position first.
    """

    def __init__(self, build: Builder, config: ViT):
        super().__init__()
        self.side, self.extra = config.side, int(config.class_token)
        shape = (self.extra + self.side**2, config.width)
        self.weight = nn.Parameter(torch.empty(shape, dtype=build.dtype, device=build.device))
        fill(self.weight, build, LogicalTensor("encoder.positions.weight", shape), build.std)
        self.token = None
        if config.class_token:
            self.token = nn.Parameter(torch.empty(1, config.width, dtype=build.dtype, device=build.device))
            fill(self.token, build, LogicalTensor("encoder.class_token", (1, config.width)), build.std)

    def forward(self, x: Tensor, places: Tensor, bounds: np.ndarray) -> tuple[Tensor, np.ndarray, Tensor]:
        """x [P, C], places [P, 2], bounds [V, 2] -> sequence [P (+ V), C], its bounds, where its patches are [P]."""
        x = x + self._of(places, bounds).to(x.dtype)
        if self.token is None:
            return x, bounds, torch.arange(len(x), device=x.device)
        count = len(bounds)
        shift = np.repeat(np.arange(1, count + 1), bounds[:, 1] - bounds[:, 0])
        where = torch.from_numpy(np.arange(len(x)) + shift).to(x.device)
        firsts = torch.from_numpy(bounds[:, 0] + np.arange(count)).to(x.device)
        token = (self.token + self.weight[:1]).to(x.dtype).expand(count, -1)
        joined = x.new_zeros(len(x) + count, x.shape[1]).index_put((where,), x).index_put((firsts,), token)
        moved = np.stack([bounds[:, 0] + np.arange(count), bounds[:, 1] + np.arange(1, count + 1)], 1)
        return joined, moved, where

    def _of(self, places: Tensor, bounds: np.ndarray) -> Tensor:
        """[P, C] positions; those of a view of another grid are interpolated bicubically."""
        grid = self.weight[self.extra :]
        sizes = {int(end - start) for start, end in bounds.tolist()}
        if sizes == {self.side**2} or len(places) == 1:
            return grid[(places[:, 0] * self.side + places[:, 1]).long()]
        parts, square = [], grid.float().view(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        for start, end in bounds.tolist():
            own = places[start:end].long()
            rows, columns = int(own[:, 0].max()) + 1, int(own[:, 1].max()) + 1
            fitted = square
            if (rows, columns) != (self.side, self.side):
                fitted = F.interpolate(square, (rows, columns), mode="bicubic", align_corners=False)
            parts.append(fitted[0, :, own[:, 0], own[:, 1]].t())
        return torch.cat(parts)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with biases; heads cut over TP where TP divides them, else whole."""

    def __init__(self, build: Builder, number: int, config: ViT, cut: bool):
        super().__init__()
        name, width, std = f"encoder.layers.{number}", config.width, build.std / (2 * config.depth) ** 0.5
        column, row = (ColumnLinear, RowLinear) if cut else (WholeLinear, WholeLinear)
        self.head, self.activation = width // config.heads, ACTIVATIONS[config.activation]
        self.norm1 = Norm(build, f"{name}.norm1", width, config.norm_eps, "layer")
        self.q = column(build, f"{name}.q", width, width, bias=True)
        self.k = column(build, f"{name}.k", width, width, bias=True)
        self.v = column(build, f"{name}.v", width, width, bias=True)
        self.out = row(build, f"{name}.out", width, width, std=std, bias=True)
        self.norm2 = Norm(build, f"{name}.norm2", width, config.norm_eps, "layer")
        self.up = column(build, f"{name}.up", width, config.mlp_width, bias=True)
        self.down = row(build, f"{name}.down", config.mlp_width, width, std=std, bias=True)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        h = self.norm1(x)
        q, k, v = (part(h).view(x.shape[0], -1, self.head) for part in (self.q, self.k, self.v))
        x = x + self.out(attend(q, k, v, segments).reshape(x.shape[0], -1))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class GridViT(nn.Module):
    """[P, 3 * patch * patch] uint8 pixels, [P, 2] row and column -> [P, C] features of `config.feature_layer`."""

    mean: Tensor
    std: Tensor

    def __init__(self, build: Builder, config: ViT):
        super().__init__()
        self.channels, area = config.width, config.patch**2
        cut = build.tp_size > 1 and config.heads % build.tp_size == 0 and config.mlp_width % build.tp_size == 0
        for name, values in (("mean", config.pixel_mean), ("std", config.pixel_std)):
            scaled = 255.0 * torch.tensor(values, device=build.device).repeat_interleave(area)
            self.register_buffer(name, scaled, persistent=False)
        self.embed = WholeLinear(build, "encoder.embed", 3 * area, config.width, bias=config.patch_bias)
        self.positions = Places(build, config)
        self.pre_norm = (
            Norm(build, "encoder.pre_norm", config.width, config.norm_eps, "layer") if config.pre_norm else None
        )
        self.layers = nn.ModuleList(Block(build, i, config, cut) for i in range(config.layers))
        last = config.feature_layer == -1
        self.norm = Norm(build, "encoder.norm", config.width, config.norm_eps, "layer") if last else None

    def forward(self, patches: Tensor, positions: Tensor, bounds: np.ndarray, dtype: torch.dtype) -> Tensor:
        x = self.embed(((patches.float() - self.mean) / self.std).to(dtype))
        x, moved, where = self.positions(x, positions, bounds)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        segments = Segments(moved, x.shape[0], causal=False, device=x.device)
        for layer in self.layers:
            x = layer(x, segments)
        x = x[where]
        return x if self.norm is None else self.norm(x)
