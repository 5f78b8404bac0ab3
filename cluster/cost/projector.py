"""Projectors (pretrain/model/projector.py): an optional norm, then linears with an activation between."""

from itertools import pairwise

from cluster.cost.ops import Activation, Linear, Module, Norm, Op
from configs.projectors import LinearProjector, MlpProjector, PixelShuffleMlpProjector


def linear(config: LinearProjector, channels: int, width: int) -> Module:
    return _mlp([channels, width], norm=False)


def mlp(config: MlpProjector, channels: int, width: int) -> Module:
    hidden = config.hidden or width
    return _mlp([channels, *([hidden] * (config.depth - 1)), width], config.norm)


def pixel_shuffle_mlp(config: PixelShuffleMlpProjector, channels: int, width: int) -> Module:
    return _mlp([channels * config.factor**2, config.hidden or width, width], norm=True)


def _mlp(sizes: list[int], norm: bool) -> Module:
    ops: list[Op] = [Norm("norm", sizes[0], "layer")] if norm else []
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        if number:
            ops.append(Activation(inputs, gated=False, cut=False))
        ops.append(Linear(f"layers.{number}", inputs, outputs, bias=True))
    return Module("projector", "views", tuple(ops))
