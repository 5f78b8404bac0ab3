"""PaliGemma (arXiv 2407.07726): SigLIP, one linear layer, Gemma; the prompt sees itself both ways."""

from configs.encoders import ViT
from configs.model import ModelConfig
from configs.projectors import LinearProjector
from configs.resolutions import SquareResolution
from pretrain.model.hf.family import Config, Family, only
from pretrain.model.hf.llava import PUBLISHED, SPELLINGS
from pretrain.model.hf.rules import Rule, linear
from pretrain.model.hf.text import decoder_of, decoder_rules, tied
from pretrain.model.hf.towers import SIGLIP, behind, clip_rules, vit_of


def model_of(config: Config) -> ModelConfig:
    """The composition that a published config.json is.

    Raises:
        UserError: it has something that this family does not.
    """
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    only(vision, "model_type", "siglip_vision_model", "siglip_vision_model")
    only(text, "model_type", "gemma", "gemma")
    encoder = vit_of(vision, SIGLIP)
    decoder = decoder_of(
        text | {"tie_word_embeddings": tied(config, text, True)}, "gemma", attention="prefix", first_position=1
    )
    return ModelConfig(
        encoder=encoder,
        resolution=SquareResolution(size=encoder.image_size),
        projector=LinearProjector(),
        decoder=decoder,
    )


def rules_of(model: ModelConfig) -> list[Rule]:
    """All tensors of the composition; published names in short spelling."""
    assert isinstance(model.encoder, ViT)
    projector = linear("projector.layers.0", "projector.linear", model.decoder.width, model.encoder.width)
    return [*clip_rules(model.encoder), *projector, *decoder_rules(model.decoder)]


def left_aside(model: ModelConfig, name: str) -> bool:
    """SigLIP's pooling head."""
    assert isinstance(model.encoder, ViT)
    return behind(model.encoder, name)


FAMILY = Family(model_of, rules_of, SPELLINGS, PUBLISHED, left_aside, template="paligemma")
