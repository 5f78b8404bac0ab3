"""Projectors that treat each token for itself (pretrain/model/projector.py): MLPs and CogVLM's gated one."""

from itertools import pairwise

from cluster.cost.ops import Activation, Kind, Linear, Module, Norm, Op, Repeated
from configs.projectors import (
    GluProjector,
    LinearProjector,
    MlpProjector,
    PatchMergerProjector,
    PixelShuffleLinearProjector,
    PixelShuffleMlpProjector,
)

AFTER = 1
"""Norms behind the layers are listed after all of them."""


def linear(config: LinearProjector, channels: int, width: int) -> list[Module]:
    return _mlp([channels, width], bias=config.bias)


def mlp(config: MlpProjector, channels: int, width: int) -> list[Module]:
    sizes = [channels, *([config.hidden or width] * (config.depth - 1)), width]
    before = Norm("norm", channels, "layer") if config.norm else None
    return _mlp(sizes, config.activation, before, after=config.norm_after)


def pixel_shuffle_mlp(config: PixelShuffleMlpProjector, channels: int, width: int) -> list[Module]:
    wide = channels * config.factor**2
    return _mlp([wide, config.hidden or width, width], config.activation, Norm("norm", wide, "layer"))


def pixel_shuffle_linear(config: PixelShuffleLinearProjector, channels: int, width: int) -> list[Module]:
    return _mlp([channels * config.factor**2, width], bias=config.bias)


def patch_merger(config: PatchMergerProjector, channels: int, width: int) -> list[Module]:
    wide, kind = channels * config.factor**2, config.norm
    return _mlp([wide, wide, width], before=Norm("norm", channels, _kind(kind), times=config.factor**2))


def glu(config: GluProjector, channels: int, width: int) -> list[Module]:
    hidden = config.hidden
    ops: list[Op] = [
        Linear("inward", channels, width),
        Norm("norm", width, "layer"),
        Activation("gelu", width),
        Linear("gate", width, hidden),
        Linear("up", width, hidden, first=False),
        Activation("silu", hidden, gated=True),
        Linear("down", hidden, width),
    ]
    ends: list[Op] = [Repeated(name, width, on="views") for name in ("begin", "end")] if config.ends else []
    return [Module("projector", "outputs", (*ops, *ends))]


def _kind(kind: str) -> Kind:
    return "rms" if kind == "rms" else "layer"


def _mlp(
    sizes: list[int], activation: str = "gelu", before: Norm | None = None, bias: bool = True, after: bool = False
) -> list[Module]:
    ops: list[Op] = [] if before is None else [before]
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        if number:
            ops.append(Activation(activation, inputs))
        ops.append(Linear(f"layers.{number}", inputs, outputs, bias=bias))
        if after:
            ops.append(Norm(f"norms.{number}", outputs, "layer", at=AFTER))
    return [Module("projector", "outputs", tuple(ops))]
