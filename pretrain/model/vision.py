"""Native-resolution vision transformer: patches of all pictures of a micro-step in one sequence.

Pre-norm blocks with 2-D RoPE (Qwen2-VL, arXiv 2409.12191). Legend: P patches, C width, H heads, D head size.
"""

import logging

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.model import NativeViT
from pretrain.model.attention import Segments, attend, rope_table, rotate
from pretrain.model.linear import Builder, ColumnLinear, Norm, RowLinear, WholeLinear

log = logging.getLogger(__name__)
PIXEL_MEAN, PIXEL_STD = 127.5, 127.5


class VisionBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); heads cut over TP where TP divides them, else whole."""

    def __init__(self, build: Builder, name: str, config: NativeViT, cut: bool):
        super().__init__()
        width, std = config.width, build.std / (2 * config.depth) ** 0.5
        column = ColumnLinear if cut else WholeLinear
        row = RowLinear if cut else WholeLinear
        self.head = width // config.heads
        self.norm1 = Norm(build, f"{name}.norm1", width, config.norm_eps, "layer")
        self.q = column(build, f"{name}.q", width, width)
        self.k = column(build, f"{name}.k", width, width)
        self.v = column(build, f"{name}.v", width, width)
        self.out = row(build, f"{name}.out", width, width, std=std)
        self.norm2 = Norm(build, f"{name}.norm2", width, config.norm_eps, "layer")
        self.up = column(build, f"{name}.up", width, config.mlp_width)
        self.down = row(build, f"{name}.down", config.mlp_width, width, std=std)

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor], segments: Segments) -> Tensor:
        h = self.norm1(x)
        q, k, v = (part(h).view(x.shape[0], -1, self.head) for part in (self.q, self.k, self.v))
        x = x + self.out(attend(rotate(q, table), rotate(k, table), v, segments).reshape(x.shape[0], -1))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class VisionTransformer(nn.Module):
    """[P, 3 * patch * patch] uint8 pixels, [P, 2] row and column -> [P, C] features."""

    def __init__(self, build: Builder, config: NativeViT):
        super().__init__()
        self.theta, self.head, self.channels = config.rope_theta, config.width // config.heads, config.width
        cut = build.tp_size > 1 and config.heads % build.tp_size == 0 and config.mlp_width % build.tp_size == 0
        if build.tp_size > 1 and not cut:
            log.info(
                "encoder: %d heads are not divided by tp %d: kept whole on every rank", config.heads, build.tp_size
            )
        self.embed = WholeLinear(build, "encoder.embed", 3 * config.patch**2, config.width, bias=True)
        self.blocks = nn.ModuleList(VisionBlock(build, f"encoder.blocks.{i}", config, cut) for i in range(config.depth))
        self.norm = Norm(build, "encoder.norm", config.width, config.norm_eps, "layer")

    def forward(self, patches: Tensor, positions: Tensor, bounds: np.ndarray, dtype: torch.dtype) -> Tensor:
        x = self.embed(((patches.float() - PIXEL_MEAN) / PIXEL_STD).to(dtype))
        # Half of each head turns with the row, half with the column.
        rows = rope_table(positions[:, 0], self.head // 2, self.theta)
        columns = rope_table(positions[:, 1], self.head // 2, self.theta)
        table = (torch.cat([rows[0], columns[0]], -1), torch.cat([rows[1], columns[1]], -1))
        segments = Segments(bounds, x.shape[0], causal=False, device=x.device)
        for block in self.blocks:
            x = block(x, table, segments)
        return self.norm(x)
