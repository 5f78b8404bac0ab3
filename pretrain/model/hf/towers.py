"""Vision towers of published folders as settings of our ViT: CLIP, SigLIP (also Idefics3's), InternViT, BLIP-2's EVA."""

from typing import Any

from configs.encoders import ViT
from pretrain.model.hf.family import Config, activation_of, only
from pretrain.model.hf.rules import Rule, fused, layer_norm, linear, norm, same, viewed

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP: Config = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
SIGLIP = CLIP | {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
IDEFICS3 = SIGLIP | {"hidden_size": 1152, "num_attention_heads": 16, "patch_size": 32}
EVA = CLIP | {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
}
INTERNVIT: Config = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": [448, 448],
    "patch_size": [14, 14],
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "norm_type": "layer_norm",
    "attention_bias": False,
    "use_qk_norm": False,
    "use_mean_pooling": True,
}
"""What a vision_config means where it is silent: the defaults of transformers' classes."""


def vit_of(vision: Config, defaults: Config, **more: Any) -> ViT:
    """The encoder that a `vision_config` is; `more`: what the kind of tower or the family says."""
    config = defaults | {key: value for key, value in vision.items() if value is not None}
    size, patch = (one(config[key]) for key in ("image_size", "patch_size"))
    return ViT(
        patch=patch,
        image_size=size,
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        activation=activation_of(config["hidden_act"]),
        norm_eps=config["layer_norm_eps"],
        **more,
    )


def one(value: int | list[int]) -> int:
    """The side of a square that may be given twice."""
    return value if isinstance(value, int) else value[0]


def clip(vision: Config, feature_layer: int, **more: Any) -> ViT:
    """CLIP's image tower, its class token dropped (arXiv 2103.00020)."""
    settings: dict[str, Any] = {
        "class_token": "drop",
        "patch_bias": False,
        "pre_norm": True,
        "feature_layer": feature_layer,
    }
    return vit_of(vision, CLIP, **(settings | {"pixel_mean": CLIP_MEAN, "pixel_std": CLIP_STD} | more))


def intern_vit(vision: Config) -> ViT:
    """InternViT (arXiv 2312.14238), its class token dropped."""
    config = INTERNVIT | {key: value for key, value in vision.items() if value is not None}
    only(config, "use_absolute_position_embeddings", True, True)
    only(config, "use_mask_token", False, False)
    return vit_of(
        vision,
        INTERNVIT,
        norm="layer" if config["norm_type"] == "layer_norm" else "rms",
        class_token="drop",
        qkv_bias=config["attention_bias"],
        qk_norm=config["use_qk_norm"],
        layer_scale=True,
        final_norm=not config["use_mean_pooling"],
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )


def clip_rules(encoder: ViT) -> list[Rule]:
    """CLIP's and SigLIP's names, as `vision.*`."""
    width, at = encoder.width, "vision.embeddings"
    rules = patch_rules(encoder, f"{at}.patch_embedding")
    rows = encoder.side**2 + int(encoder.class_token != "none")
    if encoder.class_token != "none":
        rules.append(viewed("encoder.class_token", f"{at}.class_embedding", (1, width), (width,)))
    rules.append(same("encoder.positions.weight", f"{at}.position_embedding.weight", rows, width))
    rules += layer_norm("encoder.pre_norm", "vision.pre_layrnorm", width) if encoder.pre_norm else []
    for n in range(encoder.layers):
        ours, theirs = f"encoder.layers.{n}", f"vision.encoder.layers.{n}"
        rules += layer_norm(f"{ours}.norm1", f"{theirs}.layer_norm1", width)
        rules += layer_norm(f"{ours}.norm2", f"{theirs}.layer_norm2", width)
        for mine, name in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "out_proj")):
            rules += linear(f"{ours}.{mine}", f"{theirs}.self_attn.{name}", width, width)
        rules += linear(f"{ours}.up", f"{theirs}.mlp.fc1", encoder.mlp_width, width)
        rules += linear(f"{ours}.down", f"{theirs}.mlp.fc2", width, encoder.mlp_width)
    last = encoder.feature_layer == -1
    return [*rules, *(layer_norm("encoder.norm", "vision.post_layernorm", width) if last else [])]


def patch_rules(encoder: ViT, theirs: str) -> list[Rule]:
    """A convolution over patches as a linear layer."""
    width, patch = encoder.width, encoder.patch
    weight = viewed("encoder.embed.weight", f"{theirs}.weight", (width, 3 * patch**2), (width, 3, patch, patch))
    return [weight, *([same("encoder.embed.bias", f"{theirs}.bias", width)] if encoder.patch_bias else [])]


def behind(encoder: ViT, name: str) -> bool:
    """Whether a tensor of CLIP's or SigLIP's lies behind the features: later layers, their norm, the pooling head."""
    if name.startswith("vision.head."):
        return True
    if encoder.feature_layer == -1:
        return False
    later = tuple(f"vision.encoder.layers.{n}." for n in range(encoder.layers, encoder.depth))
    return name.startswith((*later, "vision.post_layernorm."))


def intern_vit_rules(encoder: ViT) -> list[Rule]:
    """InternViT's names, as `vision.*`."""
    width, at = encoder.width, "vision.embeddings"
    rows = encoder.side**2 + 1
    rules = patch_rules(encoder, f"{at}.patch_embeddings.projection")
    rules.append(viewed("encoder.class_token", f"{at}.cls_token", (1, width), (1, 1, width)))
    rules.append(viewed("encoder.positions.weight", f"{at}.position_embeddings", (rows, width), (1, rows, width)))
    for n in range(encoder.layers):
        ours, theirs = f"encoder.layers.{n}", f"vision.encoder.layer.{n}"
        rules += norm(f"{ours}.norm1", f"{theirs}.layernorm_before", width, encoder.norm)
        rules += norm(f"{ours}.norm2", f"{theirs}.layernorm_after", width, encoder.norm)
        for mine, name in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj")):
            rules += linear(f"{ours}.{mine}", f"{theirs}.attention.{name}", width, width, encoder.qkv_bias)
        if encoder.qk_norm:
            for part in ("q_norm", "k_norm"):
                rules.append(same(f"{ours}.{part}.weight", f"{theirs}.attention.{part}.weight", width))
        rules += linear(f"{ours}.out", f"{theirs}.attention.projection_layer", width, width)
        rules += linear(f"{ours}.up", f"{theirs}.mlp.fc1", encoder.mlp_width, width)
        rules += linear(f"{ours}.down", f"{theirs}.mlp.fc2", width, encoder.mlp_width)
        for number in (1, 2):
            rules.append(viewed(f"{ours}.scale{number}", f"{theirs}.lambda_{number}", (1, width), (width,)))
    return [*rules, *(layer_norm("encoder.norm", "vision.layernorm", width) if encoder.final_norm else [])]


def eva_rules(encoder: ViT) -> list[Rule]:
    """BLIP-2's ViT-g, as `vision.*`."""
    width, at = encoder.width, "vision.embeddings"
    rows = encoder.side**2 + 1
    rules = patch_rules(encoder, f"{at}.patch_embedding")
    rules.append(viewed("encoder.class_token", f"{at}.class_embedding", (1, width), (1, 1, width)))
    rules.append(viewed("encoder.positions.weight", f"{at}.position_embedding", (rows, width), (1, rows, width)))
    for n in range(encoder.layers):
        ours, theirs = f"encoder.layers.{n}", f"vision.encoder.layers.{n}"
        rules += layer_norm(f"{ours}.norm1", f"{theirs}.layer_norm1", width)
        rules += layer_norm(f"{ours}.norm2", f"{theirs}.layer_norm2", width)
        names = (f"{theirs}.self_attn.qkv.weight", f"{theirs}.self_attn.qkv.bias")
        rules += fused([f"{ours}.{part}" for part in "qkv"], names, [width] * 3, width, encoder.qkv_bias)
        rules += linear(f"{ours}.out", f"{theirs}.self_attn.projection", width, width)
        rules += linear(f"{ours}.up", f"{theirs}.mlp.fc1", encoder.mlp_width, width)
        rules += linear(f"{ours}.down", f"{theirs}.mlp.fc2", width, encoder.mlp_width)
    return [*rules, *layer_norm("encoder.norm", "vision.post_layernorm", width)]
