"""Native-resolution ViT (pretrain/model/vision.py): embedding of patches, blocks, norm."""

from cluster.cost.ops import Activation, Attend, Cut, Linear, Module, Norm
from configs.encoders import NativeViT


def modules(config: NativeViT, tp: int) -> list[Module]:
    """Heads are cut over TP where TP divides them and the MLP, else the encoder is whole on every rank."""
    width, wide = config.width, config.mlp_width
    cut = tp > 1 and config.heads % tp == 0 and wide % tp == 0
    column: Cut = "column" if cut else "whole"
    row: Cut = "row" if cut else "whole"
    head = width // config.heads
    block = (
        Norm("norm1", width, "layer"),
        Linear("q", width, width, column),
        Linear("k", width, width, column, first=False),
        Linear("v", width, width, column, first=False),
        Attend(config.heads, config.heads, head, causal=False, cut=cut),
        Linear("out", width, width, row),
        Norm("norm2", width, "layer"),
        Linear("up", width, wide, column),
        Activation(wide, gated=False, cut=cut),
        Linear("down", wide, width, row),
    )
    return [
        Module("encoder", "patches", (Linear("embed", 3 * config.patch**2, width, bias=True),)),
        *(Module(f"encoder.blocks.{n}", "patches", block) for n in range(config.depth)),
        Module("encoder", "patches", (Norm("norm", width, "layer"),)),
    ]


def channels(config: NativeViT) -> int:
    """Width of one cell's features."""
    return config.width
