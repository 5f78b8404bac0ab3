"""LLaVA-1.5 (arXiv 2310.03744) and LLaVA's linear projector (arXiv 2304.08485): CLIP ViT, projector, Llama."""

from typing import Any

from configs.errors import UserError
from configs.model import DecoderConfig, LinearProjector, MlpProjector, ModelConfig, SquareResolution, ViT
from pretrain.model.hf.rules import Rule, layer_norm, linear, padded, same, viewed

MULTIPLE = 64
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def model_of(config: dict[str, Any]) -> ModelConfig:
    """The composition that a published config.json is.

    Raises:
        UserError: it has something that this family does not.
    """
    vision, text = config["vision_config"], config["text_config"]
    if (
        vision.get("model_type", "clip_vision_model") != "clip_vision_model"
        or text.get("model_type", "llama") != "llama"
    ):
        raise UserError(
            f"config.json joins {vision.get('model_type')} and {text.get('model_type')}: of LLaVA, CLIP with Llama can be imported"
        )
    if config.get("vision_feature_select_strategy", "default") != "default":
        raise UserError(
            "config.json keeps the class token (vision_feature_select_strategy full): only `default` can be imported"
        )
    if config.get("projector_hidden_act", "gelu") not in ("gelu", "identity"):
        raise UserError(
            f"config.json has projector_hidden_act {config['projector_hidden_act']}: gelu or identity can be imported"
        )
    heads, width = text.get("num_attention_heads", 32), text.get("hidden_size", 4096)
    if text.get("head_dim") not in (None, width // heads):
        raise UserError(f"config.json has head_dim {text['head_dim']}, not {width} / {heads}: this cannot be imported")
    rope = text.get("rope_parameters") or {"rope_theta": text.get("rope_theta", 10000.0)}
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"config.json has rope_type {rope['rope_type']}: only plain RoPE can be imported")
    size = vision.get("image_size", 336)
    return ModelConfig(
        encoder=ViT(
            patch=vision.get("patch_size", 14),
            image_size=size,
            width=vision.get("hidden_size", 1024),
            depth=vision.get("num_hidden_layers", 24),
            heads=vision.get("num_attention_heads", 16),
            mlp_width=vision.get("intermediate_size", 4096),
            activation=vision.get("hidden_act", "quick_gelu"),
            norm_eps=vision.get("layer_norm_eps", 1e-5),
            class_token=True,
            patch_bias=False,
            pre_norm=True,
            feature_layer=config.get("vision_feature_layer", -2),
            pixel_mean=CLIP_MEAN,
            pixel_std=CLIP_STD,
        ),
        resolution=SquareResolution(size=size),
        projector=MlpProjector() if config.get("projector_hidden_act", "gelu") == "gelu" else LinearProjector(),
        decoder=DecoderConfig(
            layers=text.get("num_hidden_layers", 32),
            width=width,
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            mlp_width=text.get("intermediate_size", 11008),
            rope_theta=rope["rope_theta"],
            norm_eps=text.get("rms_norm_eps", 1e-5),
            tied_head=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
            vocab_size=text.get("vocab_size", 32064),
            vocab_multiple=MULTIPLE,
            max_length=text.get("max_position_embeddings", 4096),
        ),
    )


def rules_of(model: ModelConfig) -> list[Rule]:
    """All tensors of the composition; published names as `normalised` gives them."""
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, ViT) and decoder.vocab_size is not None
    return [*_vision(encoder), *_projector(model, encoder), *_decoder(decoder, decoder.vocab_size)]


def left_aside(model: ModelConfig, name: str) -> bool:
    """Whether a published tensor is none of the composition's: layers behind the feature layer, and the norm after them."""
    encoder = model.encoder
    assert isinstance(encoder, ViT)
    if encoder.feature_layer == -1:
        return False
    behind = tuple(f"vision.encoder.layers.{n}." for n in range(encoder.layers, encoder.depth))
    return name.startswith((*behind, "vision.post_layernorm."))


def normalised(name: str) -> str:
    """One spelling of names that releases of transformers write differently.

    >>> normalised("vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias")
    'vision.encoder.layers.0.mlp.fc1.bias'
    >>> normalised("language_model.model.layers.0.mlp.up_proj.weight"), normalised("model.language_model.norm.weight")
    ('text.layers.0.mlp.up_proj.weight', 'text.norm.weight')
    >>> normalised("language_model.lm_head.weight"), normalised("lm_head.weight")
    ('head.weight', 'head.weight')
    """
    name = name.removeprefix("model.")
    for prefix, short in (
        ("vision_tower.vision_model.", "vision."),
        ("vision_tower.", "vision."),
        ("language_model.lm_head.", "head."),
        ("lm_head.", "head."),
        ("language_model.model.", "text."),
        ("language_model.", "text."),
        ("multi_modal_projector.", "projector."),
    ):
        if name.startswith(prefix):
            return short + name.removeprefix(prefix)
    return name


def published_name(name: str) -> str:
    """The spelling that the published folders have on disk."""
    for short, prefix in (
        ("vision.", "vision_tower.vision_model."),
        ("head.", "language_model.lm_head."),
        ("text.", "language_model.model."),
        ("projector.", "multi_modal_projector."),
    ):
        if name.startswith(short):
            return prefix + name.removeprefix(short)
    return name


def _vision(encoder: ViT) -> list[Rule]:
    width, patch, at = encoder.width, encoder.patch, "vision.embeddings"
    flat, conv = (width, 3 * patch**2), (width, 3, patch, patch)
    rules = [
        viewed("encoder.embed.weight", f"{at}.patch_embedding.weight", flat, conv),
        viewed("encoder.class_token", f"{at}.class_embedding", (1, width), (width,)),
        same("encoder.positions.weight", f"{at}.position_embedding.weight", encoder.side**2 + 1, width),
        *layer_norm("encoder.pre_norm", "vision.pre_layrnorm", width),
    ]
    for n in range(encoder.layers):
        ours, theirs = f"encoder.layers.{n}", f"vision.encoder.layers.{n}"
        rules += layer_norm(f"{ours}.norm1", f"{theirs}.layer_norm1", width)
        rules += layer_norm(f"{ours}.norm2", f"{theirs}.layer_norm2", width)
        for mine, name in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "out_proj")):
            rules += linear(f"{ours}.{mine}", f"{theirs}.self_attn.{name}", width, width)
        rules += linear(f"{ours}.up", f"{theirs}.mlp.fc1", encoder.mlp_width, width)
        rules += linear(f"{ours}.down", f"{theirs}.mlp.fc2", width, encoder.mlp_width)
    return [
        *rules,
        *(layer_norm("encoder.norm", "vision.post_layernorm", width) if encoder.feature_layer == -1 else []),
    ]


def _projector(model: ModelConfig, encoder: ViT) -> list[Rule]:
    width = model.decoder.width
    if isinstance(model.projector, LinearProjector):
        return linear("projector.layers.0", "projector.linear", width, encoder.width)
    first = linear("projector.layers.0", "projector.linear_1", width, encoder.width)
    return [*first, *linear("projector.layers.1", "projector.linear_2", width, width)]


def _decoder(decoder: DecoderConfig, vocabulary: int) -> list[Rule]:
    width, kv = decoder.width, (decoder.kv_heads or decoder.heads) * (decoder.width // decoder.heads)
    rows = -(-vocabulary // decoder.vocab_multiple) * decoder.vocab_multiple
    rules = [
        padded("decoder.embedding.weight", "text.embed_tokens.weight", rows, vocabulary, width),
        same("decoder.norm.weight", "text.norm.weight", width),
    ]
    if not decoder.tied_head:
        rules.append(padded("decoder.head.weight", "head.weight", rows, vocabulary, width))
    for n in range(decoder.layers):
        ours, theirs = f"decoder.layers.{n}", f"text.layers.{n}"
        rules.append(same(f"{ours}.norm1.weight", f"{theirs}.input_layernorm.weight", width))
        rules.append(same(f"{ours}.norm2.weight", f"{theirs}.post_attention_layernorm.weight", width))
        for mine, name, outputs, inputs in (
            ("q", "self_attn.q_proj", width, width),
            ("k", "self_attn.k_proj", kv, width),
            ("v", "self_attn.v_proj", kv, width),
            ("out", "self_attn.o_proj", width, width),
            ("gate", "mlp.gate_proj", decoder.mlp_width, width),
            ("up", "mlp.up_proj", decoder.mlp_width, width),
            ("down", "mlp.down_proj", width, decoder.mlp_width),
        ):
            rules += linear(f"{ours}.{mine}", f"{theirs}.{name}", outputs, inputs, bias=False)
    return rules
