"""Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299): SigLIP on rows and columns of tiles, pixel shuffle, Llama."""

from configs.encoders import ViT
from configs.model import ModelConfig
from configs.projectors import PixelShuffleLinearProjector
from configs.resolutions import RowColumnResolution
from pretrain.model.hf.family import Config, Family, only
from pretrain.model.hf.rules import Rule, same
from pretrain.model.hf.text import decoder_of, decoder_rules, tied
from pretrain.model.hf.towers import IDEFICS3, clip_rules, vit_of

SPELLINGS = (
    ("model.vision_model.", "vision."),
    ("model.text_model.", "text."),
    ("model.connector.modality_projection.", "projector."),
    ("lm_head.", "head."),
)


def model_of(config: Config) -> ModelConfig:
    """The composition that a published config.json is.

    Raises:
        UserError: it has something that this family does not.
    """
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    only(text, "model_type", "llama", "llama", "vllama3")
    encoder = vit_of(vision, IDEFICS3, positions="fractional")
    return ModelConfig(
        encoder=encoder,
        resolution=RowColumnResolution(size=encoder.image_size, longest=4 * encoder.image_size),
        projector=PixelShuffleLinearProjector(factor=config.get("scale_factor", 2)),
        decoder=decoder_of(text | {"tie_word_embeddings": tied(config, text)}, "llama"),
    )


def rules_of(model: ModelConfig) -> list[Rule]:
    """All tensors of the composition; published names in short spelling."""
    encoder = model.encoder
    assert isinstance(encoder, ViT)
    wide = encoder.width * model.merge**2
    projector = same("projector.layers.0.weight", "projector.proj.weight", model.decoder.width, wide)
    return [*clip_rules(encoder), projector, *decoder_rules(model.decoder)]


PUBLISHED = {short: prefix for prefix, short in SPELLINGS}
FAMILY = Family(
    model_of, rules_of, SPELLINGS, PUBLISHED, template="smolvlm", chats=(("<|begin_of_text|>", "idefics3"),)
)
