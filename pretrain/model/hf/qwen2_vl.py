"""Qwen2-VL (arXiv 2409.12191) and Qwen2.5-VL (arXiv 2502.13923): native ViT, patch merger, Qwen2 with M-RoPE."""

from typing import Any

from configs.encoders import NativeViT
from configs.model import ModelConfig
from configs.projectors import PatchMergerProjector
from configs.resolutions import NativeResolution
from pretrain.model.hf.family import Config, Family, activation_of, only
from pretrain.model.hf.rules import Rule, fused, linear, norm, viewed
from pretrain.model.hf.text import decoder_of, decoder_rules, tied
from pretrain.model.hf.towers import CLIP_MEAN, CLIP_STD

SPELLINGS = (
    ("model.visual.", "vision."),
    ("visual.", "vision."),
    ("lm_head.", "head."),
    ("model.language_model.", "text."),
    ("model.", "text."),
)
PUBLISHED = {"vision.": "visual.", "head.": "lm_head.", "text.": "model."}
LEAST, MOST = 56 * 56, 14 * 14 * 4 * 1280
"""Pixels of a picture, of the published preprocessor."""
TEXT: Config = {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64}
TEXT |= {"num_key_value_heads": 8, "vocab_size": 152064, "rms_norm_eps": 1e-05}


def model_of(config: Config) -> ModelConfig:
    """The composition that a published config.json is.

    Raises:
        UserError: it has something that this family does not.
    """
    vision = config.get("vision_config") or {}
    # Published before transformers 4.52 the language model's keys lie on the top.
    text = TEXT | {k: v for k, v in (config.get("text_config") or config).items() if v is not None}
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    newer = config["model_type"] == "qwen2_5_vl"
    encoder, factor = _newer(vision) if newer else _older(vision), vision.get("spatial_merge_size", 2)
    cell = (encoder.patch * factor) ** 2
    sections = tuple(rope.get("mrope_section", (16, 24, 24)))
    decoder = decoder_of(
        text | {"tie_word_embeddings": tied(config, text), "sliding_window": None},
        "qwen2",
        positions="mrope",
        mrope_sections=sections,
    )
    only(vision, "out_hidden_size" if newer else "hidden_size", decoder.width, decoder.width)
    return ModelConfig(
        encoder=encoder,
        resolution=NativeResolution(min_tokens=LEAST // cell, max_tokens=MOST // cell, rounding="smart_resize"),
        projector=PatchMergerProjector(factor=factor, norm=encoder.norm),
        decoder=decoder,
    )


def _older(vision: Config) -> NativeViT:
    width = vision.get("embed_dim", 1280)
    return NativeViT(
        **_shared(vision),
        width=width,
        heads=vision.get("num_heads", 16),
        mlp_width=round(width * vision.get("mlp_ratio", 4)),
        activation=activation_of(vision.get("hidden_act", "quick_gelu")),
    )


def _newer(vision: Config) -> NativeViT:
    patch = vision.get("patch_size", 14)
    return NativeViT(
        **_shared(vision),
        width=vision.get("hidden_size", 3584),
        heads=vision.get("num_heads", 16),
        mlp_width=vision.get("intermediate_size", 3420),
        activation=activation_of(vision.get("hidden_act", "silu")),
        norm="rms",
        gated=True,
        window=vision.get("window_size", 112) // patch,
        full_layers=tuple(vision.get("fullatt_block_indexes", (7, 15, 23, 31))),
    )


def _shared(vision: Config) -> dict[str, Any]:
    only(vision, "in_channels", 3, 3)
    return {
        "patch": vision.get("patch_size", 14),
        "depth": vision.get("depth", 32),
        "frames": vision.get("temporal_patch_size", 2),
        "bias": True,
        "patch_bias": False,
        "final_norm": False,
        "norm_eps": 1e-6,
        "pixel_mean": CLIP_MEAN,
        "pixel_std": CLIP_STD,
    }


def rules_of(model: ModelConfig) -> list[Rule]:
    """All tensors of the composition; published names in short spelling."""
    encoder, width = model.encoder, model.decoder.width
    assert isinstance(encoder, NativeViT)
    wide = encoder.width * model.merge**2
    return [
        *_vision(encoder),
        *norm("projector.norm", "vision.merger.ln_q", encoder.width, encoder.norm),
        *linear("projector.layers.0", "vision.merger.mlp.0", wide, wide),
        *linear("projector.layers.1", "vision.merger.mlp.2", width, wide),
        *decoder_rules(model.decoder),
    ]


def _vision(encoder: NativeViT) -> list[Rule]:
    width, patch, frames, wide = encoder.width, encoder.patch, encoder.frames, encoder.mlp_width
    flat, conv = (width, 3 * frames * patch**2), (width, 3, frames, patch, patch)
    rules = [viewed("encoder.embed.weight", "vision.patch_embed.proj.weight", flat, conv)]
    for n in range(encoder.depth):
        ours, theirs = f"encoder.blocks.{n}", f"vision.blocks.{n}"
        rules += norm(f"{ours}.norm1", f"{theirs}.norm1", width, encoder.norm)
        rules += norm(f"{ours}.norm2", f"{theirs}.norm2", width, encoder.norm)
        names = (f"{theirs}.attn.qkv.weight", f"{theirs}.attn.qkv.bias")
        rules += fused([f"{ours}.{part}" for part in "qkv"], names, [width] * 3, width)
        rules += linear(f"{ours}.out", f"{theirs}.attn.proj", width, width)
        if encoder.gated:
            rules += linear(f"{ours}.gate", f"{theirs}.mlp.gate_proj", wide, width)
        into, outof = ("up_proj", "down_proj") if encoder.gated else ("fc1", "fc2")
        rules += linear(f"{ours}.up", f"{theirs}.mlp.{into}", wide, width)
        rules += linear(f"{ours}.down", f"{theirs}.mlp.{outof}", width, wide)
    return rules


FAMILY = Family(model_of, rules_of, SPELLINGS, PUBLISHED, template="qwen2_vl")
