"""Parameters of published models: transformers' own class, without its tensors, against the cost model and what is known."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cluster.cost.decoder import padded_vocabulary
from cluster.cost.parts import make_model, parameters_by_module
from configs.decoder import DecoderConfig
from pretrain.model.hf.families import family_of
from tests.families.originals import ORIGINALS

CLIP_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
INTERN_300M = {**CLIP_L, "image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True}
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
VICUNA = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
}
QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
MROPE = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
LLAMA_8B = {**VICUNA, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128259}


def _llava(t: Any, size: int = 4096, layers: int = 32, heads: int = 32, wide: int = 11008) -> Any:
    text = {**VICUNA, "hidden_size": size, "num_hidden_layers": layers, "intermediate_size": wide}
    text |= {"num_attention_heads": heads, "num_key_value_heads": heads}
    return t.LlavaConfig(vision_config=t.CLIPVisionConfig(**CLIP_L), text_config=t.LlamaConfig(**text))


def _llava_next(t: Any) -> Any:
    text = {**VICUNA, "intermediate_size": 14336, "num_key_value_heads": 8, "sliding_window": None}
    return t.LlavaNextConfig(vision_config=t.CLIPVisionConfig(**CLIP_L), text_config=t.MistralConfig(**text))


def _qwen2_vl(t: Any, **text: Any) -> Any:
    width = text.get("hidden_size", 3584)
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": width, "mlp_ratio": 4, "num_heads": 16}
    made = {**QWEN2_7B, **MROPE, **text}
    return t.Qwen2VLConfig(text_config=made, vision_config=vision, tie_word_embeddings=made["tie_word_embeddings"])


def _qwen2_5_vl(t: Any) -> Any:
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    return t.Qwen2_5_VLConfig(text_config={**QWEN2_7B, **MROPE}, vision_config=vision, tie_word_embeddings=False)


def _paligemma(t: Any) -> Any:
    vision = {
        **SIGLIP,
        "model_type": "siglip_vision_model",
        "patch_size": 14,
        "image_size": 224,
        "projection_dim": 2048,
    }
    text = {
        "model_type": "gemma",
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "vocab_size": 257216,
    }
    return t.PaliGemmaConfig(vision_config=vision, text_config=text, projection_dim=2048, image_token_index=257152)


def _blip2(t: Any) -> Any:
    text = {
        "model_type": "opt",
        "vocab_size": 50304,
        "hidden_size": 2560,
        "ffn_dim": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "word_embed_proj_dim": 2560,
        "max_position_embeddings": 2048,
    }
    return t.Blip2Config(
        vision_config=t.Blip2VisionConfig().to_dict(),
        qformer_config=t.Blip2QFormerConfig().to_dict(),
        text_config=text,
    )


def _internvl(t: Any) -> Any:
    text = {**QWEN2_7B, "model_type": "qwen2", "vocab_size": 151674}
    return t.InternVLConfig(vision_config=INTERN_300M, text_config=text, tie_word_embeddings=False)


def _idefics(t: Any, name: str, image: int, factor: int, **text: Any) -> Any:
    vision = {**SIGLIP, "image_size": image, "patch_size": 14}
    made = {**LLAMA_8B, "model_type": "llama", "pad_token_id": 2, "tie_word_embeddings": False, **text}
    return getattr(t, f"{name}Config")(
        vision_config=vision, text_config=made, scale_factor=factor, tie_word_embeddings=False
    )


SMALL = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_key_value_heads": 32}
TIED = {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2}
PUBLISHED: dict[str, tuple[str, Callable[[Any], Any], float]] = {
    # name: class, its configuration, billions of parameters as its model card says (in hundredths)
    "LLaVA-1.5 7B": ("Llava", _llava, 7.06),
    "LLaVA-1.5 13B": ("Llava", lambda t: _llava(t, 5120, 40, 40, 13824), 13.35),
    "LLaVA-NeXT Mistral 7B": ("LlavaNext", _llava_next, 7.57),
    "Qwen2-VL 7B": ("Qwen2VL", _qwen2_vl, 8.29),
    "Qwen2-VL 2B": ("Qwen2VL", lambda t: _qwen2_vl(t, **TIED, vocab_size=151936, tie_word_embeddings=True), 2.21),
    "Qwen2.5-VL 7B": ("Qwen2_5_VL", _qwen2_5_vl, 8.29),
    "PaliGemma 3B": ("PaliGemma", _paligemma, 2.92),
    "BLIP-2 OPT 2.7B": ("Blip2", _blip2, 3.74),
    "InternVL3 8B": ("InternVL", _internvl, 7.94),
    "Idefics3 8B": ("Idefics3", lambda t: _idefics(t, "Idefics3", 364, 2), 8.46),
    "SmolVLM 2.2B": ("SmolVLM", lambda t: _idefics(t, "SmolVLM", 384, 3, **SMALL, vocab_size=49280), 2.25),
}


def added(decoder: DecoderConfig) -> int:
    """Elements that pad the vocabulary."""
    assert decoder.vocab_size is not None
    rows = padded_vocabulary(decoder, decoder.vocab_size) - decoder.vocab_size
    return rows * decoder.width * (1 if decoder.tied_head else 2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_published_models(transformers: Any, name: str) -> None:
    kind, make, known = PUBLISHED[name]
    config = make(transformers)
    with torch.device("meta"):
        theirs = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    theirs.tie_weights()
    tree = config.to_dict()
    family = family_of(tree, name)
    model = family.model_of(tree)
    sizes = {family.normalised(key): value.numel() for key, value in theirs.named_parameters()}
    used = sum(size for key, size in sizes.items() if not family.left_aside(model, key))
    table = parameters_by_module(make_model(model, 0, 1, {}))
    assert sum(row["whole"] for row in table.values()) == used + added(model.decoder)
    # PaliGemma's class has SigLIP's pooling head, which its weights do not have.
    counted = used if kind == "PaliGemma" else sum(sizes.values())
    assert round(counted / 1e9, 2) == known


@pytest.mark.parametrize(("name", "known"), [("cogvlm", 17_639_685_376), ("qwen_vl", 9_656_935_168)])
def test_parameters_of_models_without_a_class(name: str, known: int) -> None:
    """As the sizes of their published files say, two bytes each."""
    config = ORIGINALS[name].PUBLISHED
    model = family_of(config, name).model_of(config)
    table = parameters_by_module(make_model(model, 0, 1, {}))
    assert sum(row["whole"] for row in table.values()) == known + added(model.decoder)
