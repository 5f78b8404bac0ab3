"""ConvNeXt (Liu et al. 2022, arXiv 2201.03545) as a frozen encoder. Parameters are named as `ConvNextModel` of transformers has them.

Features are those of the last stage; the norm that the published classifier has behind its pooling is not held.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.encoders import ConvNext as ConvNextConfig
from pretrain.model.convolutional import FrozenCnn, normalised

EPS, FIRST_SCALE = 1e-6, 1e-6


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Depthwise 7 x 7, norm, and an MLP of four widths, added to the input."""

    def __init__(self, width: int, layer_scale: bool):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.layernorm = nn.LayerNorm(width, EPS)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_scale_parameter = nn.Parameter(torch.full((width,), FIRST_SCALE)) if layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.layernorm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(F.gelu(self.pwconv1(y)))
        if self.layer_scale_parameter is not None:
            y = self.layer_scale_parameter * y
        return x + y.permute(0, 3, 1, 2)


class ConvNext(FrozenCnn):
    """uint8 pictures [N, H, W, 3] of one size (multiples of `stride`) -> features [N, H/stride * W/stride, C], fp32."""

    def __init__(self, config: ConvNextConfig):
        super().__init__()
        self.mean, self.std = config.pixel_mean, config.pixel_std
        self.stride, self.channels = config.patch, config.widths[-1]
        first = config.widths[0]
        self.embeddings = nn.ModuleDict(
            {"patch_embeddings": nn.Conv2d(3, first, 4, 4), "layernorm": ChannelNorm(first, EPS)}
        )
        stages, inputs = [], first
        for number, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            down = [ChannelNorm(inputs, EPS), nn.Conv2d(inputs, width, 2, 2)] if number else []
            blocks = [Block(width, config.layer_scale) for _ in range(depth)]
            stages.append(nn.ModuleDict({"downsampling_layer": nn.Sequential(*down), "layers": nn.Sequential(*blocks)}))
            inputs = width
        self.encoder = nn.ModuleDict({"stages": nn.ModuleList(stages)})
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.embeddings["patch_embeddings"](normalised(pictures, self.mean, self.std))
        x = self.embeddings["layernorm"](x)
        for stage in self.encoder["stages"]:  # type: ignore[union-attr]
            x = stage["layers"](stage["downsampling_layer"](x))
        return x.flatten(2).transpose(1, 2)
