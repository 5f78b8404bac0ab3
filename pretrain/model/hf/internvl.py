"""InternVL 2.5 and 3 (arXiv 2412.05271, 2504.10479): InternViT on tiles with a thumbnail, pixel-shuffle MLP, Qwen2 or Llama."""

from configs.encoders import ViT
from configs.model import ModelConfig
from configs.projectors import PixelShuffleMlpProjector
from configs.resolutions import TilesResolution
from pretrain.model.hf.family import Config, Family, only
from pretrain.model.hf.llava import PUBLISHED, SPELLINGS
from pretrain.model.hf.rules import Rule, layer_norm, linear
from pretrain.model.hf.text import decoder_of, decoder_rules, tied
from pretrain.model.hf.towers import intern_vit, intern_vit_rules

TILES = 12


def model_of(config: Config) -> ModelConfig:
    """The composition that a published config.json is.

    Raises:
        UserError: it has something that this family does not.
    """
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    only(config, "vision_feature_layer", -1, -1)
    only(config, "vision_feature_select_strategy", "default", "default")
    only(config, "projector_hidden_act", "gelu", "gelu")
    encoder, factor = intern_vit(vision), round(1 / config.get("downsample_ratio", 0.5))
    return ModelConfig(
        encoder=encoder,
        resolution=TilesResolution(size=encoder.image_size, max_tiles=TILES),
        projector=PixelShuffleMlpProjector(factor=factor),
        decoder=decoder_of(text | {"tie_word_embeddings": tied(config, text)}, text.get("model_type", "qwen2")),
    )


def rules_of(model: ModelConfig) -> list[Rule]:
    """All tensors of the composition; published names in short spelling."""
    encoder, width, wide = model.encoder, model.decoder.width, 0
    assert isinstance(encoder, ViT)
    wide = encoder.width * model.merge**2
    return [
        *intern_vit_rules(encoder),
        *layer_norm("projector.norm", "projector.layer_norm", wide),
        *linear("projector.layers.0", "projector.linear_1", width, wide),
        *linear("projector.layers.1", "projector.linear_2", width, width),
        *decoder_rules(model.decoder),
    ]


FAMILY = Family(model_of, rules_of, SPELLINGS, PUBLISHED | {"vision.": "vision_tower."}, template="internvl")
