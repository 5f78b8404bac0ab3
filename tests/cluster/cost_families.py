"""Tiny compositions of every family, and of choices that are in none: what test_cost_families.py measures."""

from typing import Any

from configs.model import ModelConfig

VOCABULARY = 331
CLIP = {
    "type": "vit",
    "patch": 14,
    "image_size": 42,
    "width": 24,
    "depth": 3,
    "heads": 3,
    "mlp_width": 40,
    "activation": "quick_gelu",
    "class_token": "drop",
    "patch_bias": False,
    "pre_norm": True,
    "feature_layer": -2,
}
LLAMA = {
    "layers": 2,
    "width": 32,
    "heads": 4,
    "kv_heads": 1,
    "mlp_width": 48,
    "vocab_size": VOCABULARY,
    "tied_head": False,
    "max_length": 512,
}
SQUARE = {"type": "square", "size": 42}
GRID = {**CLIP, "class_token": "none", "pre_norm": False, "feature_layer": -1}
OTHERS: dict[str, dict[str, Any]] = {
    "post_norm": {
        "encoder": {**GRID, "class_token": "keep", "post_norm": True, "patch_bias": True, "heads": 2},
        "resolution": SQUARE,
        "projector": {"type": "glu", "hidden": 48, "ends": True},
        "decoder": {**LLAMA, "kv_heads": None, "expert": True, "positions": "shared"},
    },
    "perceiver": {
        "encoder": {**GRID, "image_size": 56, "heads": 2},
        "resolution": {"type": "tiles", "size": 56, "max_tiles": 4},
        "projector": {"type": "perceiver", "queries": 5, "layers": 2, "heads": 4, "kv_heads": 2, "head_size": 6},
        "decoder": {**LLAMA, "activation": "relu", "qk_norm": 1.5, "bias": True},
    },
    "shuffled": {
        "encoder": {**GRID, "image_size": 28, "positions": "fractional", "activation": "gelu_tanh"},
        "resolution": {"type": "native", "max_tokens": 12},
        "projector": {"type": "pixel_shuffle_mlp", "hidden": 20},
        "decoder": {**LLAMA, "gated": False, "activation": "relu", "norm": "layer", "tied_head": True, "kv_heads": 2},
    },
    "interpolated": {
        "encoder": {**GRID, "image_size": 28, "class_token": "drop"},
        "resolution": {"type": "native", "max_tokens": 12},
        "projector": {"type": "mlp", "depth": 3, "hidden": 20, "norm": True, "activation": "silu"},
        "decoder": {**LLAMA, "gated": False, "activation": "gelu", "scale_embeddings": True},
    },
    "windows": {
        "encoder": {"type": "native_vit", "patch": 14, "width": 24, "depth": 2, "heads": 2, "mlp_width": 40}
        | {"window": 3, "bias": True},
        "resolution": {"type": "native", "max_tokens": 12},
        "projector": {"type": "patch_merger", "norm": "rms"},
        "decoder": {**LLAMA, "expert": True, "activation": "gelu_tanh", "kv_heads": 2},
    },
    "cnn": {
        "encoder": {"type": "efficientnet_lite0", "feature": "neck"},
        "resolution": {"type": "native", "max_tokens": 12},
        "projector": {"type": "linear", "bias": False},
        "decoder": {**LLAMA, "activation": "gelu", "attention": "prefix"},
    },
    "resnet": {
        "encoder": {"type": "resnet", "depths": [1, 2], "widths": [16, 20], "stem": 8},
        "resolution": {"type": "native", "max_tokens": 12},
        "projector": {"type": "pixel_shuffle_linear"},
        "decoder": LLAMA,
    },
    "basic": {
        "encoder": {"type": "resnet", "depths": [2, 1, 1], "widths": [8, 8, 20], "block": "basic", "pool": "mean"},
        "resolution": {"type": "tiles", "size": 64, "max_tiles": 4},
        "projector": {"type": "mlp", "norm": True},
        "decoder": LLAMA,
    },
    "convnext": {
        "encoder": {"type": "convnext", "depths": [1, 2, 1], "widths": [12, 16, 20], "pool": "mean"},
        "resolution": {"type": "native", "max_tokens": 12},
        "projector": {"type": "linear"},
        "decoder": LLAMA,
    },
}

OTHERS["cnn_merged"] = {**OTHERS["cnn"], "projector": {"type": "pixel_shuffle_mlp"}}


def families(transformers: Any) -> dict[str, dict[str, Any]]:
    """Name -> a tiny ModelConfig as a tree: classes of transformers, families without one, and other choices."""
    from pretrain.model.hf.families import family_of
    from tests.families.originals import ORIGINALS, tower_of
    from tests.families.tiny import FAMILIES

    made: dict[str, dict[str, Any]] = {}
    for name, tiny in FAMILIES.items():
        config = tiny.make(transformers).config.to_dict()
        model = family_of(config, name).model_of(config)
        if tiny.trained_at is not None:
            model = ModelConfig.model_validate(model.model_dump() | {"resolution": tiny.trained_at})
        made[name] = model.model_dump(mode="json")
    for name, module in ORIGINALS.items():
        config, tower = module.TINY, tower_of(name, module.TINY)
        config = config if tower is None else {**config, "vision_config": tower}
        made[name] = family_of(config, name).model_of(config).model_dump(mode="json")
    return made | OTHERS
