"""CogVLM (arXiv 2311.03079): EVA2-CLIP, a gated adapter, and Vicuna with a visual expert in each layer.

Transformers has no class for it: it leaves in the layout that it came in, its own code beside it. Two pictures without a
token between them are one there, because nothing says where the first one ends; here they are two. Put text between them.
"""

from configs.encoders import ViT
from configs.model import ModelConfig
from configs.projectors import GluProjector
from configs.resolutions import SquareResolution
from pretrain.model.hf.family import Config, Family, computed, only
from pretrain.model.hf.rules import Rule, fused, layer_norm, linear, same, viewed
from pretrain.model.hf.text import decoder_of, vocabulary_rules
from pretrain.model.hf.towers import CLIP_MEAN, CLIP_STD, patch_rules, vit_of

SPELLINGS = (("lm_head.", "head."), ("model.vision.", "vision."), ("model.", "text."))
VISION: Config = {
    "hidden_size": 1792,
    "intermediate_size": 15360,
    "num_hidden_layers": 63,
    "num_heads": 16,
    "image_size": 490,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
"""EVA2-CLIP-E at 490 pixels: what a vision_config means where it is silent."""


def model_of(config: Config) -> ModelConfig:
    """The composition that a published config.json is.

    Raises:
        UserError: it has something that this family does not.
    """
    vision = VISION | (config.get("vision_config") or {})
    # CogVLM2 has fewer key heads and a convolution behind its tower.
    only(config, "num_multi_query_heads", None, None)
    only(vision, "in_channels", 3, 3)
    encoder = vit_of(
        vision | {"num_attention_heads": vision["num_heads"]},
        {},
        class_token="drop",
        post_norm=True,
        final_norm=False,
        pixel_mean=CLIP_MEAN,
        pixel_std=CLIP_STD,
    )
    only(vision, "num_positions", encoder.side**2 + 1, encoder.side**2 + 1)
    decoder = decoder_of(config, "llama", expert=True, positions="shared")
    only(config, "num_key_value_heads", decoder.heads, decoder.heads)
    return ModelConfig(
        encoder=encoder,
        resolution=SquareResolution(size=encoder.image_size),
        projector=GluProjector(hidden=decoder.mlp_width, ends=True),
        decoder=decoder,
    )


def rules_of(model: ModelConfig) -> list[Rule]:
    """All tensors of the composition; published names in short spelling."""
    assert isinstance(model.encoder, ViT)
    return [*_tower(model.encoder), *_adapter(model), *_decoder(model)]


def _tower(encoder: ViT) -> list[Rule]:
    width, at = encoder.width, "vision.patch_embedding"
    rules = patch_rules(encoder, f"{at}.proj")
    rules.append(same("encoder.class_token", f"{at}.cls_embedding", 1, width))
    rules.append(same("encoder.positions.weight", f"{at}.position_embedding.weight", encoder.side**2 + 1, width))
    for n in range(encoder.layers):
        ours, theirs = f"encoder.layers.{n}", f"vision.transformer.layers.{n}"
        # Both stand behind what they norm, whatever they are called.
        rules += layer_norm(f"{ours}.norm1", f"{theirs}.input_layernorm", width)
        rules += layer_norm(f"{ours}.norm2", f"{theirs}.post_attention_layernorm", width)
        names = (f"{theirs}.attention.query_key_value.weight", f"{theirs}.attention.query_key_value.bias")
        rules += fused([f"{ours}.{part}" for part in "qkv"], names, [width] * 3, width)
        rules += linear(f"{ours}.out", f"{theirs}.attention.dense", width, width)
        rules += linear(f"{ours}.up", f"{theirs}.mlp.fc1", encoder.mlp_width, width)
        rules += linear(f"{ours}.down", f"{theirs}.mlp.fc2", width, encoder.mlp_width)
    return rules


def _adapter(model: ModelConfig) -> list[Rule]:
    encoder, projector, width, at = model.encoder, model.projector, model.decoder.width, "vision.linear_proj"
    assert isinstance(encoder, ViT) and isinstance(projector, GluProjector)
    wide = projector.hidden
    return [
        viewed("projector.begin", "vision.boi", (1, width), (1, 1, width)),
        viewed("projector.end", "vision.eoi", (1, width), (1, 1, width)),
        *linear("projector.inward", f"{at}.linear_proj", width, encoder.width, bias=False),
        *layer_norm("projector.norm", f"{at}.norm1", width),
        *linear("projector.up", f"{at}.dense_h_to_4h", wide, width, bias=False),
        *linear("projector.gate", f"{at}.gate_proj", wide, width, bias=False),
        *linear("projector.down", f"{at}.dense_4h_to_h", width, wide, bias=False),
    ]


def _decoder(model: ModelConfig) -> list[Rule]:
    decoder = model.decoder
    width, wide, mlp = decoder.width, decoder.heads * decoder.head, decoder.mlp_width
    rules = vocabulary_rules(decoder, "text.embed_tokens.weight", "head.weight")
    rules.append(same("decoder.norm.weight", "text.norm.weight", width))
    for n in range(decoder.layers):
        layer, theirs = f"decoder.layers.{n}", f"text.layers.{n}"
        rules.append(same(f"{layer}.norm1.weight", f"{theirs}.input_layernorm.weight", width))
        rules.append(same(f"{layer}.norm2.weight", f"{theirs}.post_attention_layernorm.weight", width))
        for ours, kind in ((layer, "language"), (f"{layer}.expert", "vision")):
            attention, into = f"{theirs}.self_attn.{kind}_expert", f"{theirs}.mlp.{kind}_mlp"
            names = (f"{attention}_query_key_value.weight", "")
            rules += fused([f"{ours}.{part}" for part in "qkv"], names, [wide] * 3, width, bias=False)
            rules += linear(f"{ours}.out", f"{attention}_dense", width, wide, bias=False)
            rules += linear(f"{ours}.gate", f"{into}.gate_proj", mlp, width, bias=False)
            rules += linear(f"{ours}.up", f"{into}.up_proj", mlp, width, bias=False)
            rules += linear(f"{ours}.down", f"{into}.down_proj", width, mlp, bias=False)
    return rules


FAMILY = Family(
    model_of,
    rules_of,
    SPELLINGS,
    {short: prefix for prefix, short in SPELLINGS},
    lambda model, name: computed(name),
    template="cogvlm",
)
