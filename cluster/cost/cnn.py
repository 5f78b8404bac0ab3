"""EfficientNet-Lite0 (pretrain/model/cnn.py): frozen, fp32, outside the parameters that ZeRO and TP cut."""

from collections.abc import Iterator

from cluster.cost.ops import Convolutions, Module
from configs.encoders import EfficientNetLite0

STAGES = (  # repeats, kernel, stride, expansion, channels in, out (Tan & Le 2019; Lite variant)
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
CHANNELS = {"blocks": 320, "head": 1280, "neck": 448}
NECK_BLOCK = 10
HEAD_BLOCK = 16


def modules(config: EfficientNetLite0, tp: int) -> list[Module]:
    whole = list(_convolutions())
    elements = sum(weights + channels for _, weights, channels, _ in whole)
    flops = sum(cost for block, _, _, cost in whole if _needed(config.feature, block))
    return [Module("encoder", "outputs", (Convolutions(elements, flops),))]


def parameters(config: EfficientNetLite0) -> int:
    """Elements up to the feature, with scale and shift of each batch norm: what the freeze table shows."""
    return sum(
        weights + 2 * channels for block, weights, channels, _ in _convolutions() if _needed(config.feature, block)
    )


def channels(config: EfficientNetLite0) -> int:
    """Width of one cell's features."""
    return CHANNELS[config.feature]


def _needed(feature: str, block: int) -> bool:
    return block <= {"neck": NECK_BLOCK, "blocks": HEAD_BLOCK - 1, "head": HEAD_BLOCK}[feature]


def _convolutions() -> Iterator[tuple[int, int, int, float]]:
    """(block, elements of the weight, channels out, FLOPs for one 32 x 32 cell) of each convolution."""
    stride = 2
    yield -1, 3 * 32 * 9, 32, _cost(3 * 32 * 9, stride)
    number = 0
    for repeats, kernel, down, expansion, inputs, outputs in STAGES:
        for repeat in range(repeats):
            narrow = inputs if repeat == 0 else outputs
            wide = narrow * expansion
            if expansion != 1:
                yield number, narrow * wide, wide, _cost(narrow * wide, stride)
            stride *= down if repeat == 0 else 1
            yield number, wide * kernel**2, wide, _cost(wide * kernel**2, stride)
            yield number, wide * outputs, outputs, _cost(wide * outputs, stride)
            number += 1
    yield HEAD_BLOCK, 320 * 1280, 1280, _cost(320 * 1280, stride)


def _cost(weights: int, stride: int) -> float:
    return 2.0 * weights * (32 / stride) ** 2
