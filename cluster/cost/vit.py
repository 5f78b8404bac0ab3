"""Native-resolution ViT (pretrain/model/vision.py): embedding of patches, blocks (with windows where asked for), norm."""

from cluster.cost.ops import Activation, Attend, Cut, Linear, Module, Norm, Op
from configs.encoders import NativeViT


def modules(config: NativeViT, tp: int) -> list[Module]:
    """Heads are cut over TP where TP divides them and the MLP, else the encoder is whole on every rank."""
    width, wide = config.width, config.mlp_width
    cut = tp > 1 and config.heads % tp == 0 and wide % tp == 0
    embed = Linear("embed", 3 * config.frames * config.patch**2, width, bias=config.patch_bias)
    made = [Module("encoder", "cells", (embed,))]
    whole = _block(config, cut, windows=False)
    inside = whole if config.window is None else _block(config, cut, windows=True)
    for n in range(config.depth):
        block = whole if n in config.full_layers else inside
        made.append(Module(f"encoder.blocks.{n}", "patches", block, block=width))
    if config.final_norm:
        made.append(Module("encoder", "cells", (Norm("norm", width, config.norm),)))
    return made


def _block(config: NativeViT, cut: bool, windows: bool) -> tuple[Op, ...]:
    width, wide, bias = config.width, config.mlp_width, config.bias
    column: Cut = "column" if cut else "whole"
    row: Cut = "row" if cut else "whole"
    head = width // config.heads
    ops: list[Op] = [
        Norm("norm1", width, config.norm),
        Linear("q", width, width, column, bias),
        Linear("k", width, width, column, bias, first=False),
        Linear("v", width, width, column, bias, first=False),
        Attend(config.heads, config.heads, head, causal=False, cut=cut, windows=windows),
        Linear("out", width, width, row, bias),
        Norm("norm2", width, config.norm),
    ]
    if config.gated:
        ops.append(Linear("gate", width, wide, column, bias))
    ops += [
        Linear("up", width, wide, column, bias, first=not config.gated),
        Activation(config.activation, wide, config.gated, cut),
        Linear("down", wide, width, row, bias),
    ]
    return tuple(ops)


def channels(config: NativeViT) -> int:
    """Width of one cell's features."""
    return config.width
