"""LLaVA-1.5 (arXiv 2310.03744), LLaVA-NeXT, and LLaVA's linear projector (arXiv 2304.08485): CLIP ViT, projector, Llama."""

from configs.encoders import ViT
from configs.errors import UserError
from configs.model import ModelConfig
from configs.projectors import LinearProjector, MlpProjector
from configs.resolutions import AnyresResolution, SquareResolution
from pretrain.model.hf.family import Config, Family, only
from pretrain.model.hf.rules import Rule, linear, viewed
from pretrain.model.hf.text import decoder_of, decoder_rules, tied
from pretrain.model.hf.towers import behind, clip, clip_rules

CLIP_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""The tower of a LLaVA config.json that has none of its own."""
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
SPELLINGS = tuple(
    (before + prefix, short)
    for before in ("model.", "")
    for prefix, short in (
        ("vision_tower.vision_model.", "vision."),
        ("vision_tower.", "vision."),
        ("language_model.lm_head.", "head."),
        ("lm_head.", "head."),
        ("language_model.model.", "text."),
        ("language_model.", "text."),
        ("multi_modal_projector.", "projector."),
        ("image_newline", "image_newline"),
    )
)
PUBLISHED = {
    "vision.": "vision_tower.vision_model.",
    "head.": "language_model.lm_head.",
    "text.": "language_model.model.",
    "projector.": "multi_modal_projector.",
}


def model_of(config: Config) -> ModelConfig:
    """The composition that a published config.json is.

    Raises:
        UserError: it has something that this family does not.
    """
    vision, text = config.get("vision_config") or CLIP_L, config.get("text_config") or {}
    only(vision, "model_type", "clip_vision_model", "clip_vision_model")
    only(config, "vision_feature_select_strategy", "default", "default")
    only(config, "projector_hidden_act", "gelu", "gelu", "identity")
    only(config, "multimodal_projector_bias", True, True)
    encoder = clip(vision, config.get("vision_feature_layer", -2))
    mlp = config.get("projector_hidden_act", "gelu") == "gelu"
    kind = text.get("model_type", "llama")
    if kind not in ("llama", "mistral", "qwen2"):
        raise UserError(
            f"config.json joins CLIP and {kind}: of LLaVA, CLIP with llama, mistral or qwen2 can be imported"
        )
    anyres = None
    if config.get("model_type") == "llava_next":
        size = encoder.image_size
        points = config.get("image_grid_pinpoints") or PINPOINTS
        anyres = AnyresResolution(size=size, grids=tuple((high // size, wide // size) for high, wide in points))
    return ModelConfig(
        encoder=encoder,
        resolution=anyres or SquareResolution(size=encoder.image_size, fit="crop"),
        projector=MlpProjector() if mlp else LinearProjector(),
        decoder=decoder_of(text | {"tie_word_embeddings": tied(config, text)}, kind),
    )


def rules_of(model: ModelConfig) -> list[Rule]:
    """All tensors of the composition; published names in short spelling."""
    encoder, width = model.encoder, model.decoder.width
    assert isinstance(encoder, ViT)
    rules = clip_rules(encoder)
    if isinstance(model.projector, LinearProjector):
        rules += linear("projector.layers.0", "projector.linear", width, encoder.width)
    else:
        rules += linear("projector.layers.0", "projector.linear_1", width, encoder.width)
        rules += linear("projector.layers.1", "projector.linear_2", width, width)
    if isinstance(model.resolution, AnyresResolution):
        rules.append(viewed("projector.newline", "image_newline", (1, width), (width,)))
    return [*rules, *decoder_rules(model.decoder)]


def left_aside(model: ModelConfig, name: str) -> bool:
    """Layers behind the feature layer, and the norm after them."""
    assert isinstance(model.encoder, ViT)
    return behind(model.encoder, name)


CHATS = (("[INST]", "llava_next_mistral"), ("<|im_start|>", "chatml"))
"""LLaVA-NeXT on Mistral, and on Yi-34B; the others speak as Vicuna does."""
FAMILY = Family(model_of, rules_of, SPELLINGS, PUBLISHED, left_aside, template="vicuna", chats=CHATS)
