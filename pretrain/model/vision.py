"""Native-resolution vision transformer: patches of all pictures of a micro-step in one sequence.

Pre-norm blocks with 2-D RoPE (Qwen2-VL, arXiv 2409.12191), attention inside windows where asked for (Qwen2.5-VL, arXiv
2502.13923). Legend: P patches, C width, H heads, D head size.
"""

import logging

import numpy as np
import torch
from torch import Tensor, nn

from configs.encoders import NativeViT
from pretrain.model.activations import ACTIVATIONS
from pretrain.model.attention import Segments, attend, rope_table, rotate
from pretrain.model.linear import Builder, ColumnLinear, RowLinear, WholeLinear
from pretrain.model.norm import Norm

log = logging.getLogger(__name__)


class VisionBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); heads cut over TP where TP divides them, else whole."""

    def __init__(self, build: Builder, name: str, config: NativeViT, cut: bool):
        super().__init__()
        width, std, bias = config.width, build.std / (2 * config.depth) ** 0.5, config.bias
        column = ColumnLinear if cut else WholeLinear
        row = RowLinear if cut else WholeLinear
        self.head, self.activation = width // config.heads, ACTIVATIONS[config.activation]
        self.norm1 = Norm(build, f"{name}.norm1", width, config.norm_eps, config.norm)
        self.q = column(build, f"{name}.q", width, width, bias=bias)
        self.k = column(build, f"{name}.k", width, width, bias=bias)
        self.v = column(build, f"{name}.v", width, width, bias=bias)
        self.out = row(build, f"{name}.out", width, width, std=std, bias=bias)
        self.norm2 = Norm(build, f"{name}.norm2", width, config.norm_eps, config.norm)
        self.gate = column(build, f"{name}.gate", width, config.mlp_width, bias=bias) if config.gated else None
        self.up = column(build, f"{name}.up", width, config.mlp_width, bias=bias)
        self.down = row(build, f"{name}.down", config.mlp_width, width, std=std, bias=bias)

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor], segments: Segments) -> Tensor:
        h = self.norm1(x)
        q, k, v = (part(h).view(x.shape[0], -1, self.head) for part in (self.q, self.k, self.v))
        x = x + self.out(attend(rotate(q, table), rotate(k, table), v, segments).reshape(x.shape[0], -1))
        h = self.norm2(x)
        if self.gate is None:
            return x + self.down(self.activation(self.up(h)))
        return x + self.down(self.activation(self.gate(h)) * self.up(h))


class VisionTransformer(nn.Module):
    """[P, 3 * patch * patch] uint8 pixels, [P, 2] row and column -> [P, C] features."""

    mean: Tensor
    std: Tensor

    def __init__(self, build: Builder, config: NativeViT):
        super().__init__()
        self.theta, self.head, self.channels = config.rope_theta, config.width // config.heads, config.width
        self.area, self.frames, self.window, self.full = (
            config.patch**2,
            config.frames,
            config.window,
            config.full_layers,
        )
        cut = build.tp_size > 1 and config.heads % build.tp_size == 0 and config.mlp_width % build.tp_size == 0
        if build.tp_size > 1 and not cut:
            log.info(
                "encoder: %d heads are not divided by tp %d: kept whole on every rank", config.heads, build.tp_size
            )
        for name, values in (("mean", config.pixel_mean), ("std", config.pixel_std)):
            scaled = 255.0 * torch.tensor(values, device=build.device).repeat_interleave(self.area)
            self.register_buffer(name, scaled, persistent=False)
        inputs = 3 * config.frames * self.area
        self.embed = WholeLinear(build, "encoder.embed", inputs, config.width, bias=config.patch_bias)
        self.blocks = nn.ModuleList(VisionBlock(build, f"encoder.blocks.{i}", config, cut) for i in range(config.depth))
        self.norm = (
            Norm(build, "encoder.norm", config.width, config.norm_eps, config.norm) if config.final_norm else None
        )

    def forward(self, patches: Tensor, positions: np.ndarray, bounds: np.ndarray, dtype: torch.dtype) -> Tensor:
        pixels = (patches.float() - self.mean) / self.std
        if self.frames > 1:  # a still picture: the same pixels in every frame
            pixels = pixels.view(-1, 3, 1, self.area).expand(-1, -1, self.frames, -1).reshape(len(pixels), -1)
        x = self.embed(pixels.to(dtype))
        segments = inside = Segments(bounds, x.shape[0], causal=False, device=x.device)
        order = None
        if self.window is not None:
            moved, windows = window_order(positions, bounds, self.window)
            inside = Segments(windows, x.shape[0], causal=False, device=x.device)
            positions, order = positions[moved], torch.from_numpy(moved).to(x.device)
            x = x[order]
        table = self._table(torch.from_numpy(positions).to(x.device))
        for number, block in enumerate(self.blocks):
            x = block(x, table, segments if number in self.full else inside)
        if order is not None:
            x = torch.zeros_like(x).index_put((order,), x)
        return x if self.norm is None else self.norm(x)

    def _table(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Half of each head turns with the row, half with the column."""
        rows = rope_table(positions[:, 0], self.head // 2, self.theta)
        columns = rope_table(positions[:, 1], self.head // 2, self.theta)
        return torch.cat([rows[0], columns[0]], -1), torch.cat([rows[1], columns[1]], -1)


def window_order(places: np.ndarray, bounds: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """([P] an order in which each window's patches are neighbours, [N, 2] bounds of the windows in it).

    Args:
        places: [P, 2] row and column in the view.
        bounds: [V, 2] patches of each view; they keep their range.
        side: patches along a side of a window; windows begin at a view's first patch, those at its end are smaller.
    """
    view = np.repeat(np.arange(len(bounds)), bounds[:, 1] - bounds[:, 0])
    keys = np.stack([view, places[:, 0] // side, places[:, 1] // side])
    order = np.lexsort(keys[::-1])
    changes = np.flatnonzero((np.diff(keys[:, order], axis=1) != 0).any(0)) + 1
    edges = np.concatenate([[0], changes, [len(places)]])
    return order, np.stack([edges[:-1], edges[1:]], 1)
