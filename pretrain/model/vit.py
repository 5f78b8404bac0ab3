"""Vision transformer on a fixed grid of learned positions.

ViT, CLIP (arXiv 2103.00020), SigLIP (arXiv 2303.15343), EVA (arXiv 2211.07636, 2303.15389), InternViT (arXiv 2312.14238).

All views of a micro-step in one sequence, each its own segment. Legend: P patches, V views, C width, H heads, D head size.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.encoders import ViT
from pretrain.model.activations import ACTIVATIONS
from pretrain.model.attention import Segments, attend
from pretrain.model.learned import Learned, Lookup
from pretrain.model.linear import Builder, ColumnLinear, LogicalTensor, RowLinear, WholeLinear, fill
from pretrain.model.norm import Norm

QK_NORM_EPS = 1e-6


class Places(nn.Module):
    """Adds learned positions; puts the class token, if there is one, before each view.

    `weight` [class token + side^2, C] is in the published order: the class token's position first.
    """

    def __init__(self, build: Builder, config: ViT):
        super().__init__()
        self.side, self.extra = config.side, int(config.class_token != "none")
        self.fractional = config.positions == "fractional"
        shape = (self.extra + self.side**2, config.width)
        self.weight = nn.Parameter(torch.empty(shape, dtype=build.dtype, device=build.device))
        fill(self.weight, build, LogicalTensor("encoder.positions.weight", shape), build.std)
        self.token = None
        if self.extra:
            self.token = nn.Parameter(torch.empty(1, config.width, dtype=build.dtype, device=build.device))
            fill(self.token, build, LogicalTensor("encoder.class_token", (1, config.width)), build.std)

    def forward(self, x: Tensor, places: np.ndarray, bounds: np.ndarray) -> tuple[Tensor, np.ndarray, Tensor]:
        """x [P, C], places [P, 2], bounds [V, 2] -> sequence [P (+ V), C], its bounds, where its patches are [P]."""
        x = x + self._of(places, bounds, x.device).to(x.dtype)
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

    def _of(self, places: np.ndarray, bounds: np.ndarray, device: torch.device) -> Tensor:
        """[P, C] positions; those of a view of another grid are interpolated bicubically, or the nearest one's."""
        grid = self.weight[self.extra :]
        shapes = [tuple((places[start:end].max(0) + 1).tolist()) for start, end in bounds.tolist()]
        if self.fractional or all(shape in ((self.side, self.side), (1, 1)) for shape in shapes):
            own = places
            if self.fractional:
                parts = [nearest(places[a:b], shape, self.side) for (a, b), shape in zip(bounds, shapes, strict=True)]
                own = np.concatenate(parts)
            index = torch.from_numpy(own[:, 0].astype(np.int64) * self.side + own[:, 1])
            return Lookup.apply(index.to(device), grid)  # type: ignore[return-value]
        pieces, square = [], grid.float().view(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        for (start, end), shape in zip(bounds.tolist(), shapes, strict=True):
            at = torch.from_numpy(places[start:end].astype(np.int64)).to(device)
            fitted = square
            if shape != (self.side, self.side):
                fitted = F.interpolate(square, shape, mode="bicubic", align_corners=False)
            pieces.append(fitted[0, :, at[:, 0], at[:, 1]].t())
        return torch.cat(pieces)


def nearest(places: np.ndarray, shape: tuple[int, ...], side: int) -> np.ndarray:
    """[P, 2] places in a view of `shape` cells -> those of a grid of side x side (Idefics3, with its float32 buckets)."""
    edges = torch.arange(1 / side, 1.0, 1 / side)
    found = []
    for count in shape:
        parts = torch.arange(count, dtype=torch.float32) * (1.0 / torch.tensor(count))
        found.append(torch.bucketize(parts.clamp(max=1.0 - 1e-6), edges, right=True).numpy())
    return np.stack([found[0][places[:, 0]], found[1][places[:, 1]]], 1)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); heads cut over TP where TP divides them, else whole.

    With `post_norm` the norms come behind attention and MLP; with `layer_scale` a learned factor does.
    """

    def __init__(self, build: Builder, number: int, config: ViT, cut: bool):
        super().__init__()
        name, width, std = f"encoder.layers.{number}", config.width, build.std / (2 * config.depth) ** 0.5
        column, row = (ColumnLinear, RowLinear) if cut else (WholeLinear, WholeLinear)
        self.head, self.activation = width // config.heads, ACTIVATIONS[config.activation]
        self.post_norm, bias = config.post_norm, config.qkv_bias
        self.norm1 = Norm(build, f"{name}.norm1", width, config.norm_eps, config.norm)
        self.q = column(build, f"{name}.q", width, width, bias=bias)
        self.k = column(build, f"{name}.k", width, width, bias=bias)
        self.v = column(build, f"{name}.v", width, width, bias=bias)
        self.q_norm = Norm(build, f"{name}.q_norm", width, QK_NORM_EPS) if config.qk_norm else None
        self.k_norm = Norm(build, f"{name}.k_norm", width, QK_NORM_EPS) if config.qk_norm else None
        self.out = row(build, f"{name}.out", width, width, std=std, bias=True)
        self.scale1 = Learned(build, f"{name}.scale1", 1, width, 0.1, ones=True) if config.layer_scale else None
        self.norm2 = Norm(build, f"{name}.norm2", width, config.norm_eps, config.norm)
        self.up = column(build, f"{name}.up", width, config.mlp_width, bias=True)
        self.down = row(build, f"{name}.down", config.mlp_width, width, std=std, bias=True)
        self.scale2 = Learned(build, f"{name}.scale2", 1, width, 0.1, ones=True) if config.layer_scale else None

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        if self.post_norm:
            x = x + self.norm1(self._attention(x, segments))
            return x + self.norm2(self._mlp(x))
        mixed = self._attention(self.norm1(x), segments)
        x = x + (mixed if self.scale1 is None else mixed * self.scale1().to(x.dtype))
        made = self._mlp(self.norm2(x))
        return x + (made if self.scale2 is None else made * self.scale2().to(x.dtype))

    def _attention(self, h: Tensor, segments: Segments) -> Tensor:
        q, k, v = self.q(h), self.k(h), self.v(h)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.view(h.shape[0], -1, self.head) for part in (q, k, v))
        return self.out(attend(q, k, v, segments).reshape(h.shape[0], -1))

    def _mlp(self, h: Tensor) -> Tensor:
        return self.down(self.activation(self.up(h)))


class GridViT(nn.Module):
    """[P, 3 * patch * patch] uint8 pixels, [P, 2] row and column -> [P, C] features of `config.feature_layer`.

    Where the class token is kept, each view has it before its patches: [P + V, C].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, build: Builder, config: ViT):
        super().__init__()
        self.channels, area = config.width, config.patch**2
        divided = config.heads % build.tp_size == 0 and config.mlp_width % build.tp_size == 0
        # A norm over all heads' queries needs them all on one rank.
        cut = build.tp_size > 1 and divided and not config.qk_norm
        self.keep = config.class_token == "keep"
        for name, values in (("mean", config.pixel_mean), ("std", config.pixel_std)):
            scaled = 255.0 * torch.tensor(values, device=build.device).repeat_interleave(area)
            self.register_buffer(name, scaled, persistent=False)
        self.embed = WholeLinear(build, "encoder.embed", 3 * area, config.width, bias=config.patch_bias)
        self.positions = Places(build, config)
        self.pre_norm = (
            Norm(build, "encoder.pre_norm", config.width, config.norm_eps, "layer") if config.pre_norm else None
        )
        self.layers = nn.ModuleList(Block(build, i, config, cut) for i in range(config.layers))
        last = config.feature_layer == -1 and config.final_norm
        self.norm = Norm(build, "encoder.norm", config.width, config.norm_eps, config.norm) if last else None

    def forward(self, patches: Tensor, positions: np.ndarray, bounds: np.ndarray, dtype: torch.dtype) -> Tensor:
        x = self.embed(((patches.float() - self.mean) / self.std).to(dtype))
        x, moved, where = self.positions(x, positions, bounds)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        segments = Segments(moved, x.shape[0], causal=False, device=x.device)
        for layer in self.layers:
            x = layer(x, segments)
        x = x if self.keep else x[where]
        return x if self.norm is None else self.norm(x)
