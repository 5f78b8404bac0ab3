"""Qwen-VL's resampler (arXiv 2308.12966): one cross-attention of learned queries, 2-D sines as positions of both sides.

Legend: V views, Q queries, N features of a view, C their width, W the decoder's width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.projectors import ResamplerProjector
from pretrain.model.attention import attend_views
from pretrain.model.learned import Learned
from pretrain.model.linear import Builder, WholeLinear
from pretrain.model.norm import Norm


class Places(Learned):
    """The table of positions [Q, W]: a parameter because it is one where it was published.

    `projector.positions: 0` in `stage.train` keeps it as it is. Written here, before ZeRO-3 takes the rows apart, which it
    does at the end of a module's own making.
    """

    def __init__(self, build: Builder, queries: int, width: int):
        super().__init__(build, "projector.positions", queries, width, 0.0, ones=True)
        with torch.no_grad():
            self.weight.copy_(sines(round(queries**0.5), width))


class Resampler(nn.Module):
    """[V * N, C] -> [V * Q, W]; the features of a view are a square grid."""

    def __init__(self, build: Builder, config: ResamplerProjector, channels: int, width: int):
        super().__init__()
        self.head, eps = width // config.heads, config.norm_eps
        self.queries = Learned(build, "projector.queries", config.queries, width, build.std)
        self.positions = Places(build, config.queries, width)
        self.inward = WholeLinear(build, "projector.inward", channels, width)
        self.norm_q = Norm(build, "projector.norm_q", width, eps, "layer")
        self.norm_kv = Norm(build, "projector.norm_kv", width, eps, "layer")
        self.q = WholeLinear(build, "projector.q", width, width, bias=True)
        self.k = WholeLinear(build, "projector.k", width, width, bias=True)
        self.v = WholeLinear(build, "projector.v", width, width, bias=True)
        self.out = WholeLinear(build, "projector.out", width, width, bias=True)
        self.norm = Norm(build, "projector.norm", width, eps, "layer")
        self.outward = WholeLinear(build, "projector.outward", width, width)

    def forward(self, x: Tensor, views: int) -> Tensor:
        features = self.norm_kv(self.inward(x))
        features = features.view(views, -1, features.shape[-1])
        places = self.positions()
        queries = self.norm_q(self.queries().to(x.dtype)) + places.to(x.dtype)
        keys = features + fitted(places, features.shape[1]).to(x.dtype)
        heads = (views, -1, features.shape[-1] // self.head, self.head)
        q = self.q(queries).view(1, *heads[1:]).expand(views, -1, -1, -1)
        mixed = attend_views(q, self.k(keys).view(heads), self.v(features).view(heads))
        return self.outward(self.norm(self.out(mixed.reshape(-1, features.shape[-1]))))


def fitted(places: Tensor, count: int) -> Tensor:
    """[Q, W] positions of a square grid -> [count, W] those of another one, bicubic."""
    side, wanted = round(places.shape[0] ** 0.5), round(count**0.5)
    if side == wanted:
        return places
    square = places.float().view(1, side, side, -1).permute(0, 3, 1, 2)
    return F.interpolate(square, (wanted, wanted), mode="bicubic", align_corners=False)[0].flatten(1).t()


def sines(side: int, width: int) -> Tensor:
    """[side^2, width]: half of the channels tell the column, half the row, each by sines then cosines (MAE's table)."""
    omega = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4.0))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [axis.reshape(-1, 1).double() * omega for axis in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1).float()
