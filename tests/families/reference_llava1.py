"""LLaVA v1 (arXiv 2304.08485) for reference: CLIP ViT-L/14 at 224, one linear projector, Llama with full heads."""

from torch import nn

from tests.families.reference_parts import IMAGE, Config, Llava, greedy, logits, randomise

__all__ = ["IMAGE", "PUBLISHED", "TINY", "TOWERS", "build", "greedy", "logits", "make"]

PUBLISHED: Config = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "freeze_mm_mlp_adapter": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "mm_hidden_size": 1024,
    "mm_projector_type": "linear",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": True,
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14",
    "model_type": "llava",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "tune_mm_mlp_adapter": False,
    "use_cache": True,
    "use_mm_proj": True,
    "vocab_size": 32003,
}

TINY: Config = PUBLISHED | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "mm_hidden_size": 24,
    "mm_vision_tower": "tiny/clip-42",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "torch_dtype": "float32",
    "vocab_size": 331,
}

CLIP_L: Config = {
    "architectures": ["CLIPVisionModel"],
    "hidden_act": "quick_gelu",
    "hidden_size": 1024,
    "image_size": 224,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
}

# config.json of what `mm_vision_tower` names.
TOWERS: dict[str, Config] = {
    "openai/clip-vit-large-patch14": CLIP_L,
    "tiny/clip-42": CLIP_L
    | {
        "hidden_size": 24,
        "image_size": 42,
        "intermediate_size": 40,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
        "projection_dim": 16,
    },
}


def make(config: Config) -> nn.Module:
    """The model with whatever values torch gave it: for names and shapes."""
    return Llava(config, TOWERS[config["mm_vision_tower"]], nn.Linear(config["mm_hidden_size"], config["hidden_size"]))


def build(config: Config, seed: int) -> nn.Module:
    """The model with every tensor random."""
    model = make(config)
    randomise(model, seed)
    return model
