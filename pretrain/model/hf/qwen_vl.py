"""Qwen-VL (arXiv 2308.12966): ViT-bigG of OpenCLIP, a resampler of 256 queries, Qwen-7B.

Transformers has no class for it: it leaves in the layout that it came in, its own code beside it. That code turns longer
texts than `seq_length` by other angles (dynamic NTK, log-n attention); here no text is longer.
"""

from configs.decoder import DecoderConfig
from configs.encoders import ViT
from configs.errors import UserError
from configs.model import ModelConfig
from configs.projectors import ResamplerProjector
from configs.resolutions import SquareResolution
from pretrain.model.hf.family import Config, Family, computed, only
from pretrain.model.hf.rules import Rows, Rule, fused, layer_norm, linear, same, turned, viewed
from pretrain.model.hf.text import MULTIPLE, vocabulary_rules
from pretrain.model.hf.towers import CLIP_MEAN, CLIP_STD

SPELLINGS = (("lm_head.", "head."), ("transformer.visual.", "vision."), ("transformer.", "text."))
TEXT: Config = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "intermediate_size": 22016,
    "layer_norm_epsilon": 1e-6,
    "seq_length": 2048,
    "max_position_embeddings": 8192,
    "rotary_emb_base": 10000,
    "no_bias": True,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "tie_word_embeddings": False,
}
"""What a config.json means where it is silent."""
VISION_EPS = 1e-6


def model_of(config: Config) -> ModelConfig:
    """The composition that a published config.json is.

    Raises:
        UserError: it has something that this family does not.
    """
    text = TEXT | {key: value for key, value in config.items() if value is not None}
    vision: Config = config["visual"]
    only(config, "rotary_pct", 1.0, 1.0)
    only(config, "scale_attn_weights", True, True)
    decoder = _decoder(text)
    only(vision, "output_dim", decoder.width, decoder.width)
    # The published vision tower is never told another number; tiny ones are.
    queries, patch, width = vision.get("n_queries", 256), vision["patch_size"], vision["width"]
    if width == decoder.width:
        raise UserError(
            f"config.json has a vision tower as wide as its language model ({width}), between which Qwen-VL has no "
            "projection: it cannot be imported"
        )
    encoder = ViT(
        patch=patch,
        image_size=round(queries**0.5) * patch,  # positions are learned for as many cells as there are queries
        width=width,
        depth=vision["layers"],
        heads=vision["heads"],
        mlp_width=int(width * vision["mlp_ratio"]),
        norm_eps=VISION_EPS,
        patch_bias=False,
        pre_norm=True,
        final_norm=False,
        pixel_mean=CLIP_MEAN,
        pixel_std=CLIP_STD,
    )
    return ModelConfig(
        encoder=encoder,
        resolution=SquareResolution(size=vision["image_size"]),
        projector=ResamplerProjector(queries=queries, heads=decoder.width // text["kv_channels"], norm_eps=VISION_EPS),
        decoder=decoder,
    )


def _decoder(text: Config) -> DecoderConfig:
    plain = not (text["use_dynamic_ntk"] or text["use_logn_attn"])
    return DecoderConfig(
        layers=text["num_hidden_layers"],
        width=text["hidden_size"],
        heads=text["num_attention_heads"],
        head_size=text["kv_channels"],
        mlp_width=text["intermediate_size"] // 2,
        qkv_bias=True,
        bias=not text["no_bias"],
        rope_theta=float(text["rotary_emb_base"]),
        norm_eps=text["layer_norm_epsilon"],
        tied_head=bool(text["tie_word_embeddings"]),
        vocab_size=text["vocab_size"],
        vocab_multiple=MULTIPLE,
        max_length=text["max_position_embeddings"] if plain else text["seq_length"],
    )


def rules_of(model: ModelConfig) -> list[Rule]:
    """All tensors of the composition; published names in short spelling."""
    assert isinstance(model.encoder, ViT)
    return [*_tower(model.encoder), *_resampler(model), *_text(model.decoder)]


def _tower(encoder: ViT) -> list[Rule]:
    width, patch, wide = encoder.width, encoder.patch, encoder.mlp_width
    flat, conv = (width, 3 * patch**2), (width, 3, patch, patch)
    rules = [viewed("encoder.embed.weight", "vision.conv1.weight", flat, conv)]
    rules.append(same("encoder.positions.weight", "vision.positional_embedding", encoder.side**2, width))
    rules += layer_norm("encoder.pre_norm", "vision.ln_pre", width)
    for n in range(encoder.layers):
        ours, theirs = f"encoder.layers.{n}", f"vision.transformer.resblocks.{n}"
        rules += layer_norm(f"{ours}.norm1", f"{theirs}.ln_1", width)
        rules += layer_norm(f"{ours}.norm2", f"{theirs}.ln_2", width)
        names = (f"{theirs}.attn.in_proj.weight", f"{theirs}.attn.in_proj.bias")
        parts = [f"{ours}.{part}" for part in "qkv"]
        rules += fused(parts, names, [width] * 3, width, rows=_head_by_head(encoder.heads, width))
        rules += linear(f"{ours}.out", f"{theirs}.attn.out_proj", width, width)
        rules += linear(f"{ours}.up", f"{theirs}.mlp.c_fc", wide, width)
        rules += linear(f"{ours}.down", f"{theirs}.mlp.c_proj", width, wide)
    return rules


def _head_by_head(heads: int, width: int) -> list[Rows]:
    """Rows of query, key and value where each head has its three together (Megatron's order)."""
    head = width // heads
    starts = range(0, 3 * width, 3 * head)
    return [tuple(start + at * head + i for start in starts for i in range(head)) for at in range(3)]


def _resampler(model: ModelConfig) -> list[Rule]:
    encoder, projector, width, at = model.encoder, model.projector, model.decoder.width, "vision.attn_pool"
    assert isinstance(encoder, ViT) and isinstance(projector, ResamplerProjector)
    names = (f"{at}.attn.in_proj_weight", f"{at}.attn.in_proj_bias")
    return [
        same("projector.queries", f"{at}.query", projector.queries, width),
        same("projector.positions", f"{at}.pos_embed", projector.queries, width),
        *linear("projector.inward", f"{at}.kv_proj", width, encoder.width, bias=False),
        *layer_norm("projector.norm_q", f"{at}.ln_q", width),
        *layer_norm("projector.norm_kv", f"{at}.ln_kv", width),
        *fused([f"projector.{part}" for part in "qkv"], names, [width] * 3, width),
        *linear("projector.out", f"{at}.attn.out_proj", width, width),
        *layer_norm("projector.norm", "vision.ln_post", width),
        turned("projector.outward.weight", "vision.proj", width, width),
    ]


def _text(decoder: DecoderConfig) -> list[Rule]:
    width, wide, mlp, bias = decoder.width, decoder.heads * decoder.head, decoder.mlp_width, decoder.bias
    rules = vocabulary_rules(decoder, "text.wte.weight", "head.weight")
    rules.append(same("decoder.norm.weight", "text.ln_f.weight", width))
    for n in range(decoder.layers):
        ours, theirs = f"decoder.layers.{n}", f"text.h.{n}"
        rules.append(same(f"{ours}.norm1.weight", f"{theirs}.ln_1.weight", width))
        rules.append(same(f"{ours}.norm2.weight", f"{theirs}.ln_2.weight", width))
        names = (f"{theirs}.attn.c_attn.weight", f"{theirs}.attn.c_attn.bias")
        rules += fused([f"{ours}.{part}" for part in "qkv"], names, [wide] * 3, width)
        rules += linear(f"{ours}.out", f"{theirs}.attn.c_proj", width, wide, bias)
        # The second is the one behind the activation.
        rules += linear(f"{ours}.up", f"{theirs}.mlp.w1", mlp, width, bias)
        rules += linear(f"{ours}.gate", f"{theirs}.mlp.w2", mlp, width, bias)
        rules += linear(f"{ours}.down", f"{theirs}.mlp.c_proj", width, mlp, bias)
    return rules


FAMILY = Family(
    model_of,
    rules_of,
    SPELLINGS,
    {short: prefix for prefix, short in SPELLINGS},
    lambda model, name: computed(name),
    template="qwen_vl",
)
