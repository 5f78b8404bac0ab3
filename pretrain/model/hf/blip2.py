"""BLIP-2 (arXiv 2301.12597): EVA's ViT-g with its class token, Q-Former, OPT."""

from configs.encoders import ViT
from configs.model import ModelConfig
from configs.projectors import QFormerProjector
from configs.resolutions import SquareResolution
from pretrain.model.hf.family import Config, Family, only
from pretrain.model.hf.rules import Rule, layer_norm, linear, viewed
from pretrain.model.hf.text import decoder_of, decoder_rules
from pretrain.model.hf.towers import CLIP_MEAN, CLIP_STD, EVA, eva_rules, vit_of

SPELLINGS = (
    ("vision_model.", "vision."),
    ("language_model.model.decoder.", "text."),
    ("language_model.lm_head.", "head."),
)


def model_of(config: Config) -> ModelConfig:
    """The composition that a published config.json is.

    Raises:
        UserError: it has something that this family does not.
    """
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    former = config.get("qformer_config") or {}
    only(text, "model_type", "opt", "opt")
    only(former, "hidden_act", "gelu", "gelu")
    only(former, "use_qformer_text_input", False, False)
    encoder = vit_of(
        vision,
        EVA,
        class_token="keep",
        qkv_bias=vision.get("qkv_bias", True),
        pixel_mean=CLIP_MEAN,
        pixel_std=CLIP_STD,
    )
    only(former, "encoder_hidden_size", 1408, encoder.width)
    return ModelConfig(
        encoder=encoder,
        resolution=SquareResolution(size=encoder.image_size),
        projector=QFormerProjector(
            queries=config.get("num_query_tokens", 32),
            width=former.get("hidden_size", 768),
            layers=former.get("num_hidden_layers", 12),
            heads=former.get("num_attention_heads", 12),
            mlp_width=former.get("intermediate_size", 3072),
            cross_every=former.get("cross_attention_frequency", 2),
            norm_eps=former.get("layer_norm_eps", 1e-12),
        ),
        decoder=decoder_of(text, "opt"),
    )


def rules_of(model: ModelConfig) -> list[Rule]:
    """All tensors of the composition; published names in short spelling."""
    assert isinstance(model.encoder, ViT)
    return [*eva_rules(model.encoder), *_former(model), *decoder_rules(model.decoder)]


def _former(model: ModelConfig) -> list[Rule]:
    projector = model.projector
    assert isinstance(projector, QFormerProjector)
    width, count, wide = projector.width, projector.queries, projector.mlp_width
    rules = [viewed("projector.queries", "query_tokens", (count, width), (1, count, width))]
    rules += layer_norm("projector.norm", "qformer.layernorm", width)
    for n in range(projector.layers):
        ours, theirs = f"projector.layers.{n}", f"qformer.encoder.layer.{n}"
        sides = [("own", "attention", width)]
        if n % projector.cross_every == 0:
            assert isinstance(model.encoder, ViT)
            sides.append(("cross", "crossattention", model.encoder.width))
        for mine, name, source in sides:
            for part, word, inputs in (("q", "query", width), ("k", "key", source), ("v", "value", source)):
                rules += linear(f"{ours}.{mine}.{part}", f"{theirs}.{name}.attention.{word}", width, inputs)
            rules += linear(f"{ours}.{mine}.out", f"{theirs}.{name}.output.dense", width, width)
            rules += layer_norm(f"{ours}.{mine}.norm", f"{theirs}.{name}.output.LayerNorm", width)
        rules += linear(f"{ours}.up", f"{theirs}.intermediate_query.dense", wide, width)
        rules += linear(f"{ours}.down", f"{theirs}.output_query.dense", width, wide)
        rules += layer_norm(f"{ours}.norm", f"{theirs}.output_query.LayerNorm", width)
    return [*rules, *linear("projector.out", "language_projection", model.decoder.width, width)]


FAMILY = Family(model_of, rules_of, SPELLINGS, {short: prefix for prefix, short in SPELLINGS}, template="blip2")
