"""ViT on a learned grid (pretrain/model/vit.py): patches, positions, blocks with biases up to the feature layer."""

from cluster.cost.ops import Activation, Attend, Cut, Linear, Module, Norm, Repeated
from configs.encoders import ViT


def modules(config: ViT, tp: int) -> list[Module]:
    """Heads are cut over TP where TP divides them and the MLP, else the encoder is whole on every rank."""
    width, wide = config.width, config.mlp_width
    cut = tp > 1 and config.heads % tp == 0 and wide % tp == 0
    column: Cut = "column" if cut else "whole"
    row: Cut = "row" if cut else "whole"
    block = (
        Norm("norm1", width, "layer"),
        Linear("q", width, width, column, bias=True),
        Linear("k", width, width, column, bias=True, first=False),
        Linear("v", width, width, column, bias=True, first=False),
        Attend(config.heads, config.heads, width // config.heads, causal=False, cut=cut),
        Linear("out", width, width, row, bias=True),
        Norm("norm2", width, "layer"),
        Linear("up", width, wide, column, bias=True),
        Activation(wide, gated=False, cut=cut),
        Linear("down", wide, width, row, bias=True),
    )
    token = (Repeated("class_token", width),) if config.class_token != "none" else ()
    rows = config.side**2 + len(token)
    ending = (Norm("norm", width, "layer"),) if config.feature_layer == -1 else ()
    made = [
        Module("encoder", "patches", (Linear("embed", 3 * config.patch**2, width, bias=config.patch_bias),)),
        Module("encoder", "patches", (Repeated("positions.weight", width, rows), *token)),
        *([Module("encoder", "patches", (Norm("pre_norm", width, "layer"),))] if config.pre_norm else []),
        *(Module(f"encoder.layers.{n}", "patches", block) for n in range(config.layers)),
    ]
    return [*made, Module("encoder", "patches", ending)] if ending else made


def channels(config: ViT) -> int:
    """Width of one cell's features."""
    return config.width
