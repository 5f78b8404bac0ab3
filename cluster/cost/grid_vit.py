"""ViT on a learned grid (pretrain/model/vit.py): patches, positions and class token, blocks up to the feature layer."""

from cluster.cost.ops import Activation, Attend, Cut, Linear, Module, Norm, Op, Places, Scale
from configs.encoders import ViT


def modules(config: ViT, tp: int) -> list[Module]:
    """Heads are cut over TP where TP divides them and the MLP, else the encoder is whole on every rank.

    A norm over all heads' queries keeps it whole as well.
    """
    width = config.width
    cut = tp > 1 and config.heads % tp == 0 and config.mlp_width % tp == 0 and not config.qk_norm
    block = tuple(_block(config, cut))
    places = Places(config.side, width, config.class_token != "none", config.positions == "fractional")
    made = [
        Module("encoder", "cells", (Linear("embed", 3 * config.patch**2, width, bias=config.patch_bias),)),
        Module("encoder", "cells", (places,)),
    ]
    if config.pre_norm:
        made.append(Module("encoder", "patches", (Norm("pre_norm", width, "layer"),)))
    made += [Module(f"encoder.layers.{n}", "patches", block, block=width) for n in range(config.layers)]
    if config.feature_layer == -1 and config.final_norm:
        after = "patches" if config.class_token == "keep" else "cells"
        made.append(Module("encoder", after, (Norm("norm", width, config.norm),)))  # type: ignore[arg-type]
    return made


def _block(config: ViT, cut: bool) -> list[Op]:
    """In the order in which it runs; norms that come behind are listed where the real block has them."""
    width, wide, bias = config.width, config.mlp_width, config.qkv_bias
    column: Cut = "column" if cut else "whole"
    row: Cut = "row" if cut else "whole"
    ops: list[Op] = [
        Linear("q", width, width, column, bias),
        Linear("k", width, width, column, bias, first=False),
        Linear("v", width, width, column, bias, first=False),
    ]
    if config.qk_norm:
        ops += [Norm("q_norm", width), Norm("k_norm", width)]
    ops += [
        Attend(config.heads, config.heads, width // config.heads, causal=False, cut=cut, rotated=False),
        Linear("out", width, width, row, bias=True),
    ]
    mlp: list[Op] = [
        Linear("up", width, wide, column, bias=True, at=2),
        Activation(config.activation, wide, cut=cut),
        Linear("down", wide, width, row, bias=True, at=2),
    ]
    norm1, norm2 = Norm("norm1", width, config.norm, at=-1), Norm("norm2", width, config.norm, at=1)
    if config.post_norm:
        return [*ops, norm1, *mlp, norm2]
    scales = [Scale(f"scale{n}", width, at=2 * n - 2) for n in (1, 2)] if config.layer_scale else []
    return [norm1, *ops, *scales[:1], norm2, *mlp, *scales[1:]]


def channels(config: ViT) -> int:
    """Width of one cell's features."""
    return config.width
