"""Tiny compositions of every family and of every choice that is in none: what test_cost_families.py measures."""

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
REFERENCES: dict[str, dict[str, Any]] = {
    "llava_v1": {
        "encoder": CLIP,
        "resolution": {**SQUARE, "fit": "crop"},
        "projector": {"type": "linear"},
        "decoder": {**LLAMA, "kv_heads": 4},
    },
    "yi_vl": {
        "encoder": {**CLIP, "activation": "gelu"},
        "resolution": {**SQUARE, "fit": "pad"},
        "projector": {"type": "mlp", "norm_after": True},
        "decoder": LLAMA,
    },
    "qwen_vl": {
        "encoder": {**CLIP, "activation": "gelu", "class_token": "none", "final_norm": False, "feature_layer": -1},
        "resolution": {**SQUARE, "size": 56},
        "projector": {"type": "resampler", "queries": 9, "heads": 4},
        "decoder": {**LLAMA, "kv_heads": None, "qkv_bias": True, "head_size": 8},
    },
    "cogvlm": {
        "encoder": {**CLIP, "activation": "gelu", "pre_norm": False, "post_norm": True, "final_norm": False}
        | {"patch_bias": True, "feature_layer": -1, "heads": 2},
        "resolution": SQUARE,
        "projector": {"type": "glu", "hidden": 48, "ends": True},
        "decoder": {**LLAMA, "kv_heads": None, "expert": True, "positions": "shared"},
    },
}
"""Families without a class in transformers."""
GRID = {**CLIP, "class_token": "none", "pre_norm": False, "feature_layer": -1}
OTHERS: dict[str, dict[str, Any]] = {
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
}


def families(transformers: Any) -> dict[str, dict[str, Any]]:
    """Name -> a tiny ModelConfig as a tree: classes of transformers, references, and other choices."""
    from pretrain.model.hf.families import family_of
    from tests.families.tiny import FAMILIES

    made: dict[str, dict[str, Any]] = {}
    for name, tiny in FAMILIES.items():
        config = tiny.make(transformers).config.to_dict()
        model = family_of(config, name).model_of(config)
        if tiny.trained_at is not None:
            model = ModelConfig.model_validate(model.model_dump() | {"resolution": tiny.trained_at})
        made[name] = model.model_dump(mode="json")
    return made | REFERENCES | OTHERS
