"""Convolutional networks (pretrain/model/cnn.py, resnet.py, convnext.py): frozen, fp32, outside the parameters that ZeRO and
TP cut.
"""

from collections.abc import Iterator
from typing import NamedTuple

from cluster.cost.ops import Convolutions, Module
from configs.encoders import Cnn, ConvNext, EfficientNetLite0, ResNet

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


class Layer(NamedTuple):
    """A convolution or norm: weights that each of its places multiplies, pixels between places, elements that it holds.

    `norm`: elements that are folded away before it runs. `block`: EfficientNet's block that it is part of.
    """

    weights: int
    stride: int
    held: int
    norm: int = 0
    block: int = 0


def modules(config: Cnn, tp: int) -> list[Module]:
    layers, pixels = list(_layers(config)), config.patch**2
    flops = sum(2.0 * layer.weights * pixels / layer.stride**2 for layer in layers if _needed(config, layer))
    return [Module("encoder", "cells", (Convolutions(sum(layer.held for layer in layers), flops, pixels),))]


def parameters(config: Cnn) -> int:
    """Elements up to the feature, with scale and shift of each batch norm: what the freeze table shows."""
    return sum(layer.held + layer.norm for layer in _layers(config) if _needed(config, layer))


def channels(config: Cnn) -> int:
    """Width of one cell's features."""
    if isinstance(config, EfficientNetLite0):
        return CHANNELS[config.feature]
    assert isinstance(config, ResNet | ConvNext)
    return config.widths[-1]


def _needed(config: Cnn, layer: Layer) -> bool:
    if not isinstance(config, EfficientNetLite0):
        return True
    return layer.block <= {"neck": NECK_BLOCK, "blocks": HEAD_BLOCK - 1, "head": HEAD_BLOCK}[config.feature]


def _layers(config: Cnn) -> Iterator[Layer]:
    if isinstance(config, ResNet):
        return _resnet(config)
    return _convnext(config) if isinstance(config, ConvNext) else _efficientnet()


def _normed(weights: int, outputs: int, stride: int, block: int = 0) -> Layer:
    """A convolution whose batch norm becomes its bias."""
    return Layer(weights, stride, weights + outputs, outputs, block)


def _efficientnet() -> Iterator[Layer]:
    stride, number = 2, 0
    yield _normed(3 * 32 * 9, 32, stride, -1)
    for repeats, kernel, down, expansion, inputs, outputs in STAGES:
        for repeat in range(repeats):
            narrow = inputs if repeat == 0 else outputs
            wide = narrow * expansion
            if expansion != 1:
                yield _normed(narrow * wide, wide, stride, number)
            stride *= down if repeat == 0 else 1
            yield _normed(wide * kernel**2, wide, stride, number)
            yield _normed(wide * outputs, outputs, stride, number)
            number += 1
    yield _normed(320 * 1280, 1280, stride, HEAD_BLOCK)


def _resnet(config: ResNet) -> Iterator[Layer]:
    stride, inputs = 4, config.stem
    yield _normed(3 * inputs * 49, inputs, 2)
    for number, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
        for block in range(depth):
            before = stride
            stride *= 2 if number and not block else 1
            if inputs != width or stride != before:
                yield _normed(inputs * width, width, stride)
            if config.block == "bottleneck":
                inner = width // 4
                yield _normed(inputs * inner, inner, before)
                yield _normed(inner * inner * 9, inner, stride)
                yield _normed(inner * width, width, stride)
            else:
                yield _normed(inputs * width * 9, width, stride)
                yield _normed(width * width * 9, width, stride)
            inputs = width


def _convnext(config: ConvNext) -> Iterator[Layer]:
    stride, inputs = 4, config.widths[0]
    yield Layer(3 * inputs * 16, stride, 3 * inputs * 16 + inputs)
    yield Layer(0, stride, 2 * inputs)
    for number, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
        if number:
            yield Layer(0, stride, 2 * inputs)
            stride *= 2
            yield Layer(4 * inputs * width, stride, 4 * inputs * width + width)
        for _ in range(depth):
            weights = 49 * width + 8 * width**2
            yield Layer(weights, stride, weights + (8 + config.layer_scale) * width)
        inputs = width
