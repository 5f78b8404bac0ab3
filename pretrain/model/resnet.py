"""ResNet (He et al. 2016, arXiv 1512.03385) as a frozen encoder. Parameters are named as `ResNetModel` of transformers has them."""

from torch import Tensor, nn
from torch.nn import functional as F

from configs.encoders import ResNet as ResNetConfig
from pretrain.model.convolutional import FrozenCnn, absorb, normalised


class ConvNorm(nn.Module):
    """Convolution with half its kernel as padding, batch norm, and ReLU where `active`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, active: bool = True):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.normalization: nn.Module = nn.BatchNorm2d(outputs)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalization(self.convolution(x))
        return F.relu(x, inplace=True) if self.active else x


class Block(nn.Module):
    """Two or three convolutions, added to the input (or to its projection where the shape changes), then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool):
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = ConvNorm(inputs, outputs, 1, stride, active=False)
        if bottleneck:
            inner = outputs // 4
            self.layer = nn.Sequential(
                ConvNorm(inputs, inner, 1),
                ConvNorm(inner, inner, 3, stride),
                ConvNorm(inner, outputs, 1, active=False),
            )
        else:
            self.layer = nn.Sequential(
                ConvNorm(inputs, outputs, 3, stride), ConvNorm(outputs, outputs, 3, active=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x) + self.shortcut(x), inplace=True)


class ResNet(FrozenCnn):
    """uint8 pictures [N, H, W, 3] of one size (multiples of `stride`) -> features [N, H/stride * W/stride, C], fp32."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        self.mean, self.std = config.pixel_mean, config.pixel_std
        self.stride, self.channels = config.patch, config.widths[-1]
        self.embedder = nn.ModuleDict({"embedder": ConvNorm(3, config.stem, 7, 2)})
        stages, inputs = [], config.stem
        for number, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            bottleneck, blocks = config.block == "bottleneck", []
            for block in range(depth):
                blocks.append(Block(inputs, width, 2 if number and not block else 1, bottleneck))
                inputs = width
            stages.append(nn.ModuleDict({"layers": nn.Sequential(*blocks)}))
        self.encoder = nn.ModuleDict({"stages": nn.ModuleList(stages)})
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.embedder["embedder"](normalised(pictures, self.mean, self.std))
        x = F.max_pool2d(x, 3, 2, 1)
        for stage in self.encoder["stages"]:  # type: ignore[union-attr]
            x = stage["layers"](x)
        return x.flatten(2).transpose(1, 2)

    def fold(self) -> None:
        for part in self.modules():
            if isinstance(part, ConvNorm) and isinstance(part.normalization, nn.BatchNorm2d):
                absorb(part.convolution, part.normalization)
                part.normalization = nn.Identity()
